"""The two layouts of a release, for maps and for series: equal pixels, and few bytes for each."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives datasets their .rio
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from zarr.storage import LocalStore

from alpage.cube import layout as cube_layout
from alpage.cube.axes import axes_for
from alpage.cube.shards import ShardShape, ShardWriter, recut, time_first
from alpage.errors import CubeError
from alpage.grid import Grid
from alpage.product import Band, Layer, Observe, Product
from alpage.releases.publish import publish_release
from alpage.releases.pyramid import levels
from alpage.releases.validate import validate_node
from alpage.timeaxis import Calendar, covering

from .conftest import ABOUT, IDENTITY, NOISE_DAYS, NOISE_GRID, STATES, Published, begin


def test_levels_are_half_as_fine_and_keep_their_corner() -> None:
    found = levels(NOISE_GRID)
    assert [level.shape_yx for level in found] == [(600, 1111), (300, 556), (150, 278), (75, 139)]
    assert [level.transform.a for level in found] == [10, 20, 40, 80]
    assert {(level.transform.c, level.transform.f) for level in found} == {(600_000, 5_000_000)}


def test_tiles_of_odd_pixels_have_one_level_unless_they_are_alone() -> None:
    assert len(levels(Grid(NOISE_GRID.geobox, 75))) == 1
    assert len(levels(Grid(NOISE_GRID.geobox, 1111))) == 4


@pytest.mark.parametrize("path", ["day/ndvi", "season/duration"])
def test_quantities_are_the_means_that_xarray_tells(published: Published, path: str) -> None:
    group, name = path.split("/")
    slots = published.slots if group == "day" else [0]
    expected = published.pixels[path][slots]
    for number in range(4):
        with xr.open_zarr(
            published.store, group=f"maps/{group}/{number}", mask_and_scale=False
        ) as opened:
            level = opened[name].isel(time=slots).load()
        np.testing.assert_array_equal(level, expected)
        expected = _halved(level)


def _halved(finer: xr.DataArray) -> np.ndarray:
    fill = finer.attrs["_FillValue"]
    means = finer.where(finer != fill).coarsen(y=2, x=2, boundary="pad").mean()
    return np.floor(means + 0.5).fillna(fill).to_numpy()


# A layer may be called as Zarr calls its chunks; 64 tiles in a row take two turns.
ROW = Grid(GeoBox((40, 2100), NOISE_GRID.transform, "EPSG:32631"), 34)
LONE = Grid(GeoBox((301, 277), NOISE_GRID.transform, "EPSG:32631"), 301)


@pytest.mark.parametrize(("grid", "n_levels"), [(ROW, 5), (LONE, 2)], ids=["row", "lone"])
def test_small_and_odd_tiles_make_the_same_means(tmp_path: Path, grid: Grid, n_levels: int) -> None:
    layer = Layer("c", Calendar.DAY, "int16", -1, valid_range=(0, 9999))
    product = Product("noise", "1", (Observe("look", (Band("red"),), (layer,), lambda seen: {}),))
    period = covering(Calendar.DAY, "2020-01-05", "2020-03-25")
    layout = cube_layout.Layout(product, grid, axes_for(product, period, 96), (), {})
    identity = {**IDENTITY, "grid": grid.to_json(), "quarantined": {}}
    store, session, root = begin(str(tmp_path / "noise"), layout, identity)
    random = np.random.default_rng(6)
    noise = random.integers(-1, 9999, (2, *grid.shape_yx)).astype("int16")
    last = len(layout.axes[Calendar.DAY].span) - 1
    root["day/c"].oindex[[0, last]] = noise
    snapshot = session.commit("noise")
    about = replace(ABOUT, preview="", zones={})
    release = publish_release(store.url, snapshot, str(tmp_path / "out"), scenes=None, about=about)
    root = zarr.open_group(release.store, mode="r")
    np.testing.assert_array_equal(root["day/c"].oindex[[0, last]], noise)
    assert [name for name, _ in sorted(root["maps/day"].groups())] == list(
        map(str, range(n_levels))
    )
    expected = noise
    for number in range(n_levels):
        level = root[f"maps/day/{number}/c"].oindex[[0, last]]
        np.testing.assert_array_equal(level, expected)
        attributes = {"_FillValue": -1}
        expected = _halved(xr.DataArray(level, dims=("time", "y", "x"), attrs=attributes))


def test_a_damaged_shard_is_told_by_its_key() -> None:
    cut = ShardShape((64, 64, 64), (32, 64, 64), np.dtype("int16"), -1)
    writer = ShardWriter(cut)
    writer.add([0, 40], np.ones((2, 64, 64), dtype="int16"))
    content = writer.finish()
    assert content is not None
    assert recut("day/ndvi/c/0/0/0", bytes(content), cut, time_first(cut)) is not None
    content[:8] = b"no frame"
    with pytest.raises(CubeError, match=r"day/ndvi/c/0/0/0 is damaged.*roll the cube back"):
        recut("day/ndvi/c/0/0/0", bytes(content), cut, time_first(cut))


def test_codes_stay_codes(published: Published) -> None:
    seen = published.pixels["day/state"][published.slots]
    root = zarr.open_group(published.store, mode="r")
    np.testing.assert_array_equal(root["maps/day/0/state"].oindex[published.slots], seen)
    for number in (1, 2, 3):
        level = root[f"maps/day/{number}/state"].oindex[published.slots]
        assert set(np.unique(level)) <= set(STATES)
        # 2 x 2 codes of which three are equal have one mode.
        four = seen[:, : 2 * (seen.shape[1] // 2), : 2 * (seen.shape[2] // 2)]
        days, rows, columns = four.shape
        four = four.reshape(days, rows // 2, 2, columns // 2, 2).swapaxes(2, 3).reshape(-1, 4)
        inner = level[:, : rows // 2, : columns // 2].reshape(-1)
        for code in STATES[:3]:
            np.testing.assert_array_equal(inner[(four == code).sum(-1) >= 3], code)
        np.testing.assert_array_equal(inner == 255, (four == 255).all(-1))
        seen = level


def test_series_hold_the_cubes_pixels(published: Published) -> None:
    root = zarr.open_group(published.store, mode="r")
    for path, values in published.pixels.items():
        np.testing.assert_array_equal(root[path][:], values)
    assert root["day/ndvi"].chunks == (96, 64, 64)
    assert root["maps/day/0/ndvi"].chunks == (1, 256, 256)


def test_levels_lie_where_their_pixels_do(published: Published) -> None:
    with xr.open_zarr(published.store, group="maps/day/2", decode_coords="all") as level:
        transform = tuple(level["ndvi"].rio.transform())[:6]
        assert transform == (40, 0, 600_000, 0, -40, 5_000_000)
        assert level["ndvi"].rio.crs.to_epsg() == 32631
        assert level["ndvi"].attrs["cell_methods"] == "area: mean"
        assert level["state"].attrs["cell_methods"] == "area: mode"
        assert int((level["observed"] > 0).sum()) == len(NOISE_DAYS)
        # Of a square at full resolution the coarse one is where it was.
        square = level["ndvi"].sel(time=NOISE_DAYS[2]).stack(p=("y", "x")).dropna("p")
        assert float(square.x.mean()) == pytest.approx(600_000 + 10 * 1035, abs=20)
        assert float(square.y.mean()) == pytest.approx(5_000_000 - 10 * 525, abs=20)
        assert square.to_numpy() == pytest.approx(0.4321)


def test_the_pyramid_tells_of_its_levels(published: Published) -> None:
    document = json.loads((Path(published.store) / "maps/day/zarr.json").read_text())
    validate_node(document)
    told = document["attributes"]["multiscales"]
    # One of its layers is averaged, the other is not.
    assert "resampling_method" not in told
    assert [entry["asset"] for entry in told["layout"]] == ["0", "1", "2", "3"]
    assert told["layout"][2] == {
        "asset": "2",
        "derived_from": "1",
        "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]},
        "spatial:shape": [150, 278],
        "spatial:transform": [40.0, 0.0, 600_000.0, 0.0, -40.0, 5_000_000.0],
    }
    season = json.loads((Path(published.store) / "maps/season/zarr.json").read_text())
    assert season["attributes"]["multiscales"]["resampling_method"] == "average"
    for entry in told["layout"]:
        node = Path(published.store) / "maps/day" / entry["asset"]
        validate_node(json.loads((node / "zarr.json").read_text()))
    # A reader of the pyramid alone needs no request for each of its nodes.
    alone = zarr.open_consolidated(f"{published.store}/maps/day", mode="r", zarr_format=3)
    assert alone["3/ndvi"].shape[1:] == (75, 139)


def test_what_is_empty_is_not_written(published: Published) -> None:
    maps = Path(published.store) / "maps/day/0/ndvi/c"
    days = 32
    found = {str(path.relative_to(maps)) for path in maps.rglob("*") if path.is_file()}
    first, _, last = (slot // days for slot in published.slots)
    tiles = [(row, column) for row in range(2) for column in range(3)]
    assert found == {f"{first}/{row}/{column}" for row, column in tiles} | {f"{last}/1/2"}


class Counted(LocalStore):
    """A store that remembers what was asked of it, and how many bytes came."""

    def __init__(self, root: str) -> None:
        super().__init__(root, read_only=True)
        self.asked: list[tuple[str, int]] = []

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        if "/c/" in key and found is not None:
            assert byte_range is not None, "a whole shard was read"
            self.asked.append((key, len(found)))
        return found

    def get_sync(self, key: str, **asked: Any) -> Any:
        raise NotImplementedError("zarr reads otherwise than this counts")


def test_a_series_and_a_map_cost_little(published: Published) -> None:
    counted = Counted(published.store)
    root = zarr.open_group(counted, mode="r")
    series = root["day/ndvi"][:, 100, 100]
    np.testing.assert_array_equal(series, published.pixels["day/ndvi"][:, 100, 100])
    # Of each of its two shards the index, and one inner chunk of 64 x 64 pixels with two maps.
    assert len(counted.asked) <= 4
    assert sum(size for _, size in counted.asked) < 2 * 64 * 64 * 2 + 4000
    counted.asked.clear()
    slot = published.slots[0]
    root["maps/day/3/ndvi"][slot]
    # The whole area at a glance: an index and a square.
    assert len(counted.asked) == 2
    counted.asked.clear()
    root["maps/day/0/ndvi"][slot, :256, :256]
    assert len(counted.asked) == 2
    assert sum(size for _, size in counted.asked) < 256 * 256 * 2 + 4000


@pytest.mark.parametrize(
    ("shape", "inner"),
    [
        pytest.param(((192, 512, 512), (32, 128, 128)), (192, 64, 64), id="usual"),
        pytest.param(((3840, 512, 512), (32, 128, 128)), (3840, 16, 16), id="long"),
        pytest.param(((192, 1021, 1021), (32, 1021, 1021)), (32, 1021, 1021), id="prime"),
        pytest.param(((36, 512, 512), (36, 128, 128)), (36, 128, 128), id="whole"),
    ],
)
def test_series_are_cut_as_finely_as_they_are_long(shape: Any, inner: tuple[int, ...]) -> None:
    assert time_first(ShardShape(*shape, np.dtype("int16"), -1)).inner == inner
