"""Tiles of a new cube: as the scenes' files are cut inside."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from pyproj import Transformer
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from alpage import verbs
from alpage.engine.relief import area_on
from alpage.errors import StudyError
from alpage.grid import project
from alpage.simulate.files import write_cog
from alpage.simulate.spec import Tile
from alpage.study import make_study

SIDE = 2500
BANDS = {"red": "uint16", "nir": "uint16", "scl": "uint8"}
CORNER = 300_000, 5_000_040


def archive(folder: Path, block_px: int, epsg: int = 32631) -> Path:
    """One scene of so many pixels, all bands cut in internal tiles of `block_px`."""
    tile = Tile("31TCL", epsg, *CORNER, SIDE, SIDE)
    for band, dtype in BANDS.items():
        pixels = np.full((SIDE, SIDE), {"red": 500, "nir": 3000, "scl": 4}[band], dtype)
        write_cog(folder / f"{band}.tif", pixels, tile, block_px, nodata=0)
    x, y = CORNER
    square = box(x, y - SIDE * 10, x + SIDE * 10, y)
    outline = project_back(square, epsg)
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": "S2A_31TCL_20200610_0_L2A",
        "geometry": outline.__geo_interface__, "bbox": list(outline.bounds), "links": [],
        "collection": "sentinel-2-l2a",
        "properties": {
            "datetime": "2020-06-10T10:30:00Z", "platform": "sentinel-2a",
            "constellation": "sentinel-2", "proj:code": f"EPSG:{epsg}",
            "s2:processing_baseline": "02.14", "grid:code": "MGRS-31TCL",
        },
        "assets": {
            band: {"href": f"./{band}.tif", "roles": ["data"]} for band in BANDS
        },
    }  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
    collection = {
        "type": "Collection", "stac_version": "1.1.0", "id": "sentinel-2-l2a",
        "description": "one scene", "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [list(outline.bounds)]},
                   "temporal": {"interval": [["2020-06-10T00:00:00Z", "2020-06-11T00:00:00Z"]]}},
        "links": [{"rel": "item", "href": "./item.json", "type": "application/geo+json"}],
    }  # fmt: skip
    (folder / "collection.json").write_text(json.dumps(collection))
    return folder / "collection.json"


def project_back(square: BaseGeometry, epsg: int = 32631) -> BaseGeometry:
    """The square in EPSG:4326."""
    to_degrees = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    return shapely.transform(shapely.segmentize(square, 500), to_degrees, interleaved=False)


@pytest.mark.parametrize(
    ("block_px", "cluster", "expected"),
    [
        pytest.param(256, {}, 1024, id="sixteen"),
        pytest.param(512, {}, 1024, id="four"),
        pytest.param(1024, {}, 1024, id="as-they-are"),
        pytest.param(512, {"workers": 3}, 512, id="for-more-workers"),
        pytest.param(512, {"memory_gib": 1}, 512, id="for-small-workers"),
        pytest.param(256, {"workers": 3}, 512, id="smaller"),
    ],
)
def test_tiles_line_up_with_the_files(
    tmp_path: Path, block_px: int, cluster: dict[str, int], expected: int
) -> None:
    collection = archive(tmp_path, block_px)
    x, y = CORNER
    # Begins and ends within internal tiles.
    wanted = box(x + 3_000, y - 19_000, x + 19_000, y - 3_000)
    west, south, east, north = project_back(wanted).bounds
    content = {
        "product": "vegetation",
        "area": {"bbox": [west, south, east, north]},
        "period": "2020-06-01/2020-06-30",
        "archive": str(collection),
        "cube": str(tmp_path / "cube"),
        "cluster": cluster,
    }
    study = make_study(content, folder=tmp_path)
    plan = verbs.plan(study)
    grid = plan.layout.grid
    assert grid.tile_px == expected
    aligned_m = 10 * max(block_px, 512)
    assert (grid.transform.c - x) % aligned_m == 0 == (y - grid.transform.f) % aligned_m
    # Nothing is computed but what was asked for.
    asked = project(study.geometry(), grid.crs)
    left, bottom, right, top = area_on(study, grid).bounds
    assert np.abs(np.subtract((left, bottom, right, top), asked.bounds)).max() < 10
    # Each internal tile under the grid is asked for once, of each of the three files.
    tiles = np.prod([-(-pixels // block_px) for pixels in grid.shape_yx])
    assert plan.bill.requests - plan.inspection.requests == 3 * tiles
    apart = content | {"cube": str(tmp_path / "other"), "grid": {"tile_px": expected}}
    unaligned = verbs.plan(make_study(apart, folder=tmp_path)).bill
    assert unaligned.amplification > 1.5 * plan.bill.amplification


@pytest.mark.parametrize(
    ("side_m", "expected"), [(1_000, 512), (9_000, 1024)], ids=["scattered", "filled"]
)
def test_tiles_stay_small_where_large_ones_hold_more_of_nothing(
    tmp_path: Path, side_m: float, expected: int
) -> None:
    """Four lakes, each in a corner of two by two tiles of 1024 pixels."""
    collection = archive(tmp_path, 512)
    x, y = CORNER
    begins = [(a, b) for a in (100, 19_900 - side_m) for b in (100, 19_900 - side_m)]
    lakes = [box(x + a, y - b - side_m, x + a + side_m, y - b) for a, b in begins]
    area = shapely.MultiPolygon([project_back(lake) for lake in lakes])
    (tmp_path / "lakes.geojson").write_text(shapely.to_geojson(area))
    content = {
        "product": "vegetation",
        "area": {"file": "lakes.geojson"},
        "period": "2020-06-01/2020-06-30",
        "archive": str(collection),
        "cube": str(tmp_path / "cube"),
    }
    plan = verbs.plan(make_study(content, folder=tmp_path))
    assert plan.layout.grid.tile_px == expected
    assert len(plan.work.tiles) == 4


def test_scenes_in_a_crs_that_tells_no_areas_need_another(tmp_path: Path) -> None:
    collection = archive(tmp_path, 512, 3857)
    west, south, *_ = project_back(box(310_000, 4_990_000, 311_000, 4_991_000), 3857).bounds
    asked = {
        "product": "vegetation",
        "area": {"bbox": [west, south, west + 0.02, south + 0.02]},
        "period": "2020-06-01/2020-06-30",
        "archive": str(collection),
        "cube": str(tmp_path / "cube"),
    }
    with pytest.raises(StudyError, match="the scenes are in EPSG:3857, expected a CRS that nearly"):
        verbs.plan(make_study(asked))
    grid = {"grid": {"crs": "EPSG:32631", "resolution": 10}}
    assert verbs.plan(make_study(asked | grid)).bill.n_blocks > 0
