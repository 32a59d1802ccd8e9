"""What is asked of the Dask operator, and what is told when Kubernetes does not do it."""

import copy
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client, LocalCluster
from s3_server import free_port

from alpage.clusters import open_cluster
from alpage.engine.flight import Told
from alpage.engine.tally import Running
from alpage.errors import ClusterError, StudyError
from alpage.kube.resource import make_resource, read_template
from alpage.kube.trouble import find_troubles, tell
from alpage.settings import settings
from alpage.study import ClusterChoice, make_study

TEMPLATE: dict[str, Any] = {
    "apiVersion": "kubernetes.dask.org/v1",
    "kind": "DaskCluster",
    "metadata": {"namespace": "team", "labels": {"alpage/release": "a"}},
    "spec": {
        "scheduler": {
            "spec": {"containers": [{"name": "scheduler", "image": "alpage:1"}]},
            "service": {"selector": {"dask.org/component": "scheduler"}},
        },
        "worker": {
            "spec": {
                "nodeSelector": {"pool": "spot"},
                "containers": [{"name": "worker", "image": "alpage:1", "env": [{"name": "A"}]}],
            }
        },
    },
}


@pytest.fixture
def in_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "flow-1")
    monkeypatch.setenv("POD_UID", "u-1")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "r-1")


def test_the_resource_is_the_studys_and_belongs_to_the_flows_pod(in_pod: None) -> None:
    choice = ClusterChoice(
        kind="kubernetes",
        workers=7,
        memory_gib=1.5,
        cores=0.5,
        image="alpage:2",
        node_selector={"disk": "fast"},
    )
    made = make_resource(TEMPLATE, choice, "e30=")
    metadata, spec = made["metadata"], made["spec"]
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "flow-1", "u-1")
    assert metadata["labels"] == {"alpage/release": "a", "alpage/flow-run": "r-1"}
    assert spec["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == metadata["name"]
    # Workers are asked for one by one, as blocks need them.
    assert spec["worker"]["replicas"] == 0
    assert spec["worker"]["spec"]["nodeSelector"] == {"pool": "spot", "disk": "fast"}
    (worker,) = spec["worker"]["spec"]["containers"]
    (scheduler,) = spec["scheduler"]["spec"]["containers"]
    assert worker["image"] == scheduler["image"] == "alpage:2"
    told = {one["name"]: one.get("value") for one in worker["env"]}
    assert list(told) == ["A", "DASK_INTERNAL_INHERIT_CONFIG", "DASK_SCHEDULER_ADDRESS"]
    assert told["DASK_SCHEDULER_ADDRESS"] == f"tls://{metadata['name']}-scheduler.team.svc:8786"
    # 1.5 GiB for blocks, 128 MiB to spare.
    assert worker["args"][-2:] == ["--memory-limit", str(1536 * 2**20)]
    assert worker["resources"] == {
        "requests": {"cpu": "500m", "memory": "1664Mi"},
        "limits": {"cpu": "1", "memory": "1664Mi"},
    }


SPOT = {"labels": {"life": "short"}, "tolerations": [{"key": "short", "operator": "Exists"}]}


def _placed(spot: bool | None, told: dict[str, Any]) -> dict[str, Any]:
    template = copy.deepcopy(TEMPLATE)
    template["metadata"]["annotations"] = {"alpage/spot": json.dumps(told)}
    made = make_resource(template, ClusterChoice(kind="kubernetes", spot=spot), "e30=")
    return dict(made["spec"]["worker"]["spec"])


def test_workers_are_placed_on_spot_nodes_as_the_study_says() -> None:
    either, always, never = (_placed(spot, SPOT) for spot in (None, True, False))
    assert either["tolerations"] == always["tolerations"] == SPOT["tolerations"]
    assert either["nodeSelector"] == never["nodeSelector"] == {"pool": "spot"}
    assert always["nodeSelector"] == {"pool": "spot", "life": "short"}
    assert "affinity" not in either | always
    assert "tolerations" not in never
    required = never["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "life", "operator": "NotIn", "values": ["short"]}]
    with pytest.raises(ClusterError, match="names no spot nodes"):
        _placed(True, {"labels": {}, "tolerations": []})


def test_each_run_has_a_cluster_of_its_own_and_the_template_stays() -> None:
    before = yaml.safe_dump(TEMPLATE)
    choice = ClusterChoice(kind="kubernetes")
    made = [make_resource(TEMPLATE, choice, "e30=")["metadata"] for _ in range(2)]
    assert made[0]["name"] != made[1]["name"]
    assert "ownerReferences" not in made[0]
    assert yaml.safe_dump(TEMPLATE) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("kind: Pod", "expected a DaskCluster"),
        ("a: [", "readable YAML"),
        ("{kind: DaskCluster, metadata: {}, spec: {}}", "lacks"),
    ],
)
def test_a_template_that_is_none_is_told(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    with pytest.raises(ClusterError, match=words):
        read_template(path)


def test_outside_of_a_cluster_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = ClusterChoice(kind="kubernetes")
    with (
        pytest.raises(ClusterError, match="submit the study to a deployment"),
        open_cluster(choice),
    ):
        pass
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(TEMPLATE))
    monkeypatch.setenv("ALPAGE_CLUSTER_TEMPLATE", str(path))
    settings.cache_clear()
    try:
        with pytest.raises(ClusterError, match="run in the cluster"), open_cluster(choice):
            pass
    finally:
        settings.cache_clear()


