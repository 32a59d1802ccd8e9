"""The relief of a study's area, counted once when a run is planned."""

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from alpage.cube.ledger import digest
from alpage.engine.header import CogHeader
from alpage.engine.rasters import elevation_header, inside, read_elevation
from alpage.engine.storage import ReadCounters
from alpage.errors import StudyError
from alpage.grid import Grid, grid_over
from alpage.product import Context, Product
from alpage.study import Study


@dataclass(frozen=True)
class Relief:
    """Digest of the elevation on the grid, and its range and counts within the area."""

    header: CogHeader
    """Of the raster."""
    digest: str
    range_m: tuple[float, float]
    counts: tuple[int, ...]


def area_on(study: Study, grid: Grid) -> BaseGeometry:
    """Return the study's area in the grid's CRS: of a box all pixels of the grid over it."""
    if study.area.bbox is None:
        return grid.project(study.geometry())
    corner_xy = grid.transform.c, grid.transform.f
    over = grid_over(
        study.geometry(),
        crs=grid.crs,
        resolution=grid.transform.a,
        tile_px=grid.tile_px,
        anchor_xy=corner_xy,
    )
    return box(*over.geobox.boundingbox.bbox)


def read_relief(study: Study, product: Product, parameters: BaseModel, grid: Grid) -> Relief:
    """Return the relief of a study, read tile by tile.

    Raises StudyError where the elevation raster has nothing within the area.
    """
    header = elevation_header(study.locate(str(study.dem)))
    area = area_on(study, grid)
    low, high, seen = np.inf, -np.inf, []
    for tile in grid.tiles:
        tile_box = grid.tile_box(tile)
        dem = read_elevation(header, tile_box, ReadCounters())
        seen.append(digest(dem.tobytes().hex()))
        within = dem[inside(area, tile_box) & np.isfinite(dem)]
        if within.size:
            low, high = min(low, float(within.min())), max(high, float(within.max()))
    if low > high:
        raise StudyError(f"dem: expected elevations within the area, {study.dem} has none there")
    counts = np.zeros(0, dtype=np.int64)
    if product.relief_bins is not None:
        context = Context(parameters, grid.pixel_area_m2, dem_range_m=(low, high))
        counts = np.zeros(product.relief_bins(context), dtype=np.int64)
        if counts.size:
            for tile in grid.tiles:
                tile_box = grid.tile_box(tile)
                dem = read_elevation(header, tile_box, ReadCounters())
                within = dem[inside(area, tile_box) & np.isfinite(dem)]
                position = (within.astype(np.float64) - low) * counts.size / (high - low)
                bins = np.clip(position, 0, counts.size - 1).astype(np.int64)
                counts += np.bincount(bins, minlength=counts.size)
    return Relief(header, str(digest(seen)), (low, high), tuple(int(n) for n in counts))
