"""Studies run by their deployment, each ending in the right cube or a named failure, and clean."""

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.cluster


def _waited(flow: dict[str, Any]) -> float:
    """Seconds from the request of a run to its first line."""
    began, ended = (dt.datetime.fromisoformat(flow[key]) for key in ("created", "start_time"))
    return (ended - began).total_seconds()


def test_a_study_run_by_its_deployment_equals_the_local_run(
    installed: Any, plain: Any, same: Callable[..., int], clean: Any
) -> None:
    run_id, state = plain.run_id, plain.state
    assert state["type"] == "COMPLETED", f"{state['message']}\n{installed.logs(run_id)}"
    assert plain.clusters == [], "the cluster is gone before the run has ended"
    figures = installed.figures
    flow = installed.call("GET", f"/flow_runs/{run_id}")
    figures["run: until its flow starts"] = _waited(flow)
    figures["run: flow"] = flow["total_run_time"]
    of_run = {"flow_runs": {"id": {"any_": [run_id]}}}
    for task in installed.call("POST", "/task_runs/filter", of_run):
        figures[f"run: {task['name'].rsplit('-', 1)[0]}"] = task["total_run_time"]
    clean()
    figures["run: until nothing is left of it"] = time.monotonic() - plain.ended_at
    assert same("plain") > 0
    artifacts = installed.call("POST", "/artifacts/filter", of_run)
    assert {one["key"] for one in artifacts} == {"bill", "progress", "report", "release"}
    assert installed.report(run_id)["retries"] == 0


def test_the_same_study_again_does_nothing(
    installed: Any, plain: Any, study: Callable[..., Any], clean: Any
) -> None:
    run_id = installed.submit(study("plain"), "update")
    state = installed.ended(run_id)
    assert state["type"] == "COMPLETED", installed.logs(run_id)
    flow = installed.call("GET", f"/flow_runs/{run_id}")
    installed.figures["same study again: flow"] = flow["total_run_time"]
    clean()
