"""What Prometheus and a collector of logs find in the pods of a run."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

OF_PLAIN = r'\{cube="plain",product="vegetation"'


@pytest.mark.parametrize(
    ("component", "metric"),
    [
        ("flow", "alpage_run_blocks_done_total" + OF_PLAIN),
        ("worker", "alpage_worker_blocks_done_total" + OF_PLAIN),
        ("scheduler", "dask_scheduler_workers"),
    ],
)
def test_pods_serve_metrics_where_pod_monitors_look(
    plain: Any, component: str, metric: str
) -> None:
    assert re.search(metric, plain.metrics[component])


def test_pods_log_json_that_names_the_run(installed: Any, plain: Any) -> None:
    (begun,) = [one for one in plain.lines if "blocks to do at most" in one["message"]]
    assert begun["run"] == plain.run_id
    assert any(one["logger"] == "distributed.worker" for one in plain.lines)
    assert begun["message"] in installed.logs(plain.run_id)
