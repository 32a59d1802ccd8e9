"""Snow indicators of a season from daily snow codes: the yearly synthesis of Let-It-Snow.

Source: Let-It-Snow, snow annual map; Gascoin et al. 2019, 10.5194/essd-11-493-2019.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alpage.science.dates import ascending
from alpage.science.snow import CLOUD, SNOW

SEASON_FILL = 65535
"""No value, in every layer of `Season` but `nobs`."""

MINIMUM_SNOW_DAYS = 10
"""Onset and melt-out are told of pixels with more snow days than this."""

CONFIRMATION_DAYS = 15
"""Longest gap over which interpolated snow was found satisfactory (Let-It-Snow, annual map)."""


@dataclass(frozen=True)
class Season:
    """Indicators of one season: uint16, shape (y, x), SEASON_FILL where not told."""

    scd: NDArray[np.uint16]
    """Snow cover duration, days."""
    sod: NDArray[np.uint16]
    """Snow onset: first day of the longest snow period, days since the season's first day."""
    smod: NDArray[np.uint16]
    """Snow melt-out: last day of the longest snow period, same origin."""
    nsp: NDArray[np.uint16]
    """Snow periods that begin in the season after a day without snow."""
    nobs: NDArray[np.uint16]
    """Clear observations in the season; 0 where there is none, never fill."""


def season_synthesis(
    codes: NDArray[np.uint8], days: NDArray[np.integer[Any]], *, first: int, last: int
) -> Season:
    """Return the indicators of the season between day `first` and day `last`, both in it.

    `codes` (t, y, x) of the dates that were acquired, those in the margins around the season as
    well: 0 no snow, 1 to 100 snow, anything above a gap. `days` (t,), ascending, tells their days
    in the count of `first` and `last`. Gaps are filled by linear interpolation between
    clear days, margins included, and count as snow from one half on; before the first and
    after the last clear day the nearest one holds. Pixels without a clear day in the
    season are SEASON_FILL, and so are onset and melt-out at 10 snow days or fewer: 0 is a
    day like others. Of equally long snow periods the first one counts.

    >>> codes = np.array([0, 100, 100, 254, 0], dtype="uint8").reshape(5, 1, 1)
    >>> season = season_synthesis(codes, np.array([0, 5, 20, 25, 29]), first=0, last=29)
    >>> [int(layer[0, 0]) for layer in (season.scd, season.sod, season.smod, season.nobs)]
    [22, 3, 24, 4]
    """
    if not first <= last < first + SEASON_FILL:
        raise ValueError(f"expected first <= last and a season, got {first} and {last}")
    days = ascending(days, codes)
    shape_yx = codes.shape[1:]
    nobs, scd, nsp, start, length = _synthesise(_by_pixel(codes), days, first, last)
    unseen = nobs == 0
    undated = unseen | (scd <= MINIMUM_SNOW_DAYS)

    def layer(values: NDArray[np.int32], hidden: NDArray[np.bool_]) -> NDArray[np.uint16]:
        return np.where(hidden, SEASON_FILL, values).astype(np.uint16).reshape(shape_yx)

    return Season(
        scd=layer(scd, unseen),
        sod=layer(start - first, undated),
        smod=layer(start + length - 1 - first, undated),
        nsp=layer(nsp, unseen),
        nobs=nobs.astype(np.uint16).reshape(shape_yx),
    )


