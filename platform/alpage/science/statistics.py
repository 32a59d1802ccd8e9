"""Exact counts over a layer's pixels: what the quality gate and the ledger keep."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def filled_statistics(values: NDArray[Any], fill: int) -> tuple[int, int, int, int]:
    """Return count, minimum, maximum and sum of the pixels that are not fill.

    Zeros where every pixel is fill. Any integer dtype and shape.

    >>> filled_statistics(np.array([[3, -1], [5, -1]], dtype="int16"), -1)
    (2, 3, 5, 8)
    """
    count, low, high, total = _statistics(values.reshape(-1), fill)
    return int(count), int(low), int(high), int(total)


@njit(cache=True, nogil=True)
def _statistics(values: Any, fill: int) -> Any:
    count = 0
    total = np.int64(0)
    low = np.int64(np.iinfo(np.int64).max)
    high = np.int64(np.iinfo(np.int64).min)
    for value in values:
        wide = np.int64(value)
        if wide != fill:
            count += 1
            total += wide
            low = min(low, wide)
            high = max(high, wide)
    if count == 0:
        return 0, np.int64(0), np.int64(0), total
    return count, low, high, total
