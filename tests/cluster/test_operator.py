"""The Dask operator that the chart brings."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from alpage.kube.resource import GROUP

pytestmark = pytest.mark.cluster

CLUSTERS = f"daskclusters.{GROUP}"
# kopf asks for what it may not see for 54 s, unless it is told not to.
AT_ONCE_S = 20


def test_an_operator_that_was_started_anew_serves_clusters_at_once(
    installed: Any, until: Callable[..., Any]
) -> None:
    installed.kubectl("delete", "pod", "-l", "alpage/component=operator")
    installed.kubectl("rollout", "status", f"deployment/{installed.name}-operator")
    labels = {"dask.org/cluster-name": "new", "dask.org/component": "scheduler"}
    port = {"name": "tcp-comm", "port": 8786, "targetPort": "tcp-comm", "protocol": "TCP"}
    container = {"name": "scheduler", "image": installed.image, "args": ["dask", "scheduler"]}
    spec = {
        "scheduler": {
            "spec": {"containers": [container]},
            "service": {"type": "ClusterIP", "selector": labels, "ports": [port]},
        },
        "worker": {"replicas": 0, "spec": {"containers": [container]}},
    }
    began = time.monotonic()
    made = {"apiVersion": f"{GROUP}/v1", "kind": "DaskCluster", "metadata": {"name": "new"}}
    installed.apply({**made, "spec": spec})
    try:
        of_it = "dask.org/cluster-name=new"
        until(lambda: installed.items("deployments.apps", of_it), AT_ONCE_S, "it is served")
        installed.figures["a cluster asked of an operator just started"] = time.monotonic() - began
    finally:
        installed.kubectl("delete", CLUSTERS, "new", "--timeout=60s")
    until(lambda: not installed.items("deployments.apps,services", of_it), 60, "all of it is gone")
