"""Who may do what: asked of the Kubernetes that enforces it."""

from typing import Any

import pytest

from alpage.kube.resource import GROUP

pytestmark = pytest.mark.cluster

CLUSTERS, WORKERS, PODS = f"daskclusters.{GROUP}", f"daskworkergroups.{GROUP}", "pods"
ALLOWED = {
    "flow": [
        *((verb, CLUSTERS) for verb in ("create", "get", "list", "watch", "delete")),
        *((verb, PODS) for verb in ("get", "list", "watch")),
        *((verb, WORKERS) for verb in ("create", "delete")),
        ("create", "secrets"),
        ("list", "deployments.apps"),
    ],
    "worker": [("create", "jobs.batch"), ("delete", "jobs.batch"), ("get", "pods/log")],
    "operator": [("create", "deployments.apps"), ("create", "services"), ("patch", CLUSTERS)],
}
DENIED = {
    "flow": [
        *((verb, PODS) for verb in ("create", "delete", "patch")),
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("delete", "secrets"),
        ("patch", "secrets"),
        ("patch", WORKERS),
        ("delete", "deployments.apps"),
        ("get", "configmaps"),
        ("create", "jobs.batch"),
        ("patch", CLUSTERS),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
    ],
    "worker": [("get", "secrets"), ("create", PODS), ("create", "pods/exec"), ("create", CLUSTERS)],
    "operator": [("get", "secrets"), ("create", "pods/exec"), ("create", "jobs.batch")],
    **{
        name: [("get", PODS), ("list", "secrets"), ("create", CLUSTERS), ("get", "services")]
        for name in ("dask", "server", "register", "storage")
    },
}


def _may(installed: Any, account: str, verb: str, what: str, namespace: str) -> bool:
    name = f"system:serviceaccount:{installed.namespace}:{installed.name}-{account}"
    # kubectl takes what follows a slash for the name of an object.
    resource, _, part = what.partition("/")
    asked = ["auth", "can-i", verb, resource, f"--as={name}", f"--namespace={namespace}"]
    if part:
        asked.append(f"--subresource={part}")
    return bool(installed.kubectl(*asked, check=False).strip().endswith("yes"))


@pytest.mark.parametrize("account", ALLOWED)
def test_an_account_may_do_its_work(installed: Any, account: str) -> None:
    for verb, what in ALLOWED[account]:
        assert _may(installed, account, verb, what, installed.namespace), f"{verb} {what}"


@pytest.mark.parametrize("account", DENIED)
def test_an_account_may_do_nothing_else(installed: Any, account: str) -> None:
    for verb, what in DENIED[account]:
        assert not _may(installed, account, verb, what, installed.namespace), f"{verb} {what}"


@pytest.mark.parametrize("account", ALLOWED)
def test_an_account_may_do_nothing_in_another_namespace(installed: Any, account: str) -> None:
    for verb, what in ALLOWED[account]:
        assert not _may(installed, account, verb, what, "default"), f"{verb} {what}"


def test_a_pod_that_is_not_restricted_is_refused(installed: Any) -> None:
    told = installed.kubectl("run", "root", "--image=busybox", "--dry-run=server", check=False)
    assert 'violates PodSecurity "restricted' in told
