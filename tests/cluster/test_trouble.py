"""What keeps a run from working: named within a minute, and nothing left behind."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

Study = dict[str, Any]
Make = Callable[..., Study]
NAMED_S = 60


# What a study asks for that cannot be, and what is said of it.
WRONG: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "image": (
        {"image": "docker.io/library/alpage:none"},
        {},
        "alpage:none: the image is not on the node",
    ),
    "nodes": ({"node_selector": {"disk": "none"}}, {}, "no node takes it"),
    "memory": ({"memory_gib": 500}, {}, "no node takes it"),
    "spot": ({"spot": True}, {}, "this installation names no spot nodes"),
    "bucket": ({}, {"cube": "s3://none/cube"}, "there is no such bucket"),
}


@pytest.fixture(scope="module")
def wrong(installed: Any, study: Make) -> dict[str, str]:
    """Runs of studies that cannot work, all at once."""
    return {
        what: installed.submit({**study(f"wrong-{what}", **cluster), **changes})
        for what, (cluster, changes, _) in WRONG.items()
    }


def _named(installed: Any, run_id: str, words: str) -> None:
    """Check that a run fails with some words, and says them within a minute from its start."""
    state = installed.ended(run_id, 240)
    assert state["type"] == "FAILED", state
    assert words in state["message"], state["message"]
    assert words in installed.status(run_id)["message"]
    assert installed.seconds_until_said(run_id, words) < NAMED_S


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_work_is_named_within_a_minute(
    installed: Any, wrong: dict[str, str], what: str
) -> None:
    _named(installed, wrong[what], WRONG[what][2])


def test_keys_that_the_store_does_not_take_are_named(
    installed: Any, study: Make, clean: Any
) -> None:
    name = f"{installed.name}-storage"
    right = installed.secret(name)
    for key, words in (
        ("AWS_ACCESS_KEY_ID", "does not know the key"),
        ("AWS_SECRET_ACCESS_KEY", "the secret does not fit the key"),
    ):
        installed.change("secret", name, {"stringData": {key: "REVOKED"}})
        try:
            run_id = installed.submit(study("locked"))
            _named(installed, run_id, words)
        finally:
            installed.change("secret", name, {"stringData": right})
    clean()


def test_a_flow_that_may_make_no_cluster_says_so(installed: Any, study: Make, clean: Any) -> None:
    role = f"{installed.name}-flow"
    (rules,) = (one["rules"] for one in installed.items("role") if one["metadata"]["name"] == role)
    installed.change("role", role, {"rules": rules[1:]})
    try:
        _named(installed, installed.submit(study("forbidden")), "may not create a DaskCluster")
    finally:
        installed.change("role", role, {"rules": rules})
    clean()


def test_without_its_operator_a_run_says_so(installed: Any, study: Make, clean: Any) -> None:
    operator = f"deployment/{installed.name}-operator"
    installed.kubectl("scale", operator, "--replicas=0")
    try:
        run_id = installed.submit(study("alone"))
        state = installed.ended(run_id, 240)
        assert "is the Dask operator running" in state["message"], state["message"]
    finally:
        installed.kubectl("scale", operator, "--replicas=1")
        installed.kubectl("rollout", "status", operator, "--timeout=120s")
    clean()


def test_a_quota_that_is_too_small_is_named(installed: Any, study: Make, clean: Any) -> None:
    pods = len(installed.items("pods"))
    # Room for the flow's pod and the scheduler's, and for one worker.
    installed.kubectl("create", "quota", "small", f"--hard=pods={pods + 3}")
    try:
        run_id = installed.submit(study("crowded", workers=3))
        state = installed.ended(run_id)
        assert state["type"] == "COMPLETED", state["message"]
        assert "2 of 3 workers wait: quota small allows pods" in installed.logs(run_id)
    finally:
        installed.kubectl("delete", "quota", "small")
    clean()
