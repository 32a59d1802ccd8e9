"""Archives of Landsat Collection 2, alone and with Sentinel-2, end to end.

No date of the real images under ../shared has a clear pixel, so these are drawn. Expected values
come of the published scale alone: reflectance = 2.75e-5 DN - 0.2 (USGS, Landsat Collection 2
Level-2), masked where QA_PIXEL has one of the bits 0 to 4 or QA_RADSAT is not 0.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds

from alpage import verbs
from alpage.cube.reader import open_cube
from alpage.simulate.files import write_cog
from alpage.simulate.spec import Tile
from alpage.study import Study, make_study

SIZE = 96
TILE = Tile("32TNQ", 32632, 500_010, 4_999_995, 3 * SIZE, 3 * SIZE)
BBOX = transform_bounds(TILE.crs, "EPSG:4326", *array_bounds(*TILE.shape, TILE.transform()))
CLEAR, FILL, DILATED, CIRRUS, CLOUD, SHADOW = 21824, 1, 21826, 54724, 22280, 23888
SATURATED_RED, CIRRUS_BAND, OCCLUDED = 1 << 3, 1 << 8, 1 << 11
Pixels = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Archive:
    """Scenes of one place, by day and sensor."""

    folder: Path
    pixels: dict[str, Pixels] = field(default_factory=dict)
    """By day, those of Landsat by asset."""

    def add(self, name: str, item: dict[str, Any], arrays: Pixels) -> None:
        """Write a scene's files and its item, and name it in the collection."""
        assets = {}
        for asset, array in arrays.items():
            path = self.folder / f"{name}_{asset}.TIF"
            write_cog(path, array, TILE, 128, nodata=1 if asset == "qa_pixel" else 0)
            assets[asset] = {"href": path.name}
        west, south, east, north = BBOX
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        item |= {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "bbox": BBOX,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "assets": assets,
            "links": [],
        }
        item["properties"]["proj:epsg"] = TILE.epsg
        (self.folder / f"{name}.json").write_text(json.dumps(item))
        links = [
            {"rel": "item", "href": f"./{path.name}"}
            for path in sorted(self.folder.glob("*.json"))
            if path.name != "collection.json"
        ]
        collection = {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": "drawn",
            "description": "Drawn scenes",
            "license": "CC0-1.0",
            "extent": {
                "spatial": {"bbox": [BBOX]},
                "temporal": {"interval": [["2020-05-01T00:00:00Z", None]]},
            },
            "links": links,
        }
        (self.folder / "collection.json").write_text(json.dumps(collection))

    def add_landsat(self, day: str, arrays: Pixels) -> None:
        """Write a scene of Landsat 8, taken at ten past ten."""
        properties = {"datetime": f"{day}T10:10:00Z", "platform": "LANDSAT_8"}
        name = f"LC08_L2SP_193029_{day.replace('-', '')}_20200824_02_T1"
        self.add(name, {"collection": "landsat-c2l2-sr", "properties": properties}, arrays)
        self.pixels[day] = arrays

    def add_sentinel(self, day: str, arrays: Pixels) -> None:
        """Write a scene of Sentinel-2, taken twenty minutes later."""
        properties = {
            "datetime": f"{day}T10:30:00Z",
            "platform": "sentinel-2a",
            "s2:processing_baseline": "02.14",
        }
        name = f"S2A_{TILE.mgrs}_{day.replace('-', '')}_0_L2A"
        self.add(name, {"collection": "sentinel-2-l2a", "properties": properties}, arrays)

    def study(self, cube: Path, scheduler: str, **changed: Any) -> Study:
        """NDVI of every date."""
        content = {
            "product": "vegetation",
            "area": {"bbox": BBOX},
            "period": "2020-05-01/2020-06-30",
            "archive": str(self.folder / "collection.json"),
            "cube": str(cube),
            "cluster": {"kind": "address", "address": scheduler},
        }
        return make_study(content | changed)


