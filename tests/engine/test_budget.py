"""What a run holds back when a limit comes near."""

import math

import pytest

from alpage.engine.budget import Budget
from alpage.engine.report import RunReport
from alpage.settings import Settings
from alpage.study import Limits


def _book(budget: Budget, report: RunReport, seconds: float) -> None:
    report.blocks["observe"] = report.blocks.get("observe", 0) + 1
    report.compute_seconds += seconds
    budget.learn()


def test_room_is_left_for_blocks_as_dear_as_of_late() -> None:
    report = RunReport(cube="valley")
    budget = Budget(Limits(hours=100 / 3600), Settings(), report, planned_blocks=200)
    assert budget.affordable_blocks() == math.inf, "nothing is known yet"
    _book(budget, report, 4.0)
    assert budget.affordable_blocks() == pytest.approx(96 / 4)
    _book(budget, report, 0.5)
    assert budget.affordable_blocks() == pytest.approx(95.5 / 3.6)
    for _ in range(40):
        _book(budget, report, 0.5)
    assert budget.affordable_blocks() == pytest.approx(75.5 / 0.5)
    _book(budget, report, 80.0)
    assert budget.affordable_blocks() == 0
    assert budget.passed() is not None


def test_the_nearest_of_several_limits_counts() -> None:
    report = RunReport(cube="valley")
    budget = Budget(Limits(hours=1, blocks=5, read_gib=2), Settings(), report, planned_blocks=200)
    report.bytes_read += 2**29
    _book(budget, report, 1.0)
    assert budget.affordable_blocks() == pytest.approx(3)
    _book(budget, report, 1.0)
    assert budget.affordable_blocks() == pytest.approx(3)
    _book(budget, report, 1.0)
    assert budget.affordable_blocks() == pytest.approx(2)
