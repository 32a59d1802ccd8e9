"""Footprints on the globe: read, cut at the antimeridian, centred."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from alpage.surface import valid_surface

_HALF_TURN = 180.0
# What shapely raises on a mapping that is no GeoJSON depends on where it stumbles.
_BROKEN = (AttributeError, LookupError, TypeError, ValueError, shapely.errors.ShapelyError)


def read_footprint(geojson: Mapping[str, Any] | None) -> BaseGeometry:
    """Return a scene's footprint: a valid (multi)polygon in EPSG:4326 within ±180° longitude.

    A footprint wider than half the globe is one that crosses the antimeridian without being
    cut there (GeoJSON asks for the cut, RFC 7946 §3.1.9; many archives leave it out).

    Raises
    ------
    ValueError
        There is no geometry, it is empty, or it has no area.

    >>> ring = [[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]
    >>> read_footprint({"type": "Polygon", "coordinates": [ring]}).area
    2.0
    """
    if not geojson:
        raise ValueError("it has no geometry")
    try:
        raw = shapely.force_2d(shape(dict(geojson)))
    except _BROKEN as error:
        raise ValueError(f"its geometry is not GeoJSON ({error})") from error
    if raw.is_empty or not np.isfinite(raw.bounds).all():
        raise ValueError("its geometry is empty")
    areal = valid_surface(_unwrap(raw))
    if areal.is_empty:
        raise ValueError(f"its geometry is a {raw.geom_type} without area")
    return cut_at_antimeridian(areal)


def cut_at_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Return the geometry with what lies beyond ±180° moved to the other side.

    >>> cut_at_antimeridian(box(170, 0, 190, 1)).bounds
    (-180.0, 0.0, 180.0, 1.0)
    """
    west, _, east, _ = geometry.bounds
    if west >= -_HALF_TURN and east <= _HALF_TURN:
        return geometry
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        window = box(-_HALF_TURN + turn, -90, _HALF_TURN + turn, 90)
        part = geometry.intersection(window)
        if not part.is_empty:
            parts.append(translate(part, xoff=-turn))
    return shapely.union_all(parts)


def centre_longitude(footprint: BaseGeometry) -> float:
    """Return the longitude of the footprint's middle in degrees, right across the antimeridian.

    >>> centre_longitude(cut_at_antimeridian(box(178, 0, 184, 1)))
    -179.0
    """
    west, _, east, _ = _unwrap(footprint).bounds
    middle = (west + east) / 2
    return float((middle + _HALF_TURN) % 360 - _HALF_TURN)


def _unwrap(geometry: BaseGeometry) -> BaseGeometry:
    west, _, east, _ = geometry.bounds
    if east - west <= _HALF_TURN:
        return geometry

    def eastwards(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.column_stack(
            (np.where(points[:, 0] < 0, points[:, 0] + 360, points[:, 0]), points[:, 1])
        )

    return shapely.transform(geometry, eastwards)
