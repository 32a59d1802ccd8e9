"""Single dates that fall out of a vegetation series: clouds and shadows that no mask caught.

Source of the idea: spike detection against both neighbours, as in TIMESAT (Jönsson and Eklundh
2004, 10.1016/j.cageo.2004.05.006). Only dips are judged: clouds, shadows and haze lower NDVI.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alpage.science.dates import ascending


def drop_dips(
    values: NDArray[np.int16], day: NDArray[np.int64], *, fill: int, depth: int, span_days: int
) -> NDArray[np.int16]:
    """Return a series without its single-date dips: int16 (t, y, x), `fill` in their place.

    A dip is an observation more than `depth` below both the clear observation before and the
    one after it, where these lie at most `span_days` apart. Vegetation that is cut or dries
    needs longer to come back, so that the later neighbour is low as well; where neighbours
    lie further apart nothing is judged. `day` (t,) ascending.

    >>> values = np.array([7000, 3000, 7200, 7100, 2500], dtype="int16").reshape(5, 1, 1)
    >>> day = np.array([0, 5, 10, 15, 20])
    >>> drop_dips(values, day, fill=-32768, depth=1000, span_days=30).ravel()
    array([  7000, -32768,   7200,   7100,   2500], dtype=int16)
    """
    days = ascending(day, values)
    kept = values.copy()
    flat = values.reshape(values.shape[0], -1)
    _drop_dips(flat, kept.reshape(flat.shape), days, fill, depth, span_days)
    return kept


@njit(cache=True, nogil=True)
def _drop_dips(values: Any, kept: Any, day: Any, fill: int, depth: int, span: int) -> None:
    n_dates, n_pixels = values.shape
    before = np.full(n_pixels, -1, np.int64)  # the last but one clear date
    middle = np.full(n_pixels, -1, np.int64)  # the last one, which is judged by the next
    for t in range(n_dates):
        for i in range(n_pixels):
            if values[t, i] == fill:
                continue
            a, b = before[i], middle[i]
            near = a >= 0 and day[t] - day[a] <= span
            if near and min(values[a, i], values[t, i]) - values[b, i] > depth:
                kept[b, i] = fill
            before[i], middle[i] = b, t
