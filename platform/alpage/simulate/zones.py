"""Named areas of the valley, for statistics: the lake, fields, forest, alp meadow and all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine
from scipy import ndimage
from shapely import MultiPolygon, Polygon, box, union_all
from shapely.affinity import affine_transform
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from alpage.files import replacing
from alpage.simulate import terrain
from alpage.simulate.seasons import lake_level, unit_cover
from alpage.simulate.spec import MAIN_EPSG, PIXEL_M, ValleySpec, main_tile

_LATTICE = 192
_FIELD_INSET_PX = 1.0
_LAKE_BUFFER_PX = 3.0


@dataclass(frozen=True)
class Zone:
    """A named polygon in the CRS of the main tile."""

    id: str
    name: str
    kind: str
    polygon: Polygon | MultiPolygon


def make_zones(spec: ValleySpec) -> tuple[Zone, ...]:
    """All zones of a valley: lake, fields, forest, alp_meadow and valley.

    >>> zones = make_zones(ValleySpec(size_px=128))
    >>> [z.id for z in zones][:3], sorted({z.kind for z in zones})
    (['lake', 'field_1', 'field_2'], ['alp_meadow', 'field', 'forest', 'lake', 'valley'])
    """
    tile = main_tile(spec)
    side = spec.size_px * PIXEL_M
    outline = box(tile.x0, tile.y0 - side, tile.x0 + side, tile.y0)
    middle = (np.arange(_LATTICE) + 0.5) / _LATTICE
    u, v = np.meshgrid(middle, middle)
    z = terrain.elevation(spec.seed, u, v).astype(np.float32)
    unit = terrain.land_units(spec.seed, u, v, z)
    level = max(lake_level(spec, day) for day in spec.days)
    lake = _outline(spec, z < level).buffer(_LAKE_BUFFER_PX * PIXEL_M)
    forest = _outline(spec, ndimage.binary_erosion(unit == terrain.FOREST, iterations=2))
    meadow = _outline(spec, ndimage.binary_erosion(unit == terrain.ALP_MEADOW, iterations=2))
    return (
        Zone("lake", "Lake at its largest, with its shore", "lake", lake),
        *_fields(spec),
        Zone("forest", "Largest forest", "forest", forest),
        Zone("alp_meadow", "Largest alp meadow", "alp_meadow", meadow),
        Zone("valley", "Whole valley", "valley", outline),
    )


def write_zones(path: Path, zones: Sequence[Zone]) -> None:
    """Write zones as GeoJSON in longitude and latitude."""
    import geopandas as gpd

    frame = gpd.GeoDataFrame(
        {
            "id": [zone.id for zone in zones],
            "name": [zone.name for zone in zones],
            "kind": [zone.kind for zone in zones],
        },
        geometry=[zone.polygon for zone in zones],
        crs=MAIN_EPSG,
    ).to_crs(4326)
    with replacing(path) as temporary:
        temporary.write_text(frame.to_json(drop_id=True))


def _fields(spec: ValleySpec) -> list[Zone]:
    zones = []
    for number, (west, east, north, south) in enumerate(terrain.field_edges()):
        v = np.linspace(north, south, 25)
        axis = terrain.valley_axis(v)
        ring = np.vstack(
            [np.column_stack([axis + west, v]), np.column_stack([axis + east, v])[::-1]]
        )
        polygon = _placed(spec, Polygon(ring)).buffer(-_FIELD_INSET_PX * PIXEL_M)
        cover = unit_cover(terrain.FIRST_FIELD + number)
        name = f"{cover.capitalize()} field {number + 1}"
        zones.append(Zone(f"field_{number + 1}", name, "field", polygon))
    return zones


def _outline(spec: ValleySpec, mask: NDArray[np.bool_]) -> Polygon | MultiPolygon:
    """Outline of the largest connected part of a mask on the lattice."""
    labels, count = ndimage.label(mask)
    if count == 0:
        raise ValueError(f"seed {spec.seed} gives a valley without one of its zones: take another")
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    to_valley = Affine.scale(1 / _LATTICE)
    parts = shapes((labels == largest).astype(np.uint8), labels == largest, transform=to_valley)
    return _placed(spec, union_all([shape(part) for part, _ in parts]))


def _placed(spec: ValleySpec, polygon: BaseGeometry) -> Polygon | MultiPolygon:
    """A polygon of valley coordinates in the CRS of the main tile."""
    tile = main_tile(spec)
    side = spec.size_px * PIXEL_M
    placed = affine_transform(polygon, [side, 0, 0, -side, tile.x0, tile.y0])
    assert isinstance(placed, Polygon | MultiPolygon)
    return placed
