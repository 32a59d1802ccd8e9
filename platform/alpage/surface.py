"""Geometries as surfaces: what areas, zones and footprints are."""

import shapely
from shapely.geometry.base import BaseGeometry


def valid_surface(geometry: BaseGeometry) -> BaseGeometry:
    """Return what of a geometry is a surface, as a valid (multi)polygon; empty where nothing is.

    A ring that runs to a point and back is no surface: burnt as a line, it would be pixels.

    >>> spike = shapely.Polygon([(0, 0), (2, 0), (2, 2), (1, 2), (1, 9), (1, 2), (0, 2)])
    >>> valid_surface(spike).normalize().wkt
    'POLYGON ((0 0, 0 2, 1 2, 2 2, 2 0, 0 0))'
    """
    parts = shapely.get_parts(shapely.make_valid(geometry))
    # A collection's parts may be several polygons each.
    pieces = shapely.get_parts(parts)
    kept = [piece for piece in pieces if piece.geom_type == "Polygon" and piece.area > 0]
    return kept[0] if len(kept) == 1 else shapely.MultiPolygon(kept)
