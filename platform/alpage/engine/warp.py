"""A band on the pixels of a block, whatever grid the file has.

The promise: a pixel's value does not depend on the block it is computed in. GDAL's warper
does not keep it (approximated transforms, source windows and kernel sizes that follow the
block), so positions are worked out one by one (`alpage.engine.positions`) and sampled here
(`alpage.engine.sampling`). Aligned files are never resampled, and both ways agree: a kernel at
the centre of a pixel of equal size returns that pixel.

Only full resolution is read: overviews are mostly made by picking pixels, so their averages
are not the averages of the image.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from alpage.engine.cog import Window, read_window
from alpage.engine.header import BadCog, CogHeader
from alpage.engine.positions import (
    Block,
    Source,
    are_parallel,
    grids,
    outline,
    positions,
    rim,
    scale,
    source_of,
)
from alpage.engine.sampling import STEPS, Positions, reach, sample
from alpage.engine.storage import ReadCounters
from alpage.product import Kernel
from alpage.redaction import safe_name

__all__ = [
    "Need",
    "Placement",
    "is_large",
    "need",
    "needed_window",
    "placement",
    "read_onto",
    "touches",
]

MAX_SOURCE_PX = 32 * 2**20
"""A block that needs more of a file is computed in halves: the values are the same."""
MAX_REPEAT = 64
NOWHERE: Window = (0, 0, 0, 0)

Array = NDArray[Any]


@dataclass(frozen=True)
class Placement:
    """How a file's pixels lie under a block's.

    `aligned`: the same CRS and pixels. `repeat`: the same CRS, and each pixel of the file is
    `factor_yx` whole pixels of the block's grid. `warp`: anything else.
    """

    kind: Literal["aligned", "repeat", "warp"]
    window: Window = NOWHERE
    """Pixels of the file under an aligned or repeated block; may leave the image."""
    factor_yx: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Warp:
    """Where a block's pixel centres lie in a file, and the size of its pixels there."""

    rows: Positions
    columns: Positions
    scale_yx: tuple[float, float]


def placement(header: CogHeader, geobox: GeoBox) -> Placement:
    """Return how the file's pixels lie under the block's, to 1/8192 of a pixel."""
    return _placement(*grids(header, geobox))


def needed_window(header: CogHeader, block: Block, kernel: Kernel) -> Window:
    """Return the window of a file's pixels that a block needs, at most: for estimates.

    May leave the image; (0, 0, 0, 0) where the block has no place in the file's CRS.
    """
    source = source_of(header)
    lies = _placement(source, block)
    if lies.kind == "aligned" or (lies.kind == "repeat" and kernel == "nearest"):
        return lies.window
    return _window(*rim(source, block), _scale_of(header, source, block), kernel)


def touches(header: CogHeader, geobox: GeoBox) -> bool:
    """Return False where the file surely has no pixel in the block. Reads nothing."""
    source, block = grids(header, geobox)
    bounds = outline(source, block.crs)
    if bounds is None:
        return True
    left, bottom, right, top = geobox.boundingbox.bbox
    return bool(bounds[0] < right and left < bounds[2] and bounds[1] < top and bottom < bounds[3])


@dataclass(frozen=True)
class Need:
    """What a file's band takes to lie on a block's pixels."""

    header: CogHeader
    block: Block
    kernel: Kernel
    window: Window
    """Pixels of the file to read; none of them (no rows, no columns) where it has nothing."""
    warp: Warp | None
    """How they are brought onto the block; None where they lie on it already."""

    @property
    def is_empty(self) -> bool:
        """Whether the file has no pixel for the block."""
        return self.window[2] * self.window[3] == 0

    def onto(self, pixels: Array) -> Array:
        """Return the window's pixels on those of the block, in the dtype of the file."""
        if self.warp is None:
            return pixels
        return sample(
            pixels,
            self.warp.rows,
            self.warp.columns,
            corner_yx=self.window[:2],
            kernel=self.kernel,
            scale_yx=self.warp.scale_yx,
            nodata=self.header.nodata,
        )

    def nothing(self) -> Array:
        """Return the block without a pixel of the file: its nodata, 0 where it states none."""
        return np.full(self.block.shape_yx, self.header.fill)


def need(header: CogHeader, geobox: GeoBox, *, kernel: Kernel) -> Need:
    """Return what has to be read of a file for a block, and what to do with it. Reads nothing.

    Raises as `read_onto`.
    """
    source, block = grids(header, geobox)
    lies = _placement(source, block)
    if lies.kind == "aligned":
        return Need(header, block, kernel, lies.window, None)
    scale_yx = _scale_of(header, source, block)
    rows, columns = positions(source, block)
    window = _inside(_window(rows, columns, scale_yx, kernel), source.shape_yx)
    return Need(header, block, kernel, window, Warp(rows, columns, scale_yx))


