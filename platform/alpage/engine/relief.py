"""The relief of a study's area: counted once, and again only where its file has changed."""

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from alpage.cube.ledger import digest
from alpage.engine.header import CogHeader
from alpage.engine.rasters import elevation_header, inside, read_elevation
from alpage.engine.storage import ReadCounters, readers_for, version_of
from alpage.errors import StudyError
from alpage.grid import Grid, Tile, grid_over
from alpage.product import Context, Product
from alpage.study import Study


@dataclass(frozen=True)
class Relief:
    """Digest of the elevation on the grid, and its range and counts within the area."""

    header: CogHeader
    """Of the raster."""
    file: str | None
    """Changes with the raster's file; None where its store does not tell."""
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


def read_relief(
    study: Study,
    product: Product,
    parameters: BaseModel,
    grid: Grid,
    cube: Mapping[str, Any] | None,
    counters: ReadCounters,
) -> Relief:
    """Return the relief of a study: as its cube tells it where the file is the same, else read.

    `cube` is what it says of itself; one of another area or grid is refused elsewhere. Raises
    StudyError where the elevation raster has nothing within the area.
    """
    href = study.locate(str(study.dem))
    header = elevation_header(href, grid.geobox, counters)
    # Before any pixel: what is written anew meanwhile is read anew by the next plan.
    version = version_of(href, counters)
    file = None if version is None else str(digest(href, version))
    known = None if cube is None else cube.get("relief")
    if cube is not None and known is not None and file is not None and known["file"] == file:
        low, high = cube["dem"]["range_m"]
        return Relief(header, file, cube["dem"]["digest"], (low, high), tuple(known["counts"]))
    read = _Tiles(header, grid, area_on(study, grid), counters)
    with ThreadPoolExecutor(readers_for([href])) as pool:
        seen, lows, highs = zip(*pool.map(read.look, grid.tiles), strict=True)
        low, high = min(lows), max(highs)
        if low > high:
            raise StudyError(
                f"dem: expected elevations within the area, {study.dem} has none there"
            )
        n_bins = 0
        if product.relief_bins is not None:
            n_bins = product.relief_bins(
                Context(parameters, grid.pixel_area_m2, dem_range_m=(low, high))
            )
        counts = np.zeros(n_bins, dtype=np.int64)
        if n_bins:
            for one in pool.map(lambda tile: read.count(tile, low, high, n_bins), grid.tiles):
                counts += one
    return Relief(header, file, str(digest(seen)), (low, high), tuple(counts.tolist()))


@dataclass
class _Tiles:
    """Elevation tile by tile, of which only numbers are kept."""

    header: CogHeader
    grid: Grid
    area: BaseGeometry
    counters: ReadCounters
    lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, tile: Tile) -> tuple[str, float, float]:
        """Return a tile's digest, and its lowest and highest elevation within the area."""
        dem, within = self._read(tile)
        low, high = (within.min(), within.max()) if within.size else (np.inf, -np.inf)
        return hashlib.blake2b(dem, digest_size=16).hexdigest(), float(low), float(high)

    def count(self, tile: Tile, low: float, high: float, n_bins: int) -> NDArray[np.int64]:
        """Return the pixels of a tile within the area by equal bins of elevation."""
        _, within = self._read(tile)
        position = (within.astype(np.float64) - low) * n_bins / (high - low)
        bins = np.clip(position, 0, n_bins - 1).astype(np.int64)
        return np.bincount(bins, minlength=n_bins)

    def _read(self, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A tile's elevation, and that of its pixels within the area that have one."""
        own, geobox = ReadCounters(), self.grid.tile_box(tile)
        dem = read_elevation(self.header, geobox, own)
        with self.lock:
            self.counters.add(own)
        return dem, dem[inside(self.area, geobox) & np.isfinite(dem)]
