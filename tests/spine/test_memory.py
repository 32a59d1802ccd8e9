"""What workers hold at most is what the plan says, at the tiles that a user gets."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import alpage
from alpage.clusters import open_cluster
from alpage.engine.plan import Plan
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import Valley, simulate
from alpage.study import ClusterChoice

PERIOD = "2020-09-01/2021-08-31"
SPEC = ValleySpec(
    size_px=1024, start=date(2020, 9, 1), end=date(2021, 8, 31), revisit_days=45, block_px=512
)


@pytest.fixture(scope="module")
def wide_valley(tmp_path_factory: pytest.TempPathFactory) -> Valley:
    """Nine dates of 1024² pixels of 10 m."""
    return simulate(tmp_path_factory.mktemp("wide"), SPEC)


def _peak_bytes() -> int:
    """The most memory that this process ever held, as the kernel says."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("product", ["vegetation", "snow", "lakes"])
def test_workers_hold_no_more_than_the_plan_says(
    product: str, wide_valley: Valley, study_of: Callable[..., Any]
) -> None:
    plans: list[Plan] = []
    grid = {"tile_px": 1024, "window_days": 192, "resolution": 10, "crs": "EPSG:32632"}
    with open_cluster(ClusterChoice(workers=1, memory_gib=3)) as client:
        study = study_of(
            product,
            of=wide_valley,
            period=PERIOD,
            grid=grid,
            cluster={"kind": "address", "address": client.scheduler.address, "memory_gib": 3},
        )
        alpage.run(study, on_plan=plans.append)
        (peak,) = client.run(_peak_bytes).values()
    (plan,) = plans
    assert plan.layout.grid.tile_px > 1000
    assert peak <= plan.bill.peak_bytes
