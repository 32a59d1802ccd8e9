"""The dates that a series is told on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ascending(days: NDArray[np.integer[Any]], series: NDArray[Any]) -> NDArray[np.int64]:
    """Return the days of a series (t, ...) as int64.

    Raises ValueError unless there is one for each date, later than the one before.

    >>> ascending(np.array([0, 5, 20]), np.zeros((3, 2, 2)))
    array([ 0,  5, 20])
    """
    if days.shape != series.shape[:1] or np.any(np.diff(days) <= 0):
        raise ValueError(
            f"expected one ascending day for each of {series.shape[0]} dates, got {days.shape}"
        )
    return days.astype(np.int64)
