"""Footprints: what is refused, and the antimeridian."""

from typing import Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box, mapping

from alpage.archive.footprint import centre_longitude, cut_at_antimeridian, read_footprint


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (None, "no geometry"),
        ({}, "no geometry"),
        ({"type": "Polygon", "coordinates": []}, "empty"),
        ({"type": "GeometryCollection", "geometries": []}, "empty"),
        ({"type": "Point", "coordinates": [7, 45]}, "without area"),
        ({"type": "LineString", "coordinates": [[7, 45], [8, 46]]}, "without area"),
        (
            {"type": "Polygon", "coordinates": [[[7, 45], [8, 46], [7, 45], [7, 45]]]},
            "without area",
        ),
        ({"type": "Blob", "coordinates": []}, "not GeoJSON"),
        ({"type": "Polygon"}, "not GeoJSON"),
        ({"type": "Polygon", "coordinates": [[["a", 1], [2, 2], [3, 3], ["a", 1]]]}, "not GeoJSON"),
    ],
)
def test_what_is_no_area_is_refused(geometry: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_footprint(geometry)


def test_a_bow_tie_is_mended_and_heights_dropped() -> None:
    ring = [[0, 0, 5], [1, 1, 5], [1, 0, 5], [0, 1, 5], [0, 0, 5]]
    footprint = read_footprint({"type": "Polygon", "coordinates": [ring]})
    assert footprint.is_valid
    assert not footprint.has_z
    assert footprint.area == pytest.approx(0.5)


def test_real_antimeridian_tile(items: Any) -> None:
    name = "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE"
    item = items(f"data/stac-items/safe-to-stac/{name}/expected_output.json")[0]
    footprint = read_footprint(item["geometry"])
    assert footprint.bounds[0] == -180
    assert footprint.bounds[2] == 180
    # The converter's own centroid, and the footprint as wide as a granule, not as the globe.
    assert centre_longitude(footprint) == pytest.approx(
        item["properties"]["proj:centroid"]["lon"], abs=0.6
    )
    assert footprint.area < 5
    # The same outline as catalogues that do not cut it write it.
    uncut = shapely.transform(footprint, lambda points: points + [[360, 0]] * (points[:, :1] < 0))
    merged = shapely.union_all(shapely.get_parts(uncut))
    wrapped = shapely.transform(merged, lambda points: points - [[360, 0]] * (points[:, :1] > 180))
    assert wrapped.geom_type == "Polygon"
    assert read_footprint(mapping(wrapped)).symmetric_difference(footprint).area < 1e-9


@given(st.floats(-180, 180), st.floats(0.1, 8), st.booleans())
def test_cutting_keeps_area_and_centre(west: float, width: float, is_wrapped: bool) -> None:
    whole = box(west, 10, west + width, 11)
    middle = (west + width / 2 + 180) % 360 - 180
    geometry = whole
    if is_wrapped:
        # What many archives write: each corner brought back into ±180°, the ring left uncut.
        geometry = shapely.transform(whole, lambda p: p - [[360, 0]] * (p[:, :1] > 180))
    footprint = read_footprint(mapping(geometry))
    assert -180 <= footprint.bounds[0] <= footprint.bounds[2] <= 180
    assert footprint.area == pytest.approx(whole.area, abs=1e-9)
    gap = abs(centre_longitude(footprint) - middle)
    assert min(gap, 360 - gap) < 1e-6


def test_areas_within_the_globe_are_left_alone() -> None:
    world = box(-180, -90, 180, 90)
    assert cut_at_antimeridian(world) is world
