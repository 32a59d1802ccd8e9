"""Calendars: the regular time axes of layers, counted from one fixed epoch.

A slot is one step of a calendar (one day, one dekad, ...). Slots are numbered
from 1970-01-01 for every cube, so that cubes line up and a cube can grow in
both directions without renaming anything.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Dates = NDArray[np.datetime64]
Slots = NDArray[np.int64]


class Calendar(StrEnum):
    """A regular time axis. A season is a hydrological year, from 1 September."""

    DAY = "day"
    DEKAD = "dekad"
    MONTH = "month"
    SEASON = "season"
    YEAR = "year"


MONTHS_OF = {Calendar.MONTH: 1, Calendar.YEAR: 12, Calendar.SEASON: 12}
ONE_DAY = np.timedelta64(1, "D")
SEASON_FIRST_MONTH = 8  # September, counted from 0
DAYS_OF = {
    Calendar.DAY: 1.0,
    Calendar.DEKAD: 365.2425 / 36,
    Calendar.MONTH: 365.2425 / 12,
    Calendar.SEASON: 365.2425,
    Calendar.YEAR: 365.2425,
}


def slot_of(calendar: Calendar, date: Any) -> Slots:
    """Return the slot that holds each date.

    Parameters
    ----------
    calendar
        The axis to count on.
    date
        One date or an array of dates, anything numpy reads as ``datetime64[D]``.

    Returns
    -------
    int64, same shape. Dekads are days 1-10, 11-20 and 21-end of a month.

    >>> slot_of(Calendar.DEKAD, ["1970-01-31", "1970-02-01"])
    array([2, 3])
    >>> slot_of(Calendar.SEASON, ["1970-08-31", "1970-09-01"])
    array([-1,  0])
    """
    days = np.asarray(date, dtype="datetime64[D]")
    if calendar is Calendar.DAY:
        return days.astype(np.int64)
    months = days.astype("datetime64[M]").astype(np.int64)
    if calendar is Calendar.DEKAD:
        day_of_month = (days - days.astype("datetime64[M]")).astype(np.int64)
        return np.asarray(months * 3 + np.minimum(day_of_month // 10, 2))
    if calendar is Calendar.SEASON:
        return np.asarray((months - SEASON_FIRST_MONTH) // 12)
    return np.asarray(months // MONTHS_OF[calendar])


def start_of(calendar: Calendar, slot: Any) -> Dates:
    """Return the first day of each slot; the last is the day before the next slot's first.

    >>> start_of(Calendar.SEASON, 48)
    np.datetime64('2018-09-01')
    """
    slots = np.asarray(slot, dtype=np.int64)
    if calendar is Calendar.DAY:
        return slots.astype("datetime64[D]")
    if calendar is Calendar.DEKAD:
        first_of_month = (slots // 3).astype("datetime64[M]").astype("datetime64[D]")
        return np.asarray(first_of_month + 10 * (slots % 3) * ONE_DAY)
    months = slots * MONTHS_OF[calendar]
    if calendar is Calendar.SEASON:
        months = months + SEASON_FIRST_MONTH
    return months.astype("datetime64[M]").astype("datetime64[D]")


@dataclass(frozen=True)
class Span:
    """A half-open range of slots of one calendar."""

    calendar: Calendar
    start: int
    stop: int

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    @property
    def slots(self) -> Slots:
        """Every slot of the span."""
        return np.arange(self.start, self.stop, dtype=np.int64)

    @property
    def dates(self) -> Dates:
        """The first day of every slot."""
        return start_of(self.calendar, self.slots)

    @property
    def first_day(self) -> np.datetime64:
        """The first day of the first slot."""
        return _day(self.calendar, self.start)

    @property
    def last_day(self) -> np.datetime64:
        """The last day of the last slot."""
        return _day(self.calendar, self.stop) - ONE_DAY

    def on(self, calendar: Calendar, *, margin_days: int = 0) -> "Span":
        """Return the slots of another calendar that overlap this span, widened by a margin.

        >>> Span(Calendar.YEAR, 48, 49).on(Calendar.DEKAD)
        Span(calendar=<Calendar.DEKAD: 'dekad'>, start=1728, stop=1764)
        """
        margin = margin_days * ONE_DAY
        return covering(calendar, self.first_day - margin, self.last_day + margin)

    def widened(self, window: int) -> "Span":
        """Return the smallest span of whole windows from the epoch that holds this one."""
        return Span(self.calendar, self.start // window * window, -(-self.stop // window) * window)

    def windows(self, window: int) -> range:
        """Return the numbers of the windows that this span touches."""
        return range(self.start // window, -(-self.stop // window))


def _day(calendar: Calendar, slot: int) -> np.datetime64:
    return np.datetime64(start_of(calendar, slot).item(), "D")


def covering(calendar: Calendar, first_day: Any, last_day: Any) -> Span:
    """Return the span of slots that overlap the days from the first to the last, both included."""
    return Span(calendar, int(slot_of(calendar, first_day)), int(slot_of(calendar, last_day)) + 1)


def nested_slots(calendar: Calendar, segment: Calendar) -> int:
    """Return how many slots of a calendar make one slot of a segment.

    Raises ValueError where the number is not always the same (days in a year),
    or slots straddle segments (years in a season).

    >>> nested_slots(Calendar.DEKAD, Calendar.YEAR)
    36
    """
    if calendar is segment:
        return 1
    fixed = {
        (Calendar.DEKAD, Calendar.MONTH): 3,
        (Calendar.DEKAD, Calendar.YEAR): 36,
        (Calendar.DEKAD, Calendar.SEASON): 36,
        (Calendar.MONTH, Calendar.YEAR): 12,
        (Calendar.MONTH, Calendar.SEASON): 12,
    }
    try:
        return fixed[calendar, segment]
    except KeyError:
        raise ValueError(f"a {segment} does not hold a fixed number of {calendar} slots") from None
