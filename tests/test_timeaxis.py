"""Calendars against the standard library's dates, and as a bijection."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpage.timeaxis import Calendar, Span, covering, nested_slots, slot_of, start_of

DAYS = st.dates(dt.date(1950, 1, 1), dt.date(2100, 12, 31))
CALENDARS = st.sampled_from(list(Calendar))


def _first_day(calendar: Calendar, day: dt.date) -> dt.date:
    """The first day of the slot that holds a day, by the standard library alone."""
    match calendar:
        case Calendar.DAY:
            return day
        case Calendar.DEKAD:
            return day.replace(day=1 if day.day <= 10 else 11 if day.day <= 20 else 21)
        case Calendar.MONTH:
            return day.replace(day=1)
        case Calendar.YEAR:
            return day.replace(month=1, day=1)
        case Calendar.SEASON:
            return dt.date(day.year if day.month >= 9 else day.year - 1, 9, 1)


@given(CALENDARS, DAYS)
def test_slot_holds_its_day(calendar: Calendar, day: dt.date) -> None:
    slot = slot_of(calendar, day)
    assert start_of(calendar, slot) == np.datetime64(_first_day(calendar, day), "D")
    assert start_of(calendar, slot) <= np.datetime64(day, "D") < start_of(calendar, slot + 1)


@given(CALENDARS, st.integers(-500, 3000))
def test_slots_are_numbered_without_gaps(calendar: Calendar, slot: int) -> None:
    assert slot_of(calendar, start_of(calendar, slot)) == slot
    assert slot_of(calendar, start_of(calendar, slot + 1) - np.timedelta64(1, "D")) == slot


@given(CALENDARS, DAYS, DAYS, st.integers(1, 400))
def test_windows_are_counted_from_the_epoch(
    calendar: Calendar, one: dt.date, other: dt.date, window: int
) -> None:
    span = covering(calendar, min(one, other), max(one, other))
    wide = span.widened(window)
    assert wide.start % window == 0 == wide.stop % window
    assert wide.start <= span.start < span.stop <= wide.stop
    assert list(span.windows(window)) == sorted({int(s) // window for s in span.slots})


@pytest.mark.parametrize(
    ("calendar", "segment", "expected"),
    [
        pytest.param(Calendar.DEKAD, Calendar.YEAR, 36, id="dekads-in-year"),
        pytest.param(Calendar.MONTH, Calendar.SEASON, 12, id="months-in-season"),
        pytest.param(Calendar.DAY, Calendar.DAY, 1, id="same"),
    ],
)
def test_nested_slots(calendar: Calendar, segment: Calendar, expected: int) -> None:
    assert nested_slots(calendar, segment) == expected
    for number in (40, 48, 50):
        assert len(Span(segment, number, number + 1).on(calendar)) == expected


def test_nested_slots_refuses_what_varies() -> None:
    with pytest.raises(ValueError, match="year does not hold a fixed number of day"):
        nested_slots(Calendar.DAY, Calendar.YEAR)
