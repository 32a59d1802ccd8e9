"""Two teams, each with an installation in a namespace of its own: neither reaches the other's."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from alpage.kube.resource import GROUP

pytestmark = pytest.mark.cluster

SNOW, LAKES, RELEASE = "alpage-e2e-snow", "alpage-e2e-lakes", "alpage"
CLUSTERS = f"daskclusters.{GROUP}"
ACCOUNTS = ("flow", "worker", "operator", "dask", "server", "register", "storage")
KINDS = (CLUSTERS, "pods", "secrets", "configmaps", "services", "jobs.batch", "deployments.apps")
FORBIDDEN = "(Forbidden)"


@pytest.fixture(scope="module")
def teams(kubernetes: None, install_rights: Callable[..., Any]) -> Iterator[tuple[Any, Any]]:
    """The objects of two installations; what is asked here needs none of their pods."""
    limits = (
        "--set",
        "limits.quota.enabled=true,limits.range.enabled=true,limits.quota.hard.pods=0",
    )
    with install_rights(SNOW, *limits) as snow, install_rights(LAKES) as lakes:
        yield snow, lakes


def _as(team: Any, account: str) -> str:
    return f"--as=system:serviceaccount:{team.namespace}:{team.name}-{account}"


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_sees_and_removes_nothing_of_the_other_team(
    teams: tuple[Any, Any], account: str
) -> None:
    for own, other in (teams, teams[::-1]):
        for kind in KINDS:
            who = _as(own, account)
            assert FORBIDDEN in other.kubectl("get", kind, who, check=False), kind
            # kubectl reads before it deletes, so that only the question tells of the verb.
            for verb in ("create", "patch", "delete"):
                may = other.kubectl("auth", "can-i", verb, kind, who, check=False)
                assert may.strip().endswith("no"), f"{verb} {kind}"


def test_a_flow_sees_and_cancels_the_cluster_of_its_team_only(teams: tuple[Any, Any]) -> None:
    snow, lakes = teams
    spec = {"scheduler": {"spec": {"containers": []}, "service": {"ports": []}}}
    spec["worker"] = {"replicas": 0, "spec": {"containers": []}}
    cluster = {"apiVersion": f"{GROUP}/v1", "kind": "DaskCluster", "metadata": {"name": "ours"}}
    snow.apply({**cluster, "spec": spec}, _as(snow, "flow"))
    for verb in ("get", "delete"):
        told = snow.kubectl(verb, CLUSTERS, "ours", _as(lakes, "flow"), check=False)
        assert FORBIDDEN in told
    found = json.loads(lakes.kubectl("get", CLUSTERS, "-o", "json", _as(lakes, "flow")))
    assert found["items"] == []
    assert "ours" in snow.kubectl("get", CLUSTERS, _as(snow, "flow"))
    snow.kubectl("delete", CLUSTERS, "ours", _as(snow, "flow"))
    assert snow.items(CLUSTERS) == []


def test_a_quota_holds_for_its_team_only(teams: tuple[Any, Any], until: Callable[..., Any]) -> None:
    snow, lakes = teams
    until(lambda: snow.items("quota")[0]["status"].get("used"), 60, "the quota is counted")
    pod = ("run", "more", "--image=busybox", "--dry-run=server")
    assert "exceeded quota" in snow.kubectl(*pod, check=False)
    assert "created" in lakes.kubectl(*pod)
