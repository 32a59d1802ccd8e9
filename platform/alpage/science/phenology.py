"""The main season of a vegetation curve: when it starts, peaks and ends.

Source: thresholds of the amplitude on either side, as in TIMESAT (Jönsson and Eklundh 2004,
10.1016/j.cageo.2004.05.006); 25 % and 15 % are those of HR-VPP of Copernicus.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

SPLIT = 0.5
"""Part of the amplitude by which a curve must fall and rise again to begin another season.

Less is a cut meadow or a late cloud, not the bare soil between two crops.
"""

# What bounds a side of a season, going outwards from the peak.
_NEXT_SEASON, _HIGHER, _DATA_END, _STILL_FALLING = 0, 1, 2, 3

_STRIP = 64  # pixels whose curves are gathered at once


class PhenologyParameters(BaseModel):
    """Where a season begins and ends on its curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fraction_start: float = Field(
        0.25, gt=0, lt=1, description="rise above the base before the peak that starts a season"
    )
    fraction_end: float = Field(
        0.15, gt=0, lt=1, description="rise above the base after the peak that ends a season"
    )
    minimum_amplitude: float = Field(
        0.1, ge=0, le=2, description="amplitude below which there is no season, NDVI"
    )


class SeasonMetrics(NamedTuple):
    """One season: days on the axis that was given, values in the unit of the curve, NaN: none."""

    start: float
    peak: float
    end: float
    length: float
    base_left: float
    base_right: float
    amplitude: float
    peak_value: float


class Phenology(NamedTuple):
    """Seasons of a block: int16, shape (y, x)."""

    start_of_season: NDArray[np.int16]
    """Day of the year from 1; below 1 where it lies in the year before."""
    peak_of_season: NDArray[np.int16]
    """Day of the year from 1; 0 or the year's days and one more where it lies just beyond."""
    end_of_season: NDArray[np.int16]
    """Day of the year from 1; above 365 or 366 where it lies in the year after."""
    season_length: NDArray[np.int16]
    """Days from start to end."""
    amplitude: NDArray[np.int16]
    """Peak above the mean of the two bases, or above the one that was seen, 1e-4."""
    peak_value: NDArray[np.int16]
    """Value at the peak, 1e-4."""


def season_metrics(
    curve: ArrayLike,
    day: ArrayLike,
    *,
    first_day: float,
    last_day: float,
    fraction_start: float = 0.25,
    fraction_end: float = 0.15,
) -> SeasonMetrics:
    """Return the main season of one curve.

    `curve` of shape (k,), NaN where there is none; `day` of shape (k,), ascending. Of the
    maxima from `first_day` to `last_day` the main one stands out most, by the mean of its
    falls to either side: a green winter does not hide the crop of the summer. A curve that
    still rises where it ends has no maximum there. The peak lies between slots, on a
    parabola through three of them. A side of the season reaches to the end of the curve, the
    next higher value, or the low point before a rise by SPLIT of the amplitude; its base is
    its least value. Start and end are the crossings, nearest to the peak, of the side's base
    plus the fraction of the rise; the curve is read linearly between slots.

    Where the curve ends before a side does, that side is NaN and the amplitude is above the
    other base: a side still falling at its end counts if it got below the crossing as
    measured from the other base, one that turned without another season following if it
    fell by SPLIT of the other side's fall.

    >>> day = np.arange(-30, 400, 10.0)
    >>> curve = 0.5 - 0.3 * np.cos(2 * np.pi * day / 360)
    >>> season = season_metrics(curve, day, first_day=0, last_day=350, fraction_start=0.5)
    >>> season.start, season.peak, round(season.amplitude, 3)
    (90.0, 180.0, 0.6)
    """
    values, days = np.asarray(curve, np.float64), np.asarray(day, np.float64)
    if values.ndim != 1 or values.shape != days.shape or np.any(np.diff(days) <= 0):
        raise ValueError(
            f"expected a curve and as many ascending days, got shapes {values.shape}, {days.shape}"
        )
    for fraction in (fraction_start, fraction_end):
        if not 0 < fraction < 1:
            raise ValueError(f"expected 0 < fraction < 1, got {fraction}")
    limits = (float(first_day), float(last_day), float(fraction_start), float(fraction_end))
    return SeasonMetrics(*(float(value) for value in _season(values, days, limits)))


