"""Workers follow the blocks that are left: up while blocks wait, down where none does."""

import json
import os
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

MOST = 6
SAYS = re.compile(r"^(\w+): .* km² × dates.*; (\d+) blocks of this step at (\d+) threads")
PLOT = Path(__file__).resolve().parents[2] / "scripts" / "plot_scaling.py"

Sample = dict[str, Any]


def _running(installed: Any) -> int:
    pods = installed.items("pods", "dask.org/component=worker")
    return sum(
        one["status"]["phase"] == "Running" and "deletionTimestamp" not in one["metadata"]
        for one in pods
    )


def _record(installed: Any, run_id: str) -> list[Sample]:
    """Return what Prefect told of the blocks and Kubernetes of the pods, until the run ended."""
    samples: list[Sample] = []
    began = time.monotonic()
    step, blocks = "", 0
    of_run = {"flow_runs": {"id": {"any_": [run_id]}}, "artifacts": {"key": {"any_": ["progress"]}}}
    while True:
        state = installed.state(run_id)["type"]
        for artifact in installed.call("POST", "/artifacts/filter", of_run):
            if told := SAYS.match(artifact["description"] or ""):
                step, blocks = told[1], int(told[2])
        sample = {
            "seconds": round(time.monotonic() - began, 1),
            "step": step,
            "blocks": blocks if state == "RUNNING" else 0,
            "workers": _running(installed),
        }
        if not samples or any(sample[key] != samples[-1][key] for key in ("blocks", "workers")):
            samples.append(sample)
        if state not in ("SCHEDULED", "PENDING", "RUNNING") and sample["workers"] == 0:
            assert state == "COMPLETED", installed.logs(run_id)
            return samples
        assert time.monotonic() - began < 400, samples
        time.sleep(0.5)


def test_workers_follow_the_blocks_that_are_left(
    installed: Any, patient: Callable[..., Any], clean: Any
) -> None:
    study = patient("scaling", slower=1.33, workers=MOST)
    # The tile that takes longer so long that others are let go before it ends, the years so long
    # that they come back where a pod takes half a minute to start.
    study["parameters"] |= {"year_s": 3, "longer": 15}
    run_id = installed.submit(study)
    series = {"most": MOST, "samples": _record(installed, run_id)}
    if where := os.environ.get("E2E_SCALING"):
        Path(where).write_text(json.dumps(series))
    samples = series["samples"]
    sizes = [one["workers"] for one in samples]
    assert max(sizes) == MOST, samples
    # Down at the tail of a step, up again for the next, to nothing at the end.
    observing = [one for one in samples if one["step"] == "observe"]
    tail = [one for one in observing if 0 < one["blocks"] < MOST]
    fewest = min(one["workers"] for one in tail)
    assert fewest < MOST, samples
    later = [one["workers"] for one in samples if one["step"] == "most"]
    assert max(later, default=0) > fewest, samples
    assert sizes[-1] == 0
    flow = installed.call("GET", f"/flow_runs/{run_id}")
    assert installed.report(run_id)["retries"] == 0, "no block is lost with its worker"
    held = sum(
        one["workers"] * (after["seconds"] - one["seconds"]) for one, after in pairwise(samples)
    )
    figures = installed.figures
    figures["scaling: flow"] = flow["total_run_time"]
    figures["scaling: workers times seconds"] = held
    figures["scaling: the same, had all stayed"] = MOST * (
        samples[-1]["seconds"] - next(one["seconds"] for one in samples if one["workers"])
    )
    clean()
