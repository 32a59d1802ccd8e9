"""Zones on pixels, against the centres of pixels asked one by one."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from alpage.engine import rasters
from alpage.engine.rasters import count_pixels
from alpage.product import Context, Zone
from alpage.products.lakes import WaterParameters, finish

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