def phenology_block(
    curve: NDArray[np.int16],
    slot_day: NDArray[np.number[Any]],
    *,
    first_day: int,
    last_day: int,
    fill: int,
    parameters: PhenologyParameters,
) -> Phenology:
    """Return the main season of each pixel as `season_metrics` finds it.

    `curve` (slot, y, x) in 1e-4 with `fill`; `slot_day` the day that each slot stands for,
    ascending, fractions allowed, 0 being 1 January of the year. All layers are `fill` where
    there is no peak from `first_day` to `last_day` or the amplitude is below the least one;
    a side that is missing leaves only its own date and the length at `fill`.

    >>> day = np.arange(-30, 400, 10, dtype="int32")
    >>> curve = np.rint(5000 - 3000 * np.cos(2 * np.pi * day / 360)).astype("int16")
    >>> season = phenology_block(
    ...     curve[:, None, None], day, first_day=0, last_day=364, fill=-32768,
    ...     parameters=PhenologyParameters(fraction_start=0.5))
    >>> [int(layer[0, 0]) for layer in season]
    [91, 181, 316, 225, 6000, 8000]
    """
    if curve.ndim != 3 or slot_day.shape != curve.shape[:1] or np.any(np.diff(slot_day) <= 0):
        raise ValueError(
            f"expected a curve (slot, y, x) and one ascending day per slot, "
            f"got shapes {curve.shape} and {slot_day.shape}"
        )
    limits = (
        float(first_day),
        float(last_day),
        parameters.fraction_start,
        parameters.fraction_end,
    )
    flat = curve.reshape(curve.shape[0], curve.shape[1] * curve.shape[2])
    least = parameters.minimum_amplitude * 1e4
    layers = _phenology(flat, slot_day.astype(np.float64), limits, least, fill)
    return Phenology(*layers.reshape(6, *curve.shape[1:]))


@njit(cache=True, nogil=True)
def _reach(curve: Any, peak: int, step: int) -> Any:
    """The lowest slot on one side, the slot at which the side stops, and what is there."""
    stop = peak + step
    base = peak
    while 0 <= stop < curve.size and not np.isnan(curve[stop]):
        if curve[stop] > curve[peak]:
            return base, stop, _HIGHER
        if curve[stop] < curve[base]:
            base = stop
        stop += step
    return base, stop, _STILL_FALLING if base + step == stop else _DATA_END


@njit(cache=True, nogil=True)
def _turn(curve: Any, peak: int, stop: int, least: float) -> int:
    """The low point towards `stop` before a rise by `least`, after a fall by as much; or -1."""
    step = 1 if stop > peak else -1
    low = peak
    for slot in range(peak + step, stop, step):
        if curve[slot] < curve[low]:
            low = slot
        if curve[peak] - curve[low] >= least and curve[slot] - curve[low] >= least:
            return low
    return -1


@njit(cache=True, nogil=True)
def _sides(curve: Any, first: int, last: int) -> Any:
    """Slot of the base left of the maximum from `first` to `last`, its bound; the same right."""
    left, stop_left, bound_left = _reach(curve, first, -1)
    right, stop_right, bound_right = _reach(curve, last, 1)
    least = SPLIT * (curve[first] - min(curve[left], curve[right]))
    turn_left = _turn(curve, first, stop_left, least)
    turn_right = _turn(curve, last, stop_right, least)
    if turn_left >= 0:
        left, bound_left = turn_left, _NEXT_SEASON
    if turn_right >= 0:
        right, bound_right = turn_right, _NEXT_SEASON
    return left, bound_left, right, bound_right


@njit(cache=True, nogil=True)
def _is_cut(bound: int, base: float, other_base: float, peak: float, fraction: float) -> Any:
    """Whether the curve ended before this side of the season did."""
    if bound == _STILL_FALLING:
        return base > other_base + fraction * (peak - other_base)
    return bound == _DATA_END and peak - base < SPLIT * (peak - other_base)


@njit(cache=True, nogil=True)
def _plateau_end(curve: Any, start: int) -> int:
    """The last slot of a maximum that begins at `start`, -1 if there is none."""
    if start == 0 or not curve[start - 1] < curve[start]:
        return -1
    end = start
    while end + 1 < curve.size and curve[end + 1] == curve[start]:
        end += 1
    if end + 1 < curve.size and curve[end + 1] < curve[start]:
        return end
    return -1


