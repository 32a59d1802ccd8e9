"""The chart upgraded and taken away: last, since nothing of it is left."""

import json
import time
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

# What Kubernetes itself puts in every namespace.
ITS_OWN = {"configmaps/kube-root-ca.crt", "serviceaccounts/default"}


def test_an_upgrade_keeps_keys_and_objects_and_replaces_the_pools_template(
    installed: Any, archive: str
) -> None:
    secret = installed.items("secret", "alpage/component=storage")[0]["data"]
    began = time.monotonic()
    installed.helm("upgrade", "--set", "flows.keepFinishedSeconds=33")
    installed.figures["helm upgrade to Ready"] = time.monotonic() - began
    assert installed.items("secret", "alpage/component=storage")[0]["data"] == secret
    with installed.storage() as files:
        assert files.exists(archive)
    pool = installed.call("GET", "/work_pools/alpage")
    manifest = pool["base_job_template"]["job_configuration"]["job_manifest"]
    assert manifest["spec"]["ttlSecondsAfterFinished"] == 33


def test_nothing_is_left_of_a_chart_that_was_taken_away(installed: Any) -> None:
    # At once: one by one, as kubectl does it, thousands take minutes.
    installed.raw("delete", f"/api/v1/namespaces/{installed.namespace}/events")
    installed.uninstall()
    kinds = json.loads(installed.kubectl("get", "--raw", "/api/v1"))["resources"]
    core = [kind["name"] for kind in kinds if kind["namespaced"] and "list" in kind["verbs"]]
    more = ["deployments.apps", "replicasets.apps", "jobs.batch", "roles", "rolebindings"]
    more += ["networkpolicies", "poddisruptionbudgets", "daskclusters", "daskworkergroups"]
    left = set()
    for kind in (*core, *more):
        if kind != "events":
            left |= {f"{kind}/{one['metadata']['name']}" for one in installed.items(kind)}
    assert left == ITS_OWN
