"""The image of notebooks: built for real, run as any user of group 0, on a root it cannot write."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

IMAGE = "docker.io/library/alpage-notebook:e2e"


def test_the_first_notebook_runs_in_its_image(
    installed: Any,
    build_image: Callable[..., None],
    until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    build_image(IMAGE, tmp_path, "notebook", installed.image)
    installed.figures["notebook image built and given to the cluster"] = time.monotonic() - began
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {
        "name": "notebook",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["jupyter", "execute", "--output=/tmp/done.ipynb", "notebooks/first_cube.ipynb"],
        "securityContext": security,
        "resources": {
            "requests": {"cpu": "100m", "memory": "1Gi"},
            "limits": {"cpu": "2", "memory": "3Gi"},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "notebook"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1_234_567,
                "runAsGroup": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }
    installed.apply(pod)
    began = time.monotonic()

    def phase() -> str | None:
        now = installed.kubectl("get", "pod", "notebook", "-o", "jsonpath={.status.phase}")
        return now if now in ("Succeeded", "Failed") else None

    ended = until(phase, 300, "the notebook has run")
    assert ended == "Succeeded", installed.kubectl("logs", "notebook")
    installed.figures["notebook: run in a pod"] = time.monotonic() - began
    installed.kubectl("delete", "pod", "notebook")
