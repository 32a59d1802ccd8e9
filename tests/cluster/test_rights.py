"""Who may do what: asked of the Kubernetes that enforces it."""

from typing import Any

import pytest

from alpage.kube.resource import GROUP

pytestmark = pytest.mark.cluster

CLUSTERS, WORKERS, PODS = f"daskclusters.{GROUP}", f"daskworkergroups.{GROUP}", "pods"
ALLOWED = {
    "flow": [
        *((verb, CLUSTERS) for verb in ("create", "get", "delete")),
        ("list", PODS),
        *((verb, WORKERS) for verb in ("create", "delete")),
        ("create", "secrets"),
        ("list", "deployments.apps"),
    ],
    "worker": [
        *((verb, "jobs.batch") for verb in ("create", "list", "watch", "delete")),
        *((verb, PODS) for verb in ("list", "watch")),
        ("get", "pods/log"),
    ],
    "operator": [
        ("create", "deployments.apps"),
        ("create", "services"),
        ("patch", CLUSTERS),
        *(("update", f"{kind}/finalizers") for kind in (CLUSTERS, WORKERS)),
    ],
}
DENIED = {
    "flow": [
        *((verb, PODS) for verb in ("create", "delete", "patch", "get", "watch")),
        *((verb, CLUSTERS) for verb in ("list", "watch")),
        *((verb, "deployments.apps") for verb in ("get", "watch")),
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
    "worker": [
        ("get", "secrets"),
        *((verb, PODS) for verb in ("create", "get")),
        *((verb, "jobs.batch") for verb in ("get", "patch")),
        *(("list", what) for what in ("events", "pods/log", "pods/status")),
        ("create", "pods/exec"),
        ("create", CLUSTERS),
    ],
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
