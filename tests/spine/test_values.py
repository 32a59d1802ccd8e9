"""The cube's values depend on scenes and parameters alone, not on how the work is cut."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import from_bounds

import alpage
from alpage.clusters import open_cluster
from alpage.cube.ledger import BlockId
from alpage.engine.work import Work
from alpage.simulate.valley import Valley
from alpage.study import ClusterChoice

CUTS = ((512, 192), (48, 32), (32, 96))
EMPTY = -32768
# Fill, saturated, shadow, clouds and cirrus of Sentinel-2's scene classification.
UNCLEAR = (0, 1, 3, 8, 9, 10)


@pytest.mark.parametrize("product", ["monthly_ndvi", "snow", "lakes", "vegetation"])
def test_tiles_and_windows_leave_no_trace(
    product: str, study_of: Callable[..., Any], cells: Callable[..., Any], same_values: Any
) -> None:
    made = []
    for tile_px, window_days in CUTS:
        grid = {"tile_px": tile_px, "window_days": window_days}
        study = study_of(product, f"cube-{tile_px}", grid=grid)
        planned = alpage.plan(study)
        report = alpage.run(study, planned=planned)
        assert not report.quarantined
        # Scenes below others are read where a hole is left only, and neighbours as one, with the
        # few bytes that GDAL puts between them.
        assert report.requests <= planned.bill.requests - planned.inspection.requests
        read = planned.bill.read_bytes - planned.inspection.bytes
        assert 0.6 * read <= report.bytes_read <= 1.001 * read
        made.append(cells(study.cube))
    for path in made[0].values():
        assert (made[0].arrays[path] != made[0].fills[path]).any(), path
    for other in made[1:]:
        same_values(made[0], other)


@pytest.mark.parametrize("product", ["monthly_ndvi", "snow"])
def test_workers_order_and_batches_leave_no_trace(
    product: str,
    study_of: Callable[..., Any],
    cells: Callable[..., Any],
    same_values: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = study_of(product)
    alpage.run(usual)
    todo = Work.todo

    def shuffled(work: Work, step: str) -> list[BlockId]:
        blocks = todo(work, step)
        random.Random(step).shuffle(blocks)
        return blocks

    monkeypatch.setattr(Work, "todo", shuffled)
    # Room for less than a day, so that days go one by one.
    monkeypatch.setattr("alpage.engine.plan.batch_days", lambda *_: 1)
    with open_cluster(ClusterChoice(workers=1, memory_gib=3)) as client:
        cluster = {"kind": "address", "address": client.scheduler.address}
        other = study_of(product, "other", cluster=cluster)
        alpage.run(other)
    same_values(cells(usual.cube), cells(other.cube))


def test_aligned_scenes_are_never_touched(
    valley: Valley, study_of: Callable[..., Any], cells: Callable[..., Any]
) -> None:
    grid = {"crs": "EPSG:32631", "resolution": 10, "tile_px": 48, "window_days": 96}
    study = study_of("monthly_ndvi", grid=grid)
    alpage.run(study)
    cube = cells(study.cube)
    x, y = cube.arrays["day/x"], cube.arrays["day/y"]
    within = _within(valley, x, y)
    days = {int(day): slot for slot, day in enumerate(cube.arrays["day/time"])}
    compared = []
    for day, expected in _expected_ndvi(valley, x, y):
        seen = within & (expected != EMPTY)
        compared.append(int(seen.sum()))
        found = cube.arrays["day/ndvi"][days[day]]
        np.testing.assert_array_equal(found[seen], expected[seen])
    assert len(compared) == 13
    assert sum(compared) > 13 * within.sum() / 4


def _within(valley: Valley, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels well within the area: those on its border are decided elsewhere."""
    west, south, east, north = valley.bbox
    to_degrees = Transformer.from_crs(valley.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(*np.meshgrid(x, y))
    edge = 2e-5
    return (lon > west + edge) & (lon < east - edge) & (lat > south + edge) & (lat < north - edge)


def _expected_ndvi(
    valley: Valley, x: NDArray[Any], y: NDArray[Any]
) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Day and NDVI x 10^4 of each scene in the grid's own CRS, by rasterio and numpy alone."""
    newest: dict[str, Path] = {}
    for path in sorted(valley.archive.glob("items/*_31TGL_*/*.json")):
        newest[path.stem.split("_")[2]] = path
    for path in newest.values():
        item = json.loads(path.read_text())
        pixels: dict[str, NDArray[np.float64]] = {}
        for name in ("red", "nir", "scl"):
            asset = item["assets"][name]
            with rasterio.open(path.parent / asset["href"]) as image:
                size = abs(image.transform.a)
                repeat = round(size / 10)
                bounds = (x[0] - 5, y[-1] - 5, x[-1] + 5, y[0] + 5)
                # Whole pixels of the coarser band, then the part that is asked for.
                left, top = bounds[0] // size * size, -(-bounds[3] // size) * size
                right, bottom = -(-bounds[2] // size) * size, bounds[1] // size * size
                window = from_bounds(left, bottom, right, top, image.transform)
                dn = image.read(1, window=window, boundless=True, fill_value=0)
            dn = dn.repeat(repeat, axis=0).repeat(repeat, axis=1)
            row, column = round((top - bounds[3]) / 10), round((bounds[0] - left) / 10)
            pixels[name] = dn[row : row + len(y), column : column + len(x)].astype(np.float64)
            if name != "scl":
                band = asset["raster:bands"][0]
                pixels[f"{name} seen"] = pixels[name] != 0
                pixels[name] += round(band["offset"] / band["scale"])
        total = pixels["nir"] + pixels["red"]
        seen = pixels["red seen"] & pixels["nir seen"] & ~np.isin(pixels["scl"], UNCLEAR)
        seen = seen.astype(bool) & (total > 0)
        ratio = 1e4 * (pixels["nir"] - pixels["red"]) / np.where(seen, total, 1)
        ndvi = np.where(seen, np.clip(np.rint(ratio), -10000, 10000), EMPTY).astype(np.int16)
        day = np.datetime64(item["properties"]["datetime"][:10])
        yield int(day.astype(np.int64)), ndvi
