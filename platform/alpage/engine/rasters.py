"""Areas, zones and elevation on the pixels of a block."""

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from alpage.engine.header import BadCog, CogHeader
from alpage.engine.storage import ReadCounters
from alpage.engine.tiff import read_header
from alpage.engine.warp import Kernel, read_onto
from alpage.errors import StudyError

ELEVATION_KERNEL: Kernel = "bilinear"


def inside(geometry: BaseGeometry, geobox: GeoBox) -> NDArray[np.bool_]:
    """Return the pixels (y, x) of a geobox whose centre lies within a geometry of its CRS."""
    box = shapely.box(*geobox.boundingbox.bbox)
    if not geometry.intersects(box):
        return np.zeros(geobox.shape.yx, dtype=bool)
    if geometry.covers(box):
        return np.ones(geobox.shape.yx, dtype=bool)
    burnt = rasterio.features.rasterize(
        [geometry], out_shape=geobox.shape.yx, transform=geobox.transform, dtype="uint8"
    )
    return np.asarray(burnt != 0)


def elevation_header(href: str, counters: ReadCounters) -> CogHeader:
    """Return the header of an elevation raster. Raises StudyError where it cannot be read."""
    try:
        return read_header(href, counters)
    except BadCog as error:
        raise StudyError(f"dem: {error}") from error


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