@pytest.mark.parametrize(
    ("status", "words", "lasting"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]},
            "no node takes it: 0/1 nodes",
            False,
        ),
        (
            {
                "containerStatuses": [
                    {"image": "x:9", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
                ]
            },
            "image x:9: the image cannot be pulled (ImagePullBackOff)",
            True,
        ),
        (
            {
                "containerStatuses": [
                    {
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"reason": "OOMKilled"}},
                    }
                ]
            },
            "it passed its memory limit (OOMKilled): raise cluster.memory_gib",
            True,
        ),
        (
            {
                "containerStatuses": [
                    {
                        "state": {
                            "waiting": {
                                "reason": "CreateContainerConfigError",
                                "message": 'secret "keys" not found',
                            }
                        }
                    }
                ]
            },
            "a secret or config map that it needs is not there "
            '(CreateContainerConfigError: secret "keys" not found)',
            True,
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
            "",
            False,
        ),
    ],
)
def test_a_pod_that_does_not_run_says_why(
    status: dict[str, Any], words: str, lasting: bool
) -> None:
    found = find_troubles([{"metadata": {"name": "a"}, "status": status}], [])
    assert tell(found) == words
    assert any(one.lasting for one in found) == lasting


def test_waiting_for_a_quota_is_told_once_with_its_limits() -> None:
    """The message is what Kubernetes 1.34 wrote for a pod that passed its quota."""
    message = (
        'pods "w-{}" is forbidden: exceeded quota: alpage-quota, requested: requests.cpu=1, '
        "used: requests.cpu={}, limited: requests.cpu=4"
    )
    deployments = [
        {
            "status": {
                "conditions": [
                    {
                        "type": "ReplicaFailure",
                        "status": "True",
                        "message": message.format(number, number),
                    }
                ]
            }
        }
        for number in (1, 2, 3)
    ]
    assert tell(find_troubles([], deployments)) == (
        "quota alpage-quota allows requests.cpu=4 (3 pods)"
    )


def test_what_is_for_kubernetes_goes_with_it_only() -> None:
    study = {
        "product": "snow",
        "area": {"bbox": [0, 0, 1, 1]},
        "period": "2020-01-01/2020-02-01",
        "archive": "a",
        "cube": "c",
    }
    make_study({**study, "cluster": {"kind": "kubernetes", "image": "a", "cores": 2}})
    for name, value in (("image", "a"), ("cores", 2), ("node_selector", {"a": "b"})):
        with pytest.raises(StudyError, match=f"{name} goes with kind: kubernetes"):
            make_study({**study, "cluster": {name: value}})


@pytest.mark.slow
def test_a_worker_started_as_in_a_pod_serves_its_metrics(tmp_path: Path) -> None:
    """By its HTTP server, at a port that is known: pages of the dashboard or not."""
    made = make_resource(TEMPLATE, ClusterChoice(kind="kubernetes", memory_gib=1), "e30=")
    (container,) = made["spec"]["worker"]["spec"]["containers"]
    port = free_port()
    changed = {":8787": f":{port}", "$(DASK_WORKER_NAME)": "w", "/tmp/dask": str(tmp_path)}
    command = [changed.get(word, word) for word in container["args"]]
    with (
        LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "DASK_SCHEDULER_ADDRESS": cluster.scheduler_address},
            stderr=subprocess.PIPE,
        ) as worker,
    ):
        client.wait_for_workers(1, timeout=60)
        client.register_plugin(Told(b"", Running("r", "lakes", "snow", 2**20)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            told = answer.read().decode()
        worker.terminate()
    labels = '{cube="lakes",product="snow"}'
    assert f"alpage_worker_memory_planned_bytes{labels} 1.048576e+06" in told
    assert f"alpage_worker_memory_limit_bytes{labels} 1.073741824e+09" in told
    assert "dask_worker_threads 1.0" in told
