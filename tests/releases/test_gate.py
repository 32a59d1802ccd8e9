"""The gate: verdicts and messages, on numbers that are counted by hand."""

import json

import numpy as np
import pytest

from alpage.cube import layout as cube_layout
from alpage.cube.axes import axes_for
from alpage.cube.ledger import BlockId, Ledger, Record
from alpage.errors import GateFailed
from alpage.grid import Grid
from alpage.product import Band, Layer, Observe, Product
from alpage.releases.gate import BlockStatistics, check, check_cube, judge
from alpage.timeaxis import Calendar, covering

from .conftest import begin


def layer(**limits: object) -> Layer:
    return Layer("ndvi", Calendar.DAY, "int16", -32768, scale=1e-4, **limits)


def blocks(*rows: tuple[int, int, int, int, int], first: int = 0) -> BlockStatistics:
    """Blocks of one tile, each (pixels, filled, minimum, maximum, sum)."""
    return BlockStatistics(np.array(rows, dtype="int64")[:, None, None, :], first)


EMPTY = (0, 0, 0, 0, 0)


def test_range_passes_and_tells_what_was_found() -> None:
    one = check(
        [layer(valid_range=(-10000, 10000))],
        {"day/ndvi": blocks((100, 50, -200, 9000, 0), EMPTY, (100, 1, 10000, 10000, 10000))},
    ).checks
    assert [(c.check, c.value, c.limit, c.verdict) for c in one] == [
        ("valid_range", [-200, 10000], [-10000, 10000], "pass")
    ]


def test_range_names_tile_block_and_value() -> None:
    values = np.zeros((3, 2, 2, 5), dtype="int64")
    values[1, 0, 1] = 100, 4, -10500, 0, 0
    values[2, 1, 0] = 100, 4, 0, 12000, 0
    with pytest.raises(
        GateFailed,
        match=r"^gate: valid_range: day/ndvi, tile 1,0, block 572 holds 12000 \(1.2 1\), expected "
        r"-10000 to 10000 \(and 1 more block beyond it\)\. Readers keep the cube they have$",
    ):
        check([layer(valid_range=(-10000, 10000))], {"day/ndvi": BlockStatistics(values, 570)})


def test_range_of_blocks_never_filled_counts_for_nothing() -> None:
    statistics = {"day/ndvi": blocks(EMPTY, (100, 0, 0, 0, 0))}
    report = check([layer(valid_range=(5, 10))], statistics)
    assert report.checks[0].verdict == "not checked"
    assert report.passed


def test_coverage_is_over_all_computed_blocks() -> None:
    statistics = {"day/ndvi": blocks((100, 90, 0, 0, 0), EMPTY, (300, 110, 0, 0, 0))}
    assert check([layer(minimum_coverage=0.5)], statistics).checks[0].value == 0.5
    with pytest.raises(
        GateFailed,
        match=r"day/ndvi is filled to 0.5 \(200 of 400 pixels\), expected at least 0.6; "
        r"least in tile 0,0, block 2: 0.3667",
    ):
        check([layer(minimum_coverage=0.6)], statistics)


def test_nothing_computed_has_no_coverage() -> None:
    with pytest.raises(GateFailed, match=r"day/ndvi has no block computed, expected 0\.1 of"):
        check([layer(minimum_coverage=0.1)], {"day/ndvi": blocks(EMPTY)})


def test_drift_is_in_units_over_the_blocks_that_both_have() -> None:
    # Before, blocks 5 and 6; now 6 and 7: only 6 counts, 0.30 before and 0.25 now.
    before = {"day/ndvi": blocks((9, 9, 0, 0, 90_000), (9, 4, 0, 0, 12_000), first=5)}
    now = {"day/ndvi": blocks((9, 8, 0, 0, 20_000), (9, 9, 0, 0, -90_000), first=6)}
    one = judge([layer(maximum_drift=0.06)], now, before).checks[0]
    assert one.value == pytest.approx(-0.05)
    assert one.verdict == "pass"
    with pytest.raises(
        GateFailed,
        match=r"the mean of day/ndvi over 1 blocks went from 0.3 to 0.25 1, expected a change of "
        r"at most 0.04; most in tile 0,0, block 6: -0.05",
    ):
        check([layer(maximum_drift=0.04)], now, before)


@pytest.mark.parametrize(
    ("before", "why"),
    [
        pytest.param(None, "there is no cube before this", id="first"),
        pytest.param(
            {"day/ndvi": blocks(EMPTY, first=9)}, "no block is filled in both", id="apart"
        ),
    ],
)
def test_drift_needs_something_to_compare(
    before: dict[str, BlockStatistics] | None, why: str
) -> None:
    now = {"day/ndvi": blocks((9, 9, 0, 0, 9))}
    one = judge([layer(maximum_drift=0.1)], now, before).checks[0]
    assert (one.verdict, one.message) == ("not checked", why)


def test_every_failure_is_told_at_once() -> None:
    strict = layer(valid_range=(0, 1), minimum_coverage=1.0)
    with pytest.raises(GateFailed, match=r"valid_range: .*; minimum_coverage: "):
        check([strict], {"day/ndvi": blocks((2, 1, 5, 5, 5))})


def test_report_is_plain_json() -> None:
    statistics = {"day/ndvi": blocks((2, 1, 5, 5, 5))}
    report = judge([layer(valid_range=(0, 1), minimum_coverage=0.1)], statistics)
    rows = json.loads(json.dumps(report.to_json()))
    assert [row["verdict"] for row in rows] == ["fail", "pass"]
    assert set(rows[0]) == {"check", "layer", "value", "limit", "verdict", "message"}


def test_a_cube_is_judged_by_its_own_ledger(tmp_path, cube) -> None:
    grid = Grid.from_json(cube.store.read().attrs["alpage"]["grid"])
    strict = Layer("ndvi", Calendar.DAY, "int16", -32768, valid_range=(0, 100), maximum_drift=3.0)
    product = Product("p", "1", (Observe("look", (Band("red"),), (strict,), lambda o: {}),))

    def cube_with(period: tuple[str, str], maximum: int, mean: int, name: str) -> tuple:
        axes = axes_for(product, covering(Calendar.DAY, *period), 32)
        layout = cube_layout.Layout(product, grid, axes, (), {})
        store, session, root = begin(str(tmp_path / name), layout, {})
        record = Record(
            BlockId("look", 571, (1, 0)),
            (1, 2),
            statistics=np.array([[10, 10, 0, maximum, 10 * mean]]),
        )
        Ledger.empty(layout).write(root, [record])
        session.commit("block")
        return store.read(), layout

    long, layout = cube_with(("2019-06-01", "2020-06-01"), 100, 10, "long")
    short, short_layout = cube_with(("2020-01-20", "2020-01-25"), 100, 14, "short")
    assert [c.verdict for c in check_cube(long, layout).checks] == ["pass", "not checked"]
    with pytest.raises(GateFailed, match=r"tile 1,0, block 571: \+4"):
        check_cube(short, short_layout, long)
    high, high_layout = cube_with(("2020-01-20", "2020-01-25"), 101, 10, "high")
    with pytest.raises(GateFailed, match="tile 1,0, block 571 holds 101, expected 0 to 100"):
        check_cube(high, high_layout, long)