def _by_pixel(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return codes.reshape(codes.shape[0], math.prod(codes.shape[1:]))


_BARE, _SNOWY = 1, 2


@njit(cache=True, nogil=True)
def _synthesise(codes: Any, days: Any, first: int, last: int) -> Any:
    n_pixels = codes.shape[1]
    state = np.zeros(n_pixels, np.uint8)  # of the last clear day, 0 before the first
    seen = np.zeros(n_pixels, np.int32)  # that day
    begun = np.zeros(n_pixels, np.int32)  # first day of the snow period under way
    nobs = np.zeros(n_pixels, np.int32)
    periods = np.zeros((4, n_pixels), np.int32)  # snow days, onsets, longest: start, length
    for t in range(days.size):
        day = days[t]
        for i in range(n_pixels):
            code = codes[t, i]
            if code > SNOW:
                continue
            nobs[i] += first <= day <= last
            # Interpolated snow reaches one half in the middle of the gap, that day included.
            half = (day - seen[i] + 1) // 2
            if code > 0 and state[i] == 0:
                begun[i] = first
            elif code > 0 and state[i] == _BARE:
                begun[i] = seen[i] + half
            elif code == 0 and state[i] == _SNOWY:
                _close_period(periods, i, begun[i], day - half, first, last)
            seen[i] = day
            state[i] = _SNOWY if code > 0 else _BARE
    for i in range(n_pixels):
        if state[i] == _SNOWY:
            _close_period(periods, i, begun[i], last, first, last)
    return nobs, periods[0], periods[1], periods[2], periods[3]


@njit(cache=True, nogil=True)
def _close_period(periods: Any, i: int, begin: int, end: int, first: int, last: int) -> None:
    start = max(begin, first)
    length = min(end, last) - start + 1
    if length <= 0:
        return
    periods[0, i] += length
    if begin > first:
        periods[1, i] += 1
    if length > periods[3, i]:
        periods[2, i] = start
        periods[3, i] = length


def drop_isolated_snow(
    codes: NDArray[np.uint8],
    days: NDArray[np.integer[Any]],
    *,
    confirmation_days: int = CONFIRMATION_DAYS,
) -> NDArray[np.uint8]:
    """Return the daily codes with unconfirmed snow turned into CLOUD: uint8 (t, y, x).

    `codes` and `days` as in `season_synthesis`.

    A snow observation is unconfirmed if the clear observations before and after it show
    no snow, and no other snow observation lies within `confirmation_days`. The first and
    last clear observation of a pixel are never dropped: nothing contradicts them.

    Reason: the ice clouds that cloud masks miss have the reflectances of snow in every
    band that Let-It-Snow looks at, so one date cannot tell them apart. Time can: a cloud
    is gone in hours and independent between passes, snow cover that a season synthesis is
    about stays for days. Interpolation would stretch one false date over half of the gaps
    on both sides. The price is snow that fell, was seen once and melted; its duration is
    unknown anyway. An observation without contradiction is kept however long the gaps, so
    cloudy winters lose nothing. Not part of Let-It-Snow.

    >>> codes = np.array([0, 100, 0], dtype="uint8").reshape(3, 1, 1)
    >>> drop_isolated_snow(codes, np.array([0, 4, 8])).ravel()
    array([  0, 205,   0], dtype=uint8)
    """
    if confirmation_days < 0:
        raise ValueError(f"confirmation_days must not be negative, got {confirmation_days}")
    kept = codes.copy()
    _drop_isolated_snow(_by_pixel(kept), ascending(days, codes), confirmation_days)
    return kept


@njit(cache=True, nogil=True)
def _drop_isolated_snow(codes: Any, days: Any, confirmation_days: int) -> None:
    n_pixels = codes.shape[1]
    bare = np.zeros(n_pixels, np.bool_)  # the last clear date showed no snow
    snowy = np.full(n_pixels, -1, np.int32)  # the last date with snow
    doubted = np.zeros(n_pixels, np.bool_)  # ... which nothing before it confirms
    for t in range(days.size):
        for i in range(n_pixels):
            code = codes[t, i]
            if code > SNOW:
                continue
            if code == 0:
                bare[i] = True
                continue
            near = snowy[i] >= 0 and days[t] - days[snowy[i]] <= confirmation_days
            if doubted[i] and bare[i] and not near:
                codes[snowy[i], i] = CLOUD
            doubted[i] = bare[i] and not near
            snowy[i] = t
            bare[i] = False
    for i in range(n_pixels):
        if doubted[i] and bare[i]:
            codes[snowy[i], i] = CLOUD
