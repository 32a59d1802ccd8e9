"""Scenes laid over one tile, against the same laid by numpy."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from alpage.archive.sensors import QUALITY
from alpage.engine.imagery import read_batches
from alpage.engine.inspect import BandSource, SceneSource
from alpage.engine.storage import ReadCounters
from alpage.engine.tiff import read_header
from alpage.errors import SceneError
from alpage.product import Band
from alpage.science.masks import Quality, scl_table

BOX = GeoBox((40, 50), Affine(10, 0, 600_000, 0, -10, 5_100_000), "EPSG:32632")
BANDS = (Band("red"), Band("nir"))
HIDDEN = Quality.CLOUD | Quality.CIRRUS | Quality.SHADOW


@pytest.fixture
def scene(tmp_path: Path, write_tif: Callable[..., Path]) -> Callable[..., SceneSource]:
    """Return a function that writes a scene of random pixels with holes, and its arrays."""

    def make(
        name: str, day: str, seed: int, *, offset: float = 0.0, nodata: int = 0, overpass: str = ""
    ) -> tuple[SceneSource, dict[str, Any]]:
        rng = np.random.default_rng(seed)
        pixels = {band.name: rng.integers(1, 9000, (40, 50)).astype("uint16") for band in BANDS}
        pixels[QUALITY] = rng.choice([4, 5, 8, 11, 3, 10], (40, 50)).astype("uint8")
        for array in pixels.values():
            array[rng.random((40, 50)) < 0.2] = 0
        sources = {}
        for band, array in pixels.items():
            empty = 0 if band == QUALITY else nodata
            stored = np.where(array == 0, empty, array).astype(array.dtype)
            path = tmp_path / f"{name}-{band}.tif"
            write_tif(path, stored, transform=BOX.transform, nodata=empty)
            sources[band] = BandSource(read_header(str(path)), 1.0, offset, empty)
        return SceneSource(name, np.datetime64(day, "D"), overpass, "scl", sources), pixels

    return make


def laid(days: list[list[tuple[SceneSource, dict[str, Any]]]]) -> tuple[dict[str, Any], Any]:
    """What comes of days of scenes, pixel by pixel."""
    bands = {band.name: np.zeros((len(days), 40, 50), "uint16") for band in BANDS}
    quality = np.full((len(days), 40, 50), Quality.FILL, "uint8")
    table = scl_table()
    for t, scenes in enumerate(days):
        for y, x in np.ndindex(40, 50):
            for source, pixels in scenes:
                whole = all(pixels[band.name][y, x] for band in BANDS) and pixels[QUALITY][y, x]
                is_other = source.overpass != scenes[0][0].overpass
                seen, told = pixels[QUALITY][y, x] in (4, 5, 11), quality[t, y, x]
                is_lifted = is_other and seen and told & HIDDEN
                if whole and (told == Quality.FILL or is_lifted):
                    for band in BANDS:
                        bands[band.name][t, y, x] = pixels[band.name][y, x]
                    quality[t, y, x] = table[pixels[QUALITY][y, x]]
    return bands, quality


@pytest.mark.parametrize("overpass", ["", "sentinel-2b 80"], ids=["one-pass", "two-passes"])
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("nodata", [0, 9999])
def test_the_first_whole_pixel_of_a_day_is_taken(
    scene: Callable[..., Any], batch: int, nodata: int, overpass: str
) -> None:
    """Or that of another pass, where this saw the ground and the first one clouds."""
    made = [
        [scene("a", "2020-05-01", 1, nodata=nodata)],
        [
            scene("b", "2020-05-04", 2, nodata=nodata),
            scene("c", "2020-05-04", 3),
            scene("d", "2020-05-04", 4, overpass=overpass),
        ],
        [scene("e", "2020-05-09", 5), scene("f", "2020-05-09", 6, overpass=overpass)],
        [scene("g", "2020-05-11", 7)],
    ]
    days = [(scenes[0][0].day, tuple(source for source, _ in scenes)) for scenes in made]
    batches = [days[start : start + batch] for start in range(0, len(days), batch)]
    bands, quality = laid(made)
    counters, seen = ReadCounters(), 0
    for imagery in read_batches(batches, BANDS, BOX, counters):
        part = slice(seen, seen + len(imagery.days))
        for name, array in imagery.bands.items():
            np.testing.assert_array_equal(array, bands[name][part], name)
        np.testing.assert_array_equal(imagery.quality, quality[part])
        seen = part.stop
    assert seen == len(days)
    assert counters.requests == 3 * sum(map(len, made))


def test_scenes_of_one_day_are_brought_to_the_lowest_offset(scene: Callable[..., Any]) -> None:
    (first, own), (second, below) = (
        scene("a", "2022-05-01", 1, offset=0.0),
        scene("b", "2022-05-01", 2, offset=-1000.0),
    )
    (imagery,) = read_batches([[(first.day, (first, second))]], BANDS, BOX, ReadCounters())
    for band in own:
        if band != QUALITY:
            own[band] = np.where(own[band] == 0, 0, own[band] + 1000).astype("uint16")
    bands, _ = laid([[(first, own), (second, below)]])
    np.testing.assert_array_equal(imagery.bands["red"], bands["red"])
    assert imagery.offsets["red"].tolist() == [-1000.0]


def test_what_is_darker_than_nothing_was_measured(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    stored = np.full((40, 50), 700, "int16")
    stored[0, :6] = -9999, -12, 0, 1, -32768, 32767
    classes = np.full((40, 50), 4, "uint8")
    bands = {band.name: (stored, -9999) for band in BANDS} | {QUALITY: (classes, 0)}
    sources = {}
    for name, (pixels, nodata) in bands.items():
        path = write_tif(tmp_path / f"{name}.tif", pixels, transform=BOX.transform, nodata=nodata)
        sources[name] = BandSource(read_header(str(path)), 1.0, 0.0, nodata)
    scene = SceneSource("a", np.datetime64("2022-05-01", "D"), "", "scl", sources)
    (imagery,) = read_batches([[(scene.day, (scene,))]], BANDS, BOX, ReadCounters())
    numbers = imagery.bands["red"][0, 0, :7].astype(int)
    # Of the lowest number alone one is lost: 0 stands for an empty pixel.
    measured = numbers * imagery.gains["red"][0] + imagery.offsets["red"][0]
    assert measured.tolist()[1:] == [-12, 0, 1, -32767, 32767, 700]
    assert numbers[0] == 0
    assert (imagery.quality[0, 0, :7] & Quality.FILL != 0).tolist() == [True, *[False] * 6]


def test_nodata_that_only_the_item_tells_is_no_pixel(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    """Half a scene, between whose pixels those of the block lie, with nodata in file or item."""
    stored, classes = np.full((60, 60), 2000, "uint16"), np.full((60, 60), 4, "uint8")
    stored[:, :20], classes[:, :20] = 0, 0
    between = BOX.transform * Affine.translation(0.3, 0.3)
    laid_by = {}
    for nodata in (0, None):
        sources = {}
        for name, pixels in (("red", stored), ("nir", stored), (QUALITY, classes)):
            path = tmp_path / f"{name}-{nodata}.tif"
            write_tif(path, pixels, transform=between, nodata=nodata)
            sources[name] = BandSource(read_header(str(path)), 1.0, 0.0, 0.0)
        scene = SceneSource("a", np.datetime64("2022-05-01", "D"), "", "scl", sources)
        (imagery,) = read_batches([[(scene.day, (scene,))]], BANDS, BOX, ReadCounters())
        seen = imagery.quality[0] & Quality.FILL == 0
        assert seen.any()
        assert set(imagery.bands["red"][0][seen]) == {2000}
        laid_by[nodata] = imagery.bands["red"].copy(), imagery.quality.copy()
    for told, assumed in zip(laid_by[0], laid_by[None], strict=True):
        np.testing.assert_array_equal(told, assumed)


def test_what_is_no_scene_class_is_fill(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    classes = np.full((40, 50), 4, "uint16")
    classes[0, :4] = 42, 256, 300, 65535
    sources = {}
    for name, pixels in (
        *((band.name, np.full((40, 50), 700, "uint16")) for band in BANDS),
        (QUALITY, classes),
    ):
        path = write_tif(tmp_path / f"{name}.tif", pixels, transform=BOX.transform)
        sources[name] = BandSource(read_header(str(path)), 1.0, 0.0, 0.0)
    scene = SceneSource("a", np.datetime64("2022-05-01", "D"), "", "scl", sources)
    (imagery,) = read_batches([[(scene.day, (scene,))]], BANDS, BOX, ReadCounters())
    assert (imagery.quality[0, 0, :5] & Quality.FILL != 0).tolist() == [True] * 4 + [False]


def test_a_scene_that_goes_away_is_named(scene: Callable[..., Any]) -> None:
    (first, _), (second, _) = scene("a", "2022-05-01", 1), scene("b", "2022-05-02", 2)
    Path(second.bands["nir"].header.href).unlink()
    batches = [[(one.day, (one,))] for one in (first, second)]
    with pytest.raises(SceneError, match=r"scene b: band nir: .*does not exist any more"):
        list(read_batches(batches, BANDS, BOX, ReadCounters()))


def test_a_header_travels_as_one_buffer(scene: Callable[..., Any]) -> None:
    header = scene("a", "2022-05-01", 1)[0].bands["red"].header
    buffers: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(header, protocol=5, buffer_callback=buffers.append)
    assert not buffers
    again = pickle.loads(packed)
    assert again.to_bytes() == header.to_bytes()
    assert pickle.loads(packed) is again
