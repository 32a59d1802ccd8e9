"""Areas, zones and elevation on the pixels of a block."""

import threading
from dataclasses import replace

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox, GeoboxTiles
from odc.geo.geom import Geometry
from shapely.geometry.base import BaseGeometry

from alpage.engine.header import BadCog, CogHeader
from alpage.engine.positions import project
from alpage.engine.storage import ReadCounters
from alpage.engine.tiff import read_header
from alpage.engine.warp import read_onto
from alpage.errors import StudyError
from alpage.product import Kernel

ELEVATION_KERNEL: Kernel = "bilinear"
COUNTED_PX = 1024
"""Side of what is burnt at once to count pixels."""

_BURNING = threading.Lock()
"""rasterio silences a warning of its own while it burns; of two threads one would be heard."""


def inside(geometry: BaseGeometry, geobox: GeoBox) -> NDArray[np.bool_]:
    """Return the pixels (y, x) of a geobox whose centre lies within a geometry of its CRS."""
    box = shapely.box(*geobox.boundingbox.bbox)
    if not geometry.intersects(box):
        return np.zeros(geobox.shape.yx, dtype=bool)
    if geometry.covers(box):
        return np.ones(geobox.shape.yx, dtype=bool)
    # Of a country's outline few vertices are here; what is cut away lies beyond all centres.
    near = geometry.intersection(
        box.buffer(max(map(abs, geobox.resolution.xy)), join_style="mitre")
    )
    with _BURNING:
        burnt = rasterio.features.rasterize(
            [near], out_shape=geobox.shape.yx, transform=geobox.transform, dtype="uint8"
        )
    return np.asarray(burnt != 0)


def count_pixels(geometry: BaseGeometry, geobox: GeoBox) -> int:
    """Return how many pixels have their centre within a geometry of their CRS.

    Pixels are those of the geobox, continued where the geometry leaves it.

    >>> box = GeoBox.from_bbox((0, 0, 100, 100), "EPSG:32631", resolution=10)
    >>> count_pixels(shapely.box(-21, 12, 9, 16), box)
    3
    """
    shapely.prepare(geometry)
    whole = geobox.enclosing(Geometry(geometry, geobox.crs))
    parts = GeoboxTiles(whole, (COUNTED_PX, COUNTED_PX))
    rows, columns = parts.shape.yx
    return sum(
        int(np.count_nonzero(inside(geometry, parts[row, column])))
        for row in range(rows)
        for column in range(columns)
    )


def elevation_header(href: str, geobox: GeoBox, counters: ReadCounters) -> CogHeader:
    """Return the header of an elevation raster, which may reach far beyond the grid under it.

    Raises StudyError where it cannot be read.
    """
    try:
        header = read_header(href, counters)
    except BadCog as error:
        raise StudyError(f"dem: {error}") from error
    left, bottom, right, top = geobox.boundingbox.bbox
    middle = np.array([(left + right) / 2]), np.array([(bottom + top) / 2])
    x, y = project(*middle, str(geobox.crs), header.crs)
    return replace(header, measured_at_xy=(float(x[0]), float(y[0])))


def read_elevation(
    header: CogHeader, geobox: GeoBox, counters: ReadCounters
) -> NDArray[np.float32]:
    """Return elevation on a geobox (y, x) in metres, bilinear, NaN where there is none.

    Raises StudyError for a raster that cannot be read.
    """
    try:
        dem = read_onto(header, geobox, kernel=ELEVATION_KERNEL, counters=counters)
    except BadCog as error:
        raise StudyError(f"dem: {error}") from error
    dem = dem.astype(np.float32)
    if header.nodata is not None:
        dem[dem == header.nodata] = np.nan
    return dem
