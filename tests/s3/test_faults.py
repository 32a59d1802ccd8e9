"""Runs over a network that breaks: the same cube in the end, or a named failure."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alpage
from alpage.clusters import open_cluster
from alpage.objectstore import forget_environment
from alpage.simulate.valley import Valley
from alpage.study import ClusterChoice, Study

MIX = ("503", "reset", "lost", "truncated", "stalled")


@pytest.mark.slow
@pytest.mark.parametrize("faults", [*((one,) for one in MIX), MIX], ids="-".join)
def test_faults_leave_no_trace(
    faults: tuple[str, ...],
    s3: Any,
    network: Any,
    valley: Valley,
    study_of: Callable[..., Study],
    same_cube: Callable[[str, str], None],
    tmp_path: Path,
) -> None:
    archive = s3.upload(valley)
    here = study_of("monthly_ndvi", str(tmp_path / "cube"))
    alpage.run(here)
    # A stall costs two seconds each time, and nothing else.
    network.faults, network.fault_rate = faults, 0.03 if faults == ("stalled",) else 0.1
    began = time.monotonic()
    # Workers of its own, which see the proxy in their environment.
    with open_cluster(ClusterChoice(workers=2, memory_gib=3)) as client:
        cluster = {"kind": "address", "address": client.scheduler.address}
        there = study_of("monthly_ndvi", f"{s3.url}/cube", archive=archive, cluster=cluster)
        report = alpage.run(there)
    took = time.monotonic() - began
    network.faults = ()
    print(
        f"{took:.1f} s, {dict(network.played)} faults, {report.requests_again:.0f} reads and "
        f"{report.retries} blocks tried again"
    )
    assert sum(network.played.values()) > 10
    assert report.requests_again > 0 or faults == ("stalled",)
    forget_environment()
    same_cube(there.cube, here.cube)