@njit(cache=True, nogil=True)
def _main_peak(curve: Any, day: Any, limits: Any) -> Any:
    """First and last slot of the maximum that stands out most from both of its sides, or -1, -1."""
    best, best_end, best_falls = -1, -1, 0.0
    for slot in range(curve.size):
        end = _plateau_end(curve, slot)
        if end < 0 or not limits[0] <= (day[slot] + day[end]) / 2.0 <= limits[1]:
            continue
        left, bound_left, right, bound_right = _sides(curve, slot, end)
        fall_left, fall_right = curve[slot] - curve[left], curve[slot] - curve[right]
        least = SPLIT * max(fall_left, fall_right)
        # A shoulder of a higher season hardly falls on the side of that season.
        if bound_left == _HIGHER and fall_left < least:
            continue
        if bound_right == _HIGHER and fall_right < least:
            continue
        if fall_left + fall_right > best_falls:
            best, best_end, best_falls = slot, end, fall_left + fall_right
    return best, best_end


@njit(cache=True, nogil=True)
def _summit(curve: Any, day: Any, start: int, end: int) -> Any:
    """Day and value of the maximum: of the parabola through three slots, or amid a plateau.

    Two equal slots are no plateau: a curve of whole numbers passes its peak between them.
    """
    if end > start + 1:
        return (day[start] + day[end]) / 2.0, curve[start]
    left, right = day[start] - day[start - 1], day[start + 1] - day[start]
    rise = (curve[start] - curve[start - 1]) / left
    fall = (curve[start + 1] - curve[start]) / right
    bend = (fall - rise) / (left + right)
    slope = (rise * right + fall * left) / (left + right)
    return day[start] - slope / (2.0 * bend), curve[start] - slope * slope / (4.0 * bend)


@njit(cache=True, nogil=True)
def _crossing(curve: Any, day: Any, peak: int, base: int, level: float) -> Any:
    """The day nearest to the peak on which the curve is at `level` on the side of `base`."""
    step = 1 if base > peak else -1
    slot = peak
    while slot != base:
        slot += step
        if curve[slot] <= level:
            inner = slot - step
            if curve[inner] <= level:
                return day[inner]
            part = (level - curve[slot]) / (curve[inner] - curve[slot])
            return day[slot] + part * (day[inner] - day[slot])
    return np.nan


@njit(cache=True, nogil=True)
def _season(curve: Any, day: Any, limits: Any) -> Any:
    """The fields of `SeasonMetrics`."""
    nan = np.nan
    first, last = _main_peak(curve, day, limits)
    if first < 0:
        return nan, nan, nan, nan, nan, nan, nan, nan
    peak_day, peak = _summit(curve, day, first, last)
    left, bound_left, right, bound_right = _sides(curve, first, last)
    base_left, base_right = curve[left], curve[right]
    level_left = base_left + limits[2] * (peak - base_left)
    level_right = base_right + limits[3] * (peak - base_right)
    start = _crossing(curve, day, first, left, level_left)
    end = _crossing(curve, day, last, right, level_right)
    if _is_cut(bound_left, base_left, base_right, peak, limits[2]):
        start, base_left = nan, nan
        amplitude = peak - base_right
    elif _is_cut(bound_right, base_right, base_left, peak, limits[3]):
        end, base_right = nan, nan
        amplitude = peak - base_left
    else:
        amplitude = peak - (base_left + base_right) / 2.0
    return start, peak_day, end, end - start, base_left, base_right, amplitude, peak


@njit(cache=True, nogil=True)
def _phenology(curve: Any, day: Any, limits: Any, least: float, fill: int) -> Any:
    n_slots, n_pixels = curve.shape
    layers = np.full((6, n_pixels), fill, np.int16)
    gathered = np.empty((_STRIP, n_slots))
    for begin in range(0, n_pixels, _STRIP):
        size = min(_STRIP, n_pixels - begin)
        for k in range(n_slots):
            for i in range(size):
                value = curve[k, begin + i]
                gathered[i, k] = np.nan if value == fill else value
        for i in range(size):
            start, peak, end, _, _, _, amplitude, value = _season(gathered[i], day, limits)
            if not amplitude >= least:
                continue
            pixel = begin + i
            layers[1, pixel] = np.rint(peak) + 1
            layers[4, pixel] = np.rint(amplitude)
            # A parabola through clipped values may rise above them.
            layers[5, pixel] = min(np.rint(value), 10000.0)
            if not np.isnan(start):
                layers[0, pixel] = np.rint(start) + 1
            if not np.isnan(end):
                layers[2, pixel] = np.rint(end) + 1
            if not (np.isnan(start) or np.isnan(end)):
                layers[3, pixel] = np.rint(end) - np.rint(start)
    return layers
