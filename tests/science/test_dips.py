"""Dips: by hand, and against a plain reading of the rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alpage.science.dips import drop_dips

FILL = -32768


def _plain(series: list[int], day: list[int], depth: int, span: int) -> list[int]:
    clear = [t for t, value in enumerate(series) if value != FILL]
    kept = list(series)
    for a, b, c in zip(clear, clear[1:], clear[2:], strict=False):
        below = series[b] < series[a] - depth and series[b] < series[c] - depth
        if below and day[c] - day[a] <= span:
            kept[b] = FILL
    return kept


@given(
    arrays(np.int16, (12, 2, 3), elements=st.sampled_from([FILL, 1000, 3000, 6000, 6900, 7100])),
    st.lists(st.integers(1, 20), min_size=12, max_size=12),
    st.integers(0, 5000),
    st.integers(2, 60),
)
def test_equals_the_rule_read_plainly(
    values: np.ndarray, steps: list[int], depth: int, span: int
) -> None:
    day = np.cumsum(steps)
    found = drop_dips(values, day, fill=FILL, depth=depth, span_days=span)
    for y in range(2):
        for x in range(3):
            expected = _plain(values[:, y, x].tolist(), day.tolist(), depth, span)
            assert found[:, y, x].tolist() == expected


@pytest.mark.parametrize(
    ("series", "dropped"),
    [
        pytest.param([7000, 3000, 7000], {1}, id="cloud"),
        pytest.param([7000, 3000, 3200, 4000], set(), id="mown"),
        pytest.param([3000, 7000, 3000], set(), id="peaks-stay"),
        pytest.param([7000, 6100, 7000], set(), id="shallow"),
    ],
)
def test_dips_by_hand(series: list[int], dropped: set[int]) -> None:
    values = np.array(series, dtype="int16").reshape(-1, 1, 1)
    found = drop_dips(values, np.arange(len(series)) * 5, fill=FILL, depth=1000, span_days=30)
    assert set(np.flatnonzero(found.ravel() == FILL)) == dropped


def test_far_neighbours_judge_nothing() -> None:
    values = np.array([7000, 3000, 7000], dtype="int16").reshape(-1, 1, 1)
    found = drop_dips(values, np.array([0, 20, 40]), fill=FILL, depth=1000, span_days=30)
    assert (found == values).all()
