"""What Prometheus and a collector of logs find in the pods of a run."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

# Label of the pods, name of their port, metric that tells of blocks done.
PODS = (
    ("alpage/component=flow", "metrics", "alpage_run_blocks_done_total"),
    ("dask.org/component=worker", "http-dashboard", "alpage_worker_blocks_done_total"),
    ("dask.org/component=scheduler", "http-dashboard", "dask_scheduler_workers"),
)


def test_pods_serve_metrics_where_pod_monitors_look_and_log_json(
    installed: Any,
    study: Callable[..., Any],
    until: Callable[..., Any],
    clean: Callable[[], float],
) -> None:
    run_id = installed.submit(study("watched"))
    seen: dict[str, str] = {}
    lines: dict[str, dict[str, Any]] = {}

    def ended() -> bool:
        for labels, port, metric in PODS:
            for pod in installed.items("pods", labels):
                if metric in (told := _metrics(installed, pod, port)):
                    seen[labels] = told
                _read_log(installed, pod, lines)
        return bool(installed.state(run_id)["type"] in ("COMPLETED", "FAILED", "CRASHED"))

    until(ended, 600, "the run has ended")
    assert installed.state(run_id)["type"] == "COMPLETED", installed.logs(run_id)
    assert seen.keys() == {labels for labels, _, _ in PODS}
    for labels, _, metric in PODS[:2]:
        assert re.search(metric + r'\{cube="watched",product="vegetation"', seen[labels])
    (begun,) = [one for one in lines.values() if "blocks to do at most" in one["message"]]
    assert begun["run"] == run_id
    assert any(one["logger"] == "distributed.worker" for one in lines.values())
    assert begun["message"] in installed.logs(run_id)
    clean()


def _metrics(installed: Any, pod: dict[str, Any], port: str) -> str:
    """What a pod answers at the port that its container gives this name."""
    found = [
        one["containerPort"]
        for container in pod["spec"]["containers"]
        for one in container.get("ports", ())
        if one["name"] == port
    ]
    assert len(found) == 1, f"{pod['metadata']['name']} names no port {port}"
    path = f"pods/{pod['metadata']['name']}:{found[0]}/proxy/metrics"
    told = installed.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{installed.namespace}/{path}", check=False
    )
    return str(told)


def _read_log(installed: Any, pod: dict[str, Any], lines: dict[str, dict[str, Any]]) -> None:
    told = installed.kubectl("logs", pod["metadata"]["name"], check=False)
    for line in told.splitlines():
        if line.startswith('{"time"'):
            lines[line] = json.loads(line)
