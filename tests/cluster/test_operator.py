"""The Dask operator that the chart brings."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from alpage.kube.resource import GROUP, IDLE_SECONDS

pytestmark = pytest.mark.cluster

CLUSTERS, GROUPS = f"daskclusters.{GROUP}", f"daskworkergroups.{GROUP}"
# kopf asks for what it may not see for 54 s, unless it is told not to.
AT_ONCE_S = 20
# As Dask reads a list of its settings.
ROUTES = '["distributed.http.health", "alpage.kube.idle"]'
# What the namespace asks of pods.
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def make_cluster(installed: Any) -> Iterator[Callable[[str, dict[str, str]], str]]:
    """Makes a DaskCluster without workers, some of whose annotations one wants; gives its label."""
    made: list[str] = []

    def make(name: str, annotations: dict[str, str]) -> str:
        labels = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
        ports = [("tcp-comm", 8786), ("http-dashboard", 8787)]
        container = {
            "name": "scheduler",
            "image": installed.image,
            "args": ["dask", "scheduler"],
            "env": [{"name": "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES", "value": ROUTES}],
            "ports": [{"name": port, "containerPort": number} for port, number in ports],
            "securityContext": RESTRICTED,
        }
        service = [{"name": port, "port": number, "targetPort": port} for port, number in ports]
        spec = {
            "scheduler": {
                "spec": {"containers": [container]},
                "service": {"type": "ClusterIP", "selector": labels, "ports": service},
            },
            "worker": {"replicas": 0, "spec": {"containers": [container]}},
        }
        metadata = {"name": name, "annotations": annotations}
        content = {"apiVersion": f"{GROUP}/v1", "kind": "DaskCluster", "metadata": metadata}
        installed.apply({**content, "spec": spec})
        made.append(name)
        return f"dask.org/cluster-name={name}"

    yield make
    for name in made:
        installed.kubectl("delete", CLUSTERS, name, "--ignore-not-found", "--timeout=60s")
        # What the operator makes of a cluster that has gone meanwhile stays, and would be taken
        # for what other tests leave behind.
        group = f"{name}-default"
        installed.kubectl("delete", GROUPS, group, "--ignore-not-found", "--timeout=60s")


def test_an_operator_that_was_started_anew_serves_clusters_at_once(
    installed: Any, make_cluster: Callable[..., str], until: Callable[..., Any]
) -> None:
    installed.kubectl("delete", "pod", "-l", "alpage/component=operator")
    installed.kubectl("rollout", "status", f"deployment/{installed.name}-operator")
    began = time.monotonic()
    of_it = make_cluster("new", {})
    until(lambda: installed.items("deployments.apps", of_it), AT_ONCE_S, "it is served")
    installed.figures["a cluster asked of an operator just started"] = time.monotonic() - began
    # All of it is made: the group of workers comes last.
    until(lambda: installed.items(GROUPS), 60, "its group of workers is made")
    installed.kubectl("delete", CLUSTERS, "new", "--timeout=60s")
    until(lambda: not installed.items("deployments.apps,services", of_it), 60, "all of it is gone")


def test_a_forgotten_cluster_is_ended(
    installed: Any, make_cluster: Callable[..., str], until: Callable[..., Any]
) -> None:
    of_it = make_cluster("forgotten", {IDLE_SECONDS: "1"})
    until(lambda: installed.items("deployments.apps", of_it), AT_ONCE_S, "it is served")
    until(lambda: not installed.items(CLUSTERS), 120, "it is ended")
    until(lambda: not installed.items("deployments.apps,services", of_it), 60, "all of it is gone")
