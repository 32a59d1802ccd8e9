"""An archive of Landsat Collection 2 items: reflectance, clouds and saturation, end to end.

No date of the real images under ../shared has a clear pixel, so these are drawn. Expected values
come of the published scale alone: reflectance = 2.75e-5 DN - 0.2 (USGS, Landsat Collection 2
Level-2), masked where QA_PIXEL has one of the bits 0 to 4 or QA_RADSAT is not 0.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from alpage import verbs
from alpage.cube.reader import open_cube
from alpage.study import Study, make_study

SIZE = 96
PLACE = Affine(30, 0, 500_010, 0, -30, 4_999_995)
CRS = "EPSG:32632"
CLEAR, FILL, DILATED, CIRRUS, CLOUD, SHADOW = 21824, 1, 21826, 54724, 22280, 23888
SATURATED_RED, CIRRUS_BAND, OCCLUDED = 1 << 3, 1 << 8, 1 << 11
ASSETS = {"red": "SR_B4", "nir08": "SR_B5", "qa_pixel": "QA_PIXEL", "qa_radsat": "QA_RADSAT"}


@dataclass(frozen=True)
class Landsat:
    """An archive, and its pixels by date and asset."""

    folder: Path
    pixels: dict[str, dict[str, NDArray[np.uint16]]]

    def study(self, cube: Path, scheduler: str, **changed: Any) -> Study:
        """NDVI of every date."""
        box = rasterio.transform.array_bounds(SIZE, SIZE, PLACE)
        content = {
            "product": "vegetation",
            "area": {"bbox": transform_bounds(CRS, "EPSG:4326", *box)},
            "period": "2020-05-01/2020-06-30",
            "archive": str(self.folder / "collection.json"),
            "cube": str(cube),
            "cluster": {"kind": "address", "address": scheduler},
        }
        return make_study(content | changed)


def _pixels(seed: int) -> dict[str, NDArray[np.uint16]]:
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
def landsat(tmp_path: Path, write_cog: Callable[..., None]) -> Landsat:
    folder = tmp_path / "archive"
    folder.mkdir()
    pixels = {"2020-05-03": _pixels(1), "2020-05-19": _pixels(2), "2020-06-04": _pixels(3)}
    links = []
    west, south, east, north = transform_bounds(
        CRS, "EPSG:4326", *rasterio.transform.array_bounds(SIZE, SIZE, PLACE)
    )
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    for day, arrays in pixels.items():
        name = f"LC08_L2SP_193029_{day.replace('-', '')}_20200824_02_T1"
        assets = {}
        for asset, array in arrays.items():
            path = folder / f"{name}_{ASSETS[asset]}.TIF"
            write_cog(path, array, nodata=1 if asset == "qa_pixel" else 0)
            assets[asset] = {"href": path.name}
        # The last one's is lost: it is read without.
        if day == "2020-06-04":
            del assets["qa_radsat"]
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "collection": "landsat-c2l2-sr",
            "bbox": [west, south, east, north],
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "datetime": f"{day}T10:10:00Z",
                "platform": "LANDSAT_8",
                "proj:epsg": 32632,
            },
            "assets": assets,
            "links": [],
        }
        (folder / f"{name}.json").write_text(json.dumps(item))
        links.append({"rel": "item", "href": f"./{name}.json"})
    collection = {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": "landsat-c2l2-sr",
        "description": "Drawn Landsat",
        "license": "CC0-1.0",
        "extent": {
            "spatial": {"bbox": [[west, south, east, north]]},
            "temporal": {"interval": [["2020-05-01T00:00:00Z", None]]},
        },
        "links": links,
    }
    (folder / "collection.json").write_text(json.dumps(collection))
    return Landsat(folder, pixels)


@pytest.fixture
def write_cog() -> Callable[..., None]:
    def write(path: Path, array: NDArray[np.uint16], nodata: int) -> None:
        height, width = array.shape
        with rasterio.open(
            path,
            "w",
            driver="COG",
            height=height,
            width=width,
            count=1,
            dtype="uint16",
            crs=CRS,
            transform=PLACE,
            nodata=nodata,
            compress="deflate",
            blocksize=128,
        ) as image:
            image.write(array, 1)

    return write


def test_ndvi_follows_the_published_scale_and_leaves_out_what_is_saturated(
    landsat: Landsat, scheduler: str, tmp_path: Path
) -> None:
    study = landsat.study(tmp_path / "cube", scheduler)
    plan = verbs.plan(study)
    warned = {w for scene in plan.scenes.scenes for w in scene.warnings}
    assert warned == {"it has no qa_radsat asset: saturated pixels cannot be masked"}
    report = verbs.run(study, planned=plan)
    # One tile of each file: four of two dates, three of the last one.
    assert plan.bill.requests - plan.inspection.requests == report.requests == 11
    found = open_cube(study.cube).sel_observed("day")["ndvi"]
    x, y = PLACE * (np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    found = found.sel(x=x, y=y, method="nearest", tolerance=0.1)
    for day, arrays in landsat.pixels.items():
        red, nir = (2.75e-5 * arrays[name] - 0.2 for name in ("red", "nir08"))
        is_masked = arrays["qa_pixel"] & 0b11111 != 0
        if day != "2020-06-04":
            is_masked |= arrays["qa_radsat"] != 0
        assert 0.2 < is_masked.mean() < 0.9
        expected = np.where(is_masked, np.nan, (nir - red) / (nir + red))
        np.testing.assert_allclose(found.sel(time=day), expected, atol=0.6e-4, err_msg=day)


def test_an_update_keeps_what_was_read_with_saturation(
    landsat: Landsat, scheduler: str, tmp_path: Path
) -> None:
    verbs.run(landsat.study(tmp_path / "cube", scheduler, period="2020-05-01/2020-05-31"))
    longer = landsat.study(tmp_path / "cube", scheduler)
    plan = verbs.plan(longer)
    # Headers of the first two dates were kept, those of saturation among them.
    assert plan.inspection.requests == len(ASSETS) - 1
    verbs.run(longer, planned=plan)
    verbs.run(landsat.study(tmp_path / "anew", scheduler))
    grown, anew = (open_cube(str(tmp_path / name)) for name in ("cube", "anew"))
    np.testing.assert_array_equal(grown["day/ndvi"], anew["day/ndvi"])
