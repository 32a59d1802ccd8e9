"""Halve maps for overviews: the mean of quantities, the most frequent of codes."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


def halve_mean(values: Array, fill: int) -> Array:
    """Return a map (y, x) of integers at half the resolution: means of 2 x 2 pixels.

    Empty pixels (`fill`) count for nothing; four of them are an empty one. Halves are rounded up.
    An odd last row or column is halved alone.

    >>> halve_mean(np.array([[1, 2, -1], [4, -1, -1]], dtype="int16"), -1)
    array([[ 2, -1]], dtype=int16)
    """
    return _halved(_mean, values, fill)


def halve_mode(values: Array, fill: int) -> Array:
    """Return a map (y, x) of codes at half the resolution: the code that most of 2 x 2 have.

    Empty pixels (`fill`) count for nothing. Of codes that are equally frequent the first one
    counts, row by row.

    >>> halve_mode(np.array([[7, 3, 255], [3, 255, 255]], dtype="uint8"), 255)
    array([[  3, 255]], dtype=uint8)
    """
    return _halved(_mode, values, fill)


def _halved(kernel: Any, values: Array, fill: int) -> Array:
    height, width = values.shape
    out = np.empty((-(-height // 2), -(-width // 2)), dtype=values.dtype)
    kernel(values, fill, out)
    return out


@njit(cache=True, nogil=True)
def _mean(values: Any, fill: int, out: Any) -> None:
    height, width = values.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            total, count = 0, 0
            for row in range(2 * y, min(2 * y + 2, height)):
                for column in range(2 * x, min(2 * x + 2, width)):
                    value = int(values[row, column])
                    if value != fill:
                        total += value
                        count += 1
            # Shifts round down as divisions do, and are ten times as fast.
            if count == 4:
                out[y, x] = (total + 2) >> 2
            elif count == 0:
                out[y, x] = fill
            elif count == 3:
                out[y, x] = (2 * total + 3) // 6
            else:
                out[y, x] = (total + count - 1) >> (count - 1)


@njit(cache=True, nogil=True)
def _mode(values: Any, fill: int, out: Any) -> None:
    height, width = values.shape
    four = np.empty(4, dtype=np.int64)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            count = 0
            for row in range(2 * y, min(2 * y + 2, height)):
                for column in range(2 * x, min(2 * x + 2, width)):
                    value = int(values[row, column])
                    if value != fill:
                        four[count] = value
                        count += 1
            chosen, votes = fill, 0
            for one in range(count):
                same = 0
                for other in range(count):
                    same += four[one] == four[other]
                if same > votes:
                    chosen, votes = four[one], same
            out[y, x] = chosen
