"""Two teams, each with an installation in a namespace of its own: neither reaches the other's."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from alpage.kube.resource import GROUP

pytestmark = pytest.mark.cluster

SNOW, LAKES, BESIDE = "alpage-e2e-snow", "alpage-e2e-lakes", "alpage-e2e-beside"
CLUSTERS = f"daskclusters.{GROUP}"
WORKERS = "dask.org/component=worker"
ACCOUNTS = ("flow", "worker", "operator", "dask", "server", "register", "storage")
KINDS = (CLUSTERS, "pods", "secrets", "configmaps", "services", "jobs.batch", "deployments.apps")
FORBIDDEN = "(Forbidden)"


# First, while no pods of others take their share of the nodes.
def test_teams_run_and_cancel_side_by_side(
    installed: Any,
    install: Callable[[str], contextlib.AbstractContextManager[Any]],
    patient: Callable[..., Any],
    same: Callable[..., int],
    until: Callable[..., Any],
    clean: Any,
) -> None:
    with install(BESIDE) as other:
        other.take_archive()
        teams = (installed, other)
        runs = {team.namespace: team.submit(patient("beside")) for team in teams}
        for team, stranger in (teams, teams[::-1]):
            until(lambda: team.items("pods", WORKERS), 120, "its workers come")  # noqa: B023
            (cluster,) = team.items(CLUSTERS)
            assert cluster["metadata"]["labels"]["alpage/flow-run"] == runs[team.namespace]
            told = team.kubectl("get", CLUSTERS, _as(stranger, "flow"), check=False)
            assert FORBIDDEN in told
            known = {"flow_runs": {"id": {"any_": [runs[stranger.namespace]]}}}
            assert team.call("POST", "/flow_runs/filter", known) == []
        other.cancel(runs[BESIDE])
        assert other.ended(runs[BESIDE], 180)["type"] == "CANCELLED"
        until(lambda: not other.left_over(), 180, "nothing is left of the cancelled run")
        assert installed.state(runs[installed.namespace])["type"] == "RUNNING"
        again = other.submit(patient("beside"))
        for team, run_id in ((installed, runs[installed.namespace]), (other, again)):
            assert team.ended(run_id)["type"] == "COMPLETED", team.logs(run_id)
        for team in teams:
            assert same("beside", "patient", at=team) > 0
    clean()


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


def _verbs(team: Any, who: str) -> dict[str, set[str]]:
    """What Kubernetes says that somebody may do with each kind in a team's namespace."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    asked = {**review, "spec": {"namespace": team.namespace}}
    # Who may not list the kinds there are cannot check a kind before the server does.
    told = team.apply(asked, who, "--validate=false")["status"]
    assert not told["incomplete"], told
    verbs: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for rule in told["resourceRules"]:
        for kind in KINDS:
            name, _, group = kind.partition(".")
            if {"*", group} & set(rule["apiGroups"]) and {"*", name} & set(rule["resources"]):
                verbs[kind] |= set(rule["verbs"])
    return verbs


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_sees_and_removes_nothing_of_the_other_team(
    teams: tuple[Any, Any], account: str
) -> None:
    for own, other in (teams, teams[::-1]):
        who = _as(own, account)
        for kind in KINDS:
            assert FORBIDDEN in other.kubectl("get", kind, who, check=False), kind
        # kubectl reads before it deletes, so that only the question tells of the verb.
        assert _verbs(other, who) == {kind: set() for kind in KINDS}


def test_a_flow_sees_and_cancels_the_cluster_of_its_team_only(
    teams: tuple[Any, Any], until: Callable[..., Any]
) -> None:
    snow, lakes = teams
    spec = {"scheduler": {"spec": {"containers": []}, "service": {"ports": []}}}
    spec["worker"] = {"replicas": 0, "spec": {"containers": []}}
    cluster = {"apiVersion": f"{GROUP}/v1", "kind": "DaskCluster", "metadata": {"name": "ours"}}
    snow.apply({**cluster, "spec": spec}, _as(snow, "flow"))
    for verb in ("get", "delete"):
        told = snow.kubectl(verb, CLUSTERS, "ours", _as(lakes, "flow"), check=False)
        assert FORBIDDEN in told
    assert lakes.items(CLUSTERS) == []
    own = lakes.kubectl("get", CLUSTERS, "ours", _as(lakes, "flow"), check=False)
    assert "(NotFound)" in own
    assert {"create", "delete"} <= _verbs(snow, _as(snow, "flow"))[CLUSTERS]
    assert "ours" in snow.kubectl("get", CLUSTERS, "ours", _as(snow, "flow"))
    # It may not watch what it deletes.
    snow.kubectl("delete", CLUSTERS, "ours", "--wait=false", _as(snow, "flow"))
    until(lambda: snow.items(CLUSTERS) == [], 30, "it is gone")


def test_a_quota_holds_for_its_team_only(teams: tuple[Any, Any], until: Callable[..., Any]) -> None:
    snow, lakes = teams
    until(lambda: snow.items("quota")[0]["status"].get("used"), 60, "the quota is counted")
    pod = ("run", "more", "--image=busybox", "--dry-run=server")
    assert "exceeded quota" in snow.kubectl(*pod, check=False)
    assert "created" in lakes.kubectl(*pod)
