"""Zones on pixels, against the centres of pixels asked one by one."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning

from alpage.engine import rasters
from alpage.engine.rasters import count_pixels, elevation_header, inside, read_elevation
from alpage.engine.storage import ReadCounters
from alpage.product import Context, Zone
from alpage.products.lakes import WaterParameters, finish

Floats = NDArray[np.float64]
BOX = GeoBox.from_bbox((0, 0, 800, 600), "EPSG:32631", resolution=20)


@settings(max_examples=60)
@given(
    corner_xy=st.tuples(st.floats(-300, 900), st.floats(-300, 700)),
    size_xy=st.tuples(st.floats(1, 700), st.floats(1, 700)),
    turn=st.floats(0, 90),
)
def test_pixels_are_those_whose_centre_lies_within(
    corner_xy: tuple[float, float], size_xy: tuple[float, float], turn: float
) -> None:
    (x, y), (wide, high) = corner_xy, size_xy
    zone = shapely.affinity.rotate(shapely.box(x, y, x + wide, y + high), turn)
    centres = np.arange(-2000 + 10, 3000, 20)
    near = shapely.contains_xy(zone.buffer(-1e-6), *np.meshgrid(centres, centres)).sum()
    far = shapely.contains_xy(zone.buffer(1e-6), *np.meshgrid(centres, centres)).sum()
    with pytest.MonkeyPatch.context() as patch:
        # Burnt in several parts.
        patch.setattr(rasters, "COUNTED_PX", 16)
        assert near <= count_pixels(zone, BOX) <= far


@pytest.mark.parametrize("width_m", [30, 50, 70])
def test_a_narrow_lake_that_is_seen_whole_has_an_area(width_m: int) -> None:
    """Narrower than some pixels: by its polygon's area it would never be seen whole."""
    for turn in range(0, 180, 7):
        lake = shapely.affinity.rotate(shapely.box(100, 300, 700, 300 + width_m), turn)
        pixels = count_pixels(lake, BOX)
        zone = Zone("a", "a", lake.area, pixels)
        wet = np.array([[[pixels, 0, 0, 0]]])
        series = finish(wet, Context(WaterParameters(), 400.0, zones=(zone,)))
        assert series["invalid_fraction"] == 0
        assert series["water_area"] == pixels * 400


def rise(lon: Floats, lat: Floats) -> Floats:
    """Elevation that is linear in degrees but at 0 and 180 degrees, and the same on both sides."""
    return 10 * np.abs((lon + 180) % 360 - 180) + 7 * lat


@pytest.fixture(scope="module")
def globes(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> Path:
    """A folder with rasters of one degree over the globe, named by where they begin."""
    folder = tmp_path_factory.mktemp("globes")
    for west in (-180, 0):
        lon, lat = np.meshgrid(west + 0.5 + np.arange(360), 89.5 - np.arange(180))
        transform = Affine(1, 0, west, 0, -1, 90)
        pixels = rise(lon, lat).astype("float32")
        write_tif(folder / f"{west}.tif", pixels, transform=transform, crs="EPSG:4326")
    return folder


@pytest.mark.parametrize("west", [-180, 0])
@pytest.mark.parametrize("zone", range(1, 61))
def test_elevation_of_the_whole_globe_serves_every_utm_zone(
    zone: int, west: int, globes: Path
) -> None:
    # Over the zone's western edge: zone 1 across 180 degrees.
    edges = 220_000, 5_000_000, 320_000, 5_100_000
    box = GeoBox.from_bbox(edges, f"EPSG:{32600 + zone}", resolution=5000)
    header = elevation_header(str(globes / f"{west}.tif"), box, ReadCounters())
    found = read_elevation(header, box, ReadCounters())
    x, y = np.meshgrid(*(box.coordinates[name].values for name in ("x", "y")))
    to_degrees = pyproj.Transformer.from_crs(str(box.crs), "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    plain = np.abs((lon + 90) % 180 - 90) > 0.5
    assert plain.any()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[plain], rise(lon, lat)[plain], atol=0.01)


def test_threads_that_burn_at_once_are_silent_and_right() -> None:
    box = GeoBox.from_bbox((0, 0, 5120, 5120), "EPSG:32631", resolution=10)
    circle = shapely.Point(2000, 2000).buffer(1500)
    alone = inside(circle, box)
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("error", NotGeoreferencedWarning)
        for together in pool.map(lambda _: inside(circle, box), range(2000)):
            np.testing.assert_array_equal(together, alone)