def _pixels(seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    shape = (SIZE, SIZE)
    qa = rng.choice([CLEAR, CLEAR, DILATED, CIRRUS, CLOUD, SHADOW, FILL], shape)
    saturation = rng.choice([0, 0, 0, SATURATED_RED, CIRRUS_BAND, OCCLUDED], shape)
    bands = {name: rng.integers(7_300, 30_000, shape) for name in ("red", "nir08")}
    for band in bands.values():
        band[qa == FILL] = 0
    saturation[qa == FILL] = 0
    whole = bands | {"qa_pixel": qa, "qa_radsat": saturation}
    return {name: array.astype("uint16") for name, array in whole.items()}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive without scenes."""
    folder = tmp_path / "archive"
    folder.mkdir()
    return Archive(folder)


@pytest.fixture
def landsat(archive: Archive) -> Archive:
    """Three dates of Landsat; of the last one qa_radsat is lost."""
    for number, day in enumerate(("2020-05-03", "2020-05-19", "2020-06-04")):
        archive.add_landsat(day, _pixels(number))
    del archive.pixels["2020-06-04"]["qa_radsat"]
    archive.add_landsat("2020-06-04", archive.pixels["2020-06-04"])
    return archive


def _ndvi(study: Study, pixel_m: int) -> xr.DataArray:
    """What a cube holds of the place of all scenes."""
    found = open_cube(study.cube).sel_observed("day")["ndvi"]
    centres = np.arange(SIZE * 30 // pixel_m) + 0.5
    x, y = TILE.transform(pixel_m) * (centres, centres)
    return found.sel(x=x, y=y, method="nearest", tolerance=0.1)


def test_ndvi_follows_the_published_scale_and_leaves_out_what_is_saturated(
    landsat: Archive, scheduler: str, tmp_path: Path
) -> None:
    study = landsat.study(tmp_path / "cube", scheduler)
    plan = verbs.plan(study)
    warned = {w for scene in plan.scenes.scenes for w in scene.warnings}
    assert warned == {"it has no qa_radsat asset: saturated pixels cannot be masked"}
    report = verbs.run(study, planned=plan)
    # One tile of each file: four of two dates, three of the last one.
    assert plan.bill.requests - plan.inspection.requests == report.requests == 11
    found = _ndvi(study, 30)
    for day, arrays in landsat.pixels.items():
        red, nir = (2.75e-5 * arrays[name] - 0.2 for name in ("red", "nir08"))
        is_masked = arrays["qa_pixel"] & 0b11111 != 0
        if day != "2020-06-04":
            is_masked |= arrays["qa_radsat"] != 0
        assert 0.2 < is_masked.mean() < 0.9
        expected = np.where(is_masked, np.nan, (nir - red) / (nir + red))
        np.testing.assert_allclose(found.sel(time=day), expected, atol=0.6e-4, err_msg=day)


def test_an_update_keeps_what_was_read_with_saturation(
    landsat: Archive, scheduler: str, tmp_path: Path
) -> None:
    verbs.run(landsat.study(tmp_path / "cube", scheduler, period="2020-05-01/2020-05-31"))
    longer = landsat.study(tmp_path / "cube", scheduler)
    plan = verbs.plan(longer)
    # Headers of the first two dates were kept, those of saturation among them.
    assert plan.inspection.requests == len(landsat.pixels["2020-06-04"])
    verbs.run(longer, planned=plan)
    verbs.run(landsat.study(tmp_path / "anew", scheduler))
    grown, anew = (open_cube(str(tmp_path / name)) for name in ("cube", "anew"))
    np.testing.assert_array_equal(grown["day/ndvi"], anew["day/ndvi"])


def test_the_finer_sensor_decides_on_pixels_whichever_comes_first(
    landsat: Archive, tmp_path: Path
) -> None:
    assert verbs.plan(landsat.study(tmp_path / "a", "tcp://none:1")).layout.grid.transform.a == 30
    bands = dict.fromkeys(("red", "nir"), np.full((3 * SIZE, 3 * SIZE), 2000, "uint16"))
    landsat.add_sentinel("2020-06-20", bands | {"scl": np.full((3 * SIZE, 3 * SIZE), 5, "uint8")})
    assert verbs.plan(landsat.study(tmp_path / "b", "tcp://none:1")).layout.grid.transform.a == 10


def test_another_pass_sees_the_ground_where_the_first_saw_clouds(
    archive: Archive, scheduler: str, tmp_path: Path
) -> None:
    """Sentinel-2 first, whose pixels are finer, though Landsat came before; each where it sees."""
    day, side = "2020-05-19", 3 * SIZE
    rng = np.random.default_rng(5)
    qa = rng.choice([CLEAR, CLOUD], (SIZE, SIZE)).astype("uint16")
    archive.add_landsat(
        day,
        {
            "red": np.full((SIZE, SIZE), 10_000, "uint16"),
            "nir08": np.full((SIZE, SIZE), 20_000, "uint16"),
            "qa_pixel": qa,
            "qa_radsat": np.zeros((SIZE, SIZE), "uint16"),
        },
    )
    fine = {
        name: rng.integers(300, 6_000, (side, side)).astype("uint16") for name in ("red", "nir")
    }
    fine["scl"] = rng.choice([4, 5, 9, 3, 0], (side, side)).astype("uint8")
    archive.add_sentinel(day, fine)
    study = archive.study(tmp_path / "cube", scheduler)
    verbs.run(study)
    found = _ndvi(study, 10).sel(time=day)
    red, nir = (fine[name].astype(float) for name in ("red", "nir"))
    # 0.075 and 0.35: ALGORITHMS.md's vectors of these numbers.
    beneath = np.where(qa == CLEAR, (0.35 - 0.075) / (0.35 + 0.075), np.nan)
    beneath = beneath.repeat(3, axis=0).repeat(3, axis=1)
    is_clear = np.isin(fine["scl"], (4, 5))
    np.testing.assert_allclose(
        found, np.where(is_clear, (nir - red) / (nir + red), beneath), atol=1.1e-4
    )
