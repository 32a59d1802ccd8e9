"""Values of an image at fractional pixels. Each output pixel depends on its own position alone.

Positions are whole numbers of 1/`STEPS` of a source pixel, counted from the corner of the
image, so that pixel `i` spans `i * STEPS` to `(i + 1) * STEPS`. All weights of `average` and
`bilinear` are then exact in float64: a pixel's value is the same bit for bit in whatever
block it is computed.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alpage.product import Kernel

STEPS = 4096
"""Positions in a pixel: they are off by 1/8192 of a pixel at most, a millimetre at 10 m."""

CODES: dict[Kernel, int] = {"nearest": 0, "average": 1, "bilinear": 2, "cubic": 3}
_AVERAGE, _BILINEAR = 1, 2

Array = NDArray[Any]
Positions = NDArray[np.int64]


def reach(kernel: Kernel, scale: float) -> float:
    """Return how far from its centre a kernel looks, in source pixels.

    `scale` is the size of a destination pixel in source pixels. Bilinear and cubic kernels
    widen with it where the destination is coarser, or they would skip pixels.

    >>> reach("bilinear", 0.5), reach("cubic", 2.0), reach("average", 3.0)
    (1.0, 4.0, 1.5)
    """
    if kernel == "average":
        return scale / 2
    return {"nearest": 0.0, "bilinear": 1.0, "cubic": 2.0}[kernel] * max(scale, 1.0)


def sample(
    source: Array,
    rows: Positions,
    columns: Positions,
    *,
    corner_yx: tuple[int, int] = (0, 0),
    kernel: Kernel,
    scale_yx: tuple[float, float],
    nodata: float | None,
) -> Array:
    """Return the source at the given positions, in the source's dtype.

    Parameters
    ----------
    source
        Shape (y, x), C order. What lies outside it is nodata.
    rows, columns
        Positions; both of the result's shape (h, w), or of shapes (h, 1) and (1, w).
    corner_yx
        Row and column of the image at which `source`, a window of it, starts.
    scale_yx
        Size of a destination pixel in source pixels.
    nodata
        Value of empty pixels, may be NaN; NaN is always empty. None: none is, and 0 stands
        for what cannot be computed.

    Returns
    -------
    `nearest` takes the pixel that holds the position, the one to the right and below on a border.
    The others weigh pixels that are not empty, and are empty themselves where these hold less
    than half of the weight; `cubic` (Keys, a = -1/2) becomes `bilinear` beside empty pixels.
    Integers are rounded half away from zero and clipped to the dtype; a computed value that
    happens to be the nodata value becomes its neighbour.

    >>> image = np.array([[10, 20]], dtype="uint8")
    >>> middle = np.array([[2048]], dtype="int64"), np.array([[4096]], dtype="int64")
    >>> sample(image, *middle, kernel="bilinear", scale_yx=(1, 1), nodata=0)
    array([[15]], dtype=uint8)
    """
    dtype = source.dtype
    empty = dtype.type(0 if nodata is None else nodata)
    out = np.full((rows.shape[0], columns.shape[1]), empty)
    wide = int(rows.shape == columns.shape == out.shape)
    if kernel == "nearest":
        _nearest(source, (rows, columns, wide), corner_yx, out)
        return out
    whole = dtype.kind in "iu"
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if whole else (-np.inf, np.inf)
    instead = dtype.type(_beside(empty, high)) if nodata is not None else empty
    scales = [max(round(s * STEPS), 1) / STEPS for s in scale_yx]
    if kernel != "average":
        scales = [max(s, 1.0) for s in scales]
    taps = math.ceil(2 * max(reach(kernel, s) for s in scales)) + 2
    _weighted(
        source,
        (rows, columns, wide),
        corner_yx,
        (CODES[kernel], scales[0], scales[1], taps),
        (nodata is not None, empty, instead),
        (whole, float(low), float(high)),
        out,
    )
    return out


def _beside(value: Any, high: float) -> Any:
    if isinstance(value, np.floating):
        return np.nextafter(value, value.dtype.type(np.inf))
    return int(value) + 1 if value < high else int(value) - 1


@njit(cache=True, nogil=True)
def _nearest(source, positions, corner, out):  # type: ignore[no-untyped-def]
    rows, columns, wide = positions
    height, width = source.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            i = rows[y, x * wide] // STEPS - corner[0]
            j = columns[y * wide, x] // STEPS - corner[1]
            if 0 <= i < height and 0 <= j < width:
                out[y, x] = source[i, j]


@njit(cache=True, nogil=True)
def _weights(code, centre, scale, weights):  # type: ignore[no-untyped-def]
    """Fill the weights of pixels around a centre; return the first pixel and their number."""
    if code == _AVERAGE:
        low, high = centre - scale / 2, centre + scale / 2
        first = math.floor(low)
        count = math.ceil(high) - first
        for k in range(count):
            weights[k] = min(high, first + k + 1.0) - max(low, first + k + 0.0)
        return first, count
    radius = scale if code == _BILINEAR else 2 * scale
    first = math.floor(centre - 0.5 - radius) + 1
    count = math.ceil(centre - 0.5 + radius) - first
    for k in range(count):
        distance = abs(first + k + 0.5 - centre)
        if code == _BILINEAR:
            weights[k] = scale - distance
        else:
            t = distance / scale
            near = (1.5 * t - 2.5) * t * t + 1.0
            far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
            weights[k] = near if t <= 1.0 else far
    return first, count


@njit(cache=True, nogil=True)
def _blend(source, rows, columns, nodata):  # type: ignore[no-untyped-def]
    """Return the weighted sum of pixels that are not empty, their weight, that of all, and
    whether there were empty ones. `rows` and `columns` are first pixel, number, weights.
    """
    (top, n_y, weights_y), (left, n_x, weights_x) = rows, columns
    has_nodata, empty, _ = nodata
    height, width = source.shape
    value = full = total = 0.0
    holes = False
    for j in range(n_y):
        y = top + j
        for i in range(n_x):
            x = left + i
            weight = weights_y[j] * weights_x[i]
            total += weight
            if 0 <= y < height and 0 <= x < width:
                pixel = source[y, x]
                if pixel == pixel and not (has_nodata and pixel == empty):
                    full += weight
                    value += weight * pixel
                    continue
            holes = holes or weight != 0.0
    return value, full, total, holes


@njit(cache=True, nogil=True)
def _weighted(source, positions, corner, kernel, nodata, limits, out):  # type: ignore[no-untyped-def]
    rows, columns, wide = positions
    code, scale_y, scale_x, taps = kernel
    has_nodata, empty, instead = nodata
    whole, low, high = limits
    n_columns = out.shape[1]
    # Columns of parallel grids have one set of weights for all rows.
    first, count = np.empty(n_columns, np.int64), np.empty(n_columns, np.int64)
    weights_y, weights_x = np.empty(taps), np.empty((n_columns, taps))
    plain_y, plain_x = np.empty(taps), np.empty(taps)
    for y in range(out.shape[0]):
        if wide or y == 0:
            for x in range(n_columns):
                centre_x = columns[y, x] / STEPS - corner[1]
                first[x], count[x] = _weights(code, centre_x, scale_x, weights_x[x])
        for x in range(n_columns):
            centre_y = rows[y, x * wide] / STEPS - corner[0]
            if wide or x == 0:
                top, n_y = _weights(code, centre_y, scale_y, weights_y)
            across = (first[x], count[x], weights_x[x])
            value, full, total, holes = _blend(source, (top, n_y, weights_y), across, nodata)
            if holes and full > 0.0 and code > _BILINEAR:
                centre_x = columns[y * wide, x] / STEPS - corner[1]
                t, n_t = _weights(_BILINEAR, centre_y, scale_y, plain_y)
                f, n_f = _weights(_BILINEAR, centre_x, scale_x, plain_x)
                down, across = (t, n_t, plain_y), (f, n_f, plain_x)
                value, full, total, holes = _blend(source, down, across, nodata)
            if full <= 0.0 or 2 * full < total:
                continue
            value /= full
            if whole:
                value = math.copysign(math.floor(abs(value) + 0.5), value)
                value = min(max(value, low), high)
            out[y, x] = value
            if has_nodata and out[y, x] == empty:
                out[y, x] = instead
