"""Where a block's pixels lie in a file, each worked out from its own coordinates alone."""

import math
import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from alpage.engine.header import CogHeader, Transform
from alpage.engine.sampling import STEPS, Positions

OUTSIDE = -(2**61)
"""The position of what has no place in the file's CRS."""
RIM_POINTS = 33
"""Points along an edge of a file when its outline is projected."""

Array = NDArray[Any]
Points = tuple[Array, Array]

_LOCK = threading.RLock()
"""Threads that read bands of one grid wait for the one that works out its positions."""


@dataclass(frozen=True)
class Source:
    """A file's grid."""

    crs: int | str
    transform: Transform
    shape_yx: tuple[int, int]
    measured_at_xy: tuple[float, float] | None = None

    @property
    def middle_xy(self) -> tuple[float, float]:
        """The image's centre."""
        x, y = self.points_at(*(np.array(n / 2) for n in self.shape_yx))
        return float(x), float(y)

    @property
    def separable(self) -> bool:
        """Whether rows run along x and columns along y."""
        return not (self.transform[1] or self.transform[3])

    def pixels_at(self, x: Array, y: Array) -> Points:
        """Return rows and columns, in pixels from the corner, of points in the file's CRS."""
        a, b, c, d, e, f = self.transform
        if self.separable:
            return (y - f) / e, (x - c) / a
        det = a * e - b * d
        return (a * (y - f) - d * (x - c)) / det, (e * (x - c) - b * (y - f)) / det

    def points_at(self, rows: Array, columns: Array) -> Points:
        """Return x and y of rows and columns counted from the corner."""
        a, b, c, d, e, f = self.transform
        return a * columns + b * rows + c, d * columns + e * rows + f