def read_onto(
    header: CogHeader,
    geobox: GeoBox,
    *,
    kernel: Kernel,
    counters: ReadCounters | None = None,
) -> Array:
    """Return the file's first band on the pixels of a block.

    Parameters
    ----------
    geobox
        The block, not rotated. Cutting it otherwise changes no value.
    kernel
        For files that are not aligned. `alpage.engine.sampling.sample` says what each does
        with nodata, integers and coarser blocks.

    Returns
    -------
    Shape of the block, dtype of the file; the file's nodata (0 where it states none) outside.

    Raises `BadCog` for damaged tiles and files without a place in the block's CRS,
    `alpage.errors.StorageError`, and `ValueError` for a rotated block.
    """
    needed = need(header, geobox, kernel=kernel)
    if needed.is_empty:
        return needed.nothing()
    if is_large(needed) and max(needed.block.shape_yx) > 1:
        return _in_halves(header, geobox, kernel, counters)
    return needed.onto(read_window(header, needed.window, counters=counters))


def is_large(needed: Need) -> bool:
    """Return whether a block's part of a file is more than is held at once."""
    return needed.warp is not None and needed.window[2] * needed.window[3] > MAX_SOURCE_PX


def _in_halves(
    header: CogHeader, geobox: GeoBox, kernel: Kernel, counters: ReadCounters | None
) -> Array:
    height, width = geobox.shape.yx
    if height >= width:
        parts = [np.s_[: height // 2, :], np.s_[height // 2 :, :]]
    else:
        parts = [np.s_[:, : width // 2], np.s_[:, width // 2 :]]
    halves = [read_onto(header, geobox[part], kernel=kernel, counters=counters) for part in parts]
    return np.concatenate(halves, axis=0 if height >= width else 1)


def _scale_of(header: CogHeader, source: Source, block: Block) -> tuple[float, float]:
    found = scale(source, block.crs, (block.transform[4], block.transform[0]))
    if not np.isfinite(found).all():
        raise BadCog(safe_name(header.href), f"its centre has no place in {block.crs[:80]}")
    return found


@lru_cache(maxsize=4096)
def _placement(source: Source, block: Block) -> Placement:
    if not are_parallel(source, block.crs):
        return Placement("warp")
    ends_y, ends_x = rim(source, block)
    height, width = block.shape_yx
    fit_y = _fit(ends_y, height, block.transform[4] / source.transform[4])
    fit_x = _fit(ends_x, width, block.transform[0] / source.transform[0])
    if fit_y is None or fit_x is None:
        return Placement("warp")
    (top, high, factor_y), (left, wide, factor_x) = fit_y, fit_x
    kind: Literal["aligned", "repeat"] = "aligned" if factor_y == factor_x == 1 else "repeat"
    return Placement(kind, (top, left, high, wide), (factor_y, factor_x))


def _fit(ends: Positions, size: int, scale: float) -> tuple[int, int, int] | None:
    """Return the first source pixel along an axis, their number and how often each comes.

    `ends` are the positions of the first and last pixel, `scale` what a step adds in pixels of
    the source. Positions are linear, so that both ends tell of all between.
    """
    factor = round(1 / scale) if scale > 1 / MAX_REPEAT else 0
    if not factor:
        return None
    start = round(int(ends[0]) * factor / STEPS - 0.5)
    for position, index in zip(ends, (start, start + size - 1), strict=True):
        # Half a step is rounding: equal pixels (factor 1) have to fit exactly.
        if abs(int(position) - (index + 0.5) * STEPS / factor) > 0.5:
            return None
    first, last = start // factor, (start + size - 1) // factor
    return first, last - first + 1, factor


def _window(
    rows: Positions, columns: Positions, scale_yx: tuple[float, float], kernel: Kernel
) -> Window:
    """Return the source pixels that a kernel reaches from any of the positions."""
    found = []
    for where, size in zip((rows, columns), scale_yx, strict=True):
        known = where[where > -(2**60)]
        if not known.size:
            return NOWHERE
        far = int(np.ceil(reach(kernel, size))) + 1
        first, last = int(known.min()) // STEPS - far, int(known.max()) // STEPS + far
        found.append((first, last - first + 1))
    (top, high), (left, wide) = found
    return top, left, high, wide


def _inside(window: Window, shape_yx: tuple[int, int]) -> Window:
    (row, column, high, wide), (height, width) = window, shape_yx
    top, left = max(row, 0), max(column, 0)
    return (
        top,
        left,
        max(min(row + high, height) - top, 0),
        max(min(column + wide, width) - left, 0),
    )
