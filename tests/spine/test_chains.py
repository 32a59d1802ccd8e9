"""Blocks that one task does in turn: as if each were alone, with less to read."""

from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client

import alpage
from alpage.engine.memory import USABLE
from alpage.engine.report import Pace, Progress

CUT = {"tile_px": 32, "window_days": 32}


def _tasks(scheduler: str) -> int:
    """How many tasks a scheduler has seen finish."""

    def finished(dask_scheduler: Any) -> int:
        return sum(p.state_counts["memory"] for p in dask_scheduler.task_prefixes.values())

    with Client(scheduler, set_as_default=False) as client:
        return int(client.run_on_scheduler(finished))


@pytest.mark.parametrize(
    ("product", "together"),
    [("vegetation", ("observe", "smooth")), ("lakes", ("classify", "year"))],
)
def test_a_chain_makes_what_its_blocks_make_alone(
    product: str,
    together: tuple[str, str],
    study_of: Callable[..., Any],
    cells: Callable[..., Any],
    same_cube: Any,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = _tasks(scheduler)
    chained = study_of(product, "chained", grid=CUT)
    report = alpage.run(chained)
    between = _tasks(scheduler)
    monkeypatch.setattr("alpage.engine.plan.may_chain", lambda *_: False)
    alone = study_of(product, "alone", grid=CUT)
    assert alpage.run(alone).blocks == report.blocks
    assert _tasks(scheduler) - between == report.n_blocks
    chained_blocks = sum(report.blocks[step] for step in together)
    tasks = between - before - (report.n_blocks - chained_blocks)
    assert tasks < chained_blocks / 2
    same_cube(cells(chained.cube), cells(alone.cube))
    assert alpage.run(chained).n_blocks == 0


def test_a_chain_keeps_one_worker_busy_and_counts_for_the_step_that_runs(
    study_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = Pace()
    monkeypatch.setattr("alpage.verbs.Pace", lambda _: pace)
    seen: list[tuple[Progress, int]] = []
    study = study_of("lakes", grid=CUT)
    report = alpage.run(study, on_progress=lambda told: seen.append((told, pace.tasks)))
    assert list(dict.fromkeys(told.step for told, _ in seen)) == list(alpage.plan(study).work.steps)
    assert all(told.blocks_left <= report.blocks[told.step] for told, _ in seen)
    # Two workers have a chain of days and the year that reads them each.
    assert any(tasks < told.blocks_left for told, tasks in seen)


def test_what_is_kept_is_in_the_plan(
    study_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory has room for it, and only there."""
    study = study_of("monthly_ndvi", grid={"tile_px": 64, "window_days": 192})
    keeping = alpage.plan(study).bill.peak_bytes
    with monkeypatch.context() as patch:
        patch.setattr("alpage.engine.plan.may_chain", lambda *_: False)
        alone = alpage.plan(study).bill.peak_bytes
    assert alone < keeping
    for usable, expected in ((keeping + 1, keeping), (keeping - 1, alone)):
        memory_gib = usable / USABLE / 2**30
        cluster = study.cluster.model_copy(update={"memory_gib": memory_gib})
        tight = study.model_copy(update={"cluster": cluster})
        assert alpage.plan(tight).bill.peak_bytes == expected