@dataclass(frozen=True)
class Block:
    """A block's grid: what `GeoBox` says, quick to hash."""

    crs: str
    transform: Transform
    shape_yx: tuple[int, int]

    def centres(self) -> Points:
        """Return x of the columns and y of the rows, the same numbers in every block of a grid.

        The block's corner is brought to whole steps of its own pixels, counted from the CRS's
        origin: unlike the corner itself these are exact, and so are sums of them.
        """
        a, _, c, _, e, f = self.transform
        (height, width), steps_x, steps_y = (
            self.shape_yx,
            round(c / a * STEPS),
            round(f / e * STEPS),
        )
        x = (steps_x + (np.arange(width) * STEPS + STEPS // 2)) / STEPS * a
        y = (steps_y + (np.arange(height) * STEPS + STEPS // 2)) / STEPS * e
        return x, y


def grids(header: CogHeader, geobox: GeoBox) -> tuple[Source, Block]:
    """Return both grids. Raises `ValueError` for a rotated block."""
    return source_of(header), block_of(geobox)


def source_of(header: CogHeader) -> Source:
    """Return a file's grid."""
    return Source(header.crs, header.transform, header.shape_yx, header.measured_at_xy)


def block_of(geobox: GeoBox) -> Block:
    """Return a block's grid. Raises `ValueError` for a rotated one."""
    transform = tuple(geobox.transform)[:6]
    if transform[1] or transform[3]:
        raise ValueError(f"expected a block whose rows run along x, got the transform {transform}")
    return Block(str(geobox.crs), transform, geobox.shape.yx)


def are_parallel(source: Source, crs: str) -> bool:
    """Return whether a file's rows and columns run along those of any block in a CRS."""
    return source.separable and _transformer(crs, source.crs) is None


def positions(source: Source, block: Block) -> tuple[Positions, Positions]:
    """Return the rows and columns of the block's pixel centres, as `sampling.sample` takes them.

    Shapes (h, 1) and (1, w) where the grids are parallel, else both (h, w).
    """
    with _LOCK:
        if are_parallel(source, block.crs):
            return _parallel(source, block)
        return _full(source, block)


@lru_cache(maxsize=64)
def _parallel(source: Source, block: Block) -> tuple[Positions, Positions]:
    rows, columns = source.pixels_at(*block.centres())
    return _steps(rows)[:, None], _steps(columns)[None]


@lru_cache(maxsize=4)
def _full(source: Source, block: Block) -> tuple[Positions, Positions]:
    # Kept for the bands and dates of one scene grid: 16 bytes a pixel and grid.
    x, y = np.meshgrid(*block.centres())
    rows, columns = _pixels(source, x, y, block.crs)
    return _steps(rows), _steps(columns)


def _pixels(source: Source, x: Array, y: Array, crs: str) -> Points:
    """Return rows and columns, in pixels from the corner, of points in another CRS."""
    x, y = project(x, y, crs, source.crs)
    if _is_geographic(source.crs):
        # A file from 0 to 360 degrees has western longitudes too, as one to 180 what is beyond.
        with np.errstate(invalid="ignore"):
            x = x - 360 * np.rint((x - source.middle_xy[0]) / 360)
    return source.pixels_at(x, y)


@cache
def _is_geographic(crs: int | str) -> bool:
    return bool(pyproj.CRS.from_user_input(crs).is_geographic)


@lru_cache(maxsize=1024)
def rim(source: Source, block: Block) -> tuple[Positions, Positions]:
    """Return the positions of the block's outermost pixel centres only."""
    x, y = block.centres()
    if are_parallel(source, block.crs):
        rows, columns = source.pixels_at(x[[0, -1]], y[[0, -1]])
    else:
        ends_x, ends_y = np.repeat(x[[0, -1]], len(y)), np.repeat(y[[0, -1]], len(x))
        around = np.concatenate([np.tile(x, 2), ends_x]), np.concatenate([ends_y, np.tile(y, 2)])
        rows, columns = _pixels(source, *around, block.crs)
    return _steps(rows), _steps(columns)


@lru_cache(maxsize=1024)
def scale(source: Source, crs: str, resolution_yx: tuple[float, float]) -> tuple[float, float]:
    """Return the size of a block's pixel in source pixels, along rows and along columns.

    Taken at one place of the file, so that it is one for all blocks. NaN where that has no place
    in the block's CRS.
    """
    high, wide = resolution_yx
    if are_parallel(source, crs):
        return abs(high / source.transform[4]), abs(wide / source.transform[0])
    at_x, at_y = source.measured_at_xy or source.middle_xy
    x, y = project(np.array([at_x]), np.array([at_y]), source.crs, crs)
    xs = x + np.array([-wide, wide, 0, 0]) / 2
    ys = y + np.array([0, 0, -high, high]) / 2
    rows, columns = _pixels(source, xs, ys, crs)
    if not (np.isfinite(rows).all() and np.isfinite(columns).all()):
        return math.nan, math.nan
    return (
        math.hypot(rows[1] - rows[0], rows[3] - rows[2]),
        math.hypot(columns[1] - columns[0], columns[3] - columns[2]),
    )


@lru_cache(maxsize=1024)
def outline(source: Source, crs: str) -> tuple[float, float, float, float] | None:
    """Return left, bottom, right and top of the file in a CRS, with some margin.

    None where part of its border has no place there.
    """
    height, width = source.shape_yx
    along = np.linspace(0, 1, RIM_POINTS)
    rows = np.concatenate([0 * along, 0 * along + 1, along, along]) * height
    columns = np.concatenate([along, along, 0 * along, 0 * along + 1]) * width
    x, y = project(*source.points_at(rows, columns), source.crs, crs)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    # Edges bow out between the points, by far less than this.
    margin_x, margin_y = 0.02 * np.ptp(x), 0.02 * np.ptp(y)
    if _transformer(source.crs, crs) is None:
        margin_x = margin_y = 0.0
    return (
        float(x.min() - margin_x),
        float(y.min() - margin_y),
        float(x.max() + margin_x),
        float(y.max() + margin_y),
    )


def project(x: Array, y: Array, source: int | str, target: int | str) -> Points:
    """Return points in another CRS; infinite where they have no place in it."""
    transformer = _transformer(source, target)
    if transformer is None:
        return x, y
    with _LOCK:
        found = transformer.transform(x, y)
    return np.asarray(found[0]), np.asarray(found[1])


@cache
def _transformer(source: int | str, target: int | str) -> pyproj.Transformer | None:
    ours, theirs = pyproj.CRS.from_user_input(source), pyproj.CRS.from_user_input(target)
    if ours.equals(theirs, ignore_axis_order=True):
        return None
    return pyproj.Transformer.from_crs(ours, theirs, always_xy=True)


def _steps(pixels: Array) -> Positions:
    known = np.isfinite(pixels) & (np.abs(pixels) < 2**40)
    steps = np.rint(np.where(known, pixels, 0) * STEPS)
    return np.where(known, steps, OUTSIDE).astype(np.int64)
