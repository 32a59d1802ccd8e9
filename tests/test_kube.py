"""What is asked of the Dask operator, and what is told when Kubernetes does not do it."""

import asyncio
import copy
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from distributed import Client, LocalCluster
from kr8s import APITimeoutError
from kr8s.asyncio.objects import Service
from kubernetes.client import Configuration
from s3_server import free_port

from alpage.clusters import open_cluster
from alpage.engine.flight import Told
from alpage.engine.report import Pace
from alpage.engine.tally import Running
from alpage.errors import ClusterError, StudyError
from alpage.kube import cluster as module
from alpage.kube import operator
from alpage.kube.cluster import open_kubernetes
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


@pytest.mark.parametrize(
    ("chosen", "own", "expected"),
    [
        (None, "alpage:3", "alpage:3"),
        ("alpage:2", "alpage:3", "alpage:2"),
        (None, None, "alpage:1"),
    ],
    ids=["the flow's own", "the study's", "the template's"],
)
def test_a_cluster_has_the_image_of_its_flow_unless_the_study_says_another(
    chosen: str | None, own: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is not None:
        monkeypatch.setenv("ALPAGE_CLUSTER_IMAGE", own)
    settings.cache_clear()
    try:
        made = make_resource(TEMPLATE, ClusterChoice(kind="kubernetes", image=chosen), "e30=")
    finally:
        settings.cache_clear()
    for role in ("scheduler", "worker"):
        (container,) = made["spec"][role]["spec"]["containers"]
        assert container["image"] == expected


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


@dataclass
class Api:
    """A Kubernetes API that gives prepared answers, by verb and last part of the path."""

    answers: dict[tuple[str, str], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    away: int = 0
    """How many requests are still to be done without an answer."""
    silent: bool = False
    """Whether what has no prepared answer is left waiting for one."""
    address: str = ""

    def refuse(self, verb: str, what: str, status: int, message: str) -> None:
        told = {"kind": "Status", "status": "Failure", "message": message, "code": status}
        self.answers[verb, what] = (status, told)


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """An API for which this process is a pod."""
    api = Api()
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            what = self.path.partition("?")[0].rpartition("/")[2]
            if api.away:
                api.away -= 1
                return
            if api.silent and (self.command, what) not in api.answers:
                end.wait()
                return
            status, content = api.answers[self.command, what]
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    api.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(Configuration, "_default", Configuration(host=api.address))
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    yield api
    end.set()
    server.shutdown()
    thread.join()
    server.server_close()


QUOTA = (
    'daskclusters.kubernetes.dask.org "alpage-1" is forbidden: exceeded quota: small, requested: '
    "count/daskclusters.kubernetes.dask.org=1, used: count/daskclusters.kubernetes.dask.org=2, "
    "limited: count/daskclusters.kubernetes.dask.org=2"
)
RIGHTS = (
    'daskclusters.kubernetes.dask.org is forbidden: User "system:serviceaccount:team:a-flow" '
    'cannot create resource "daskclusters" in API group "kubernetes.dask.org" in the namespace '
    '"team"'
)
ADMISSION = 'admission webhook "validate.kyverno.svc" denied the request: no label cost-centre'


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (RIGHTS, "cluster: this pod's service account may not create a DaskCluster in team: "),
        (
            QUOTA,
            "cluster: Kubernetes refused the DaskCluster: quota small allows "
            "count/daskclusters.kubernetes.dask.org=2",
        ),
        (ADMISSION, f"cluster: Kubernetes refused the DaskCluster: {ADMISSION}"),
        ("", "cluster: Kubernetes refused the DaskCluster: 403 Forbidden"),
    ],
    ids=["rights", "quota", "admission", "silent"],
)
def test_a_cluster_that_is_refused_says_by_what(
    kubernetes: Api, tmp_path: Path, message: str, words: str
) -> None:
    kubernetes.refuse("POST", "daskclusters", 403, message)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(TEMPLATE))
    choice = ClusterChoice(kind="kubernetes")
    with pytest.raises(ClusterError) as told, open_kubernetes(choice, path, 1, {}, Pace()):
        pass
    assert str(told.value).startswith(words)
    assert ("may not create" in str(told.value)) == (message == RIGHTS)


BUSY = {"kind": "Status", "status": "Failure", "message": "etcd is slow", "code": 503}


def test_a_cluster_is_asked_for_again_while_the_api_is_away(
    kubernetes: Api, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.1)
    resource = {"metadata": {"name": "alpage-1", "namespace": "team"}}
    made = {"metadata": {**resource["metadata"], "uid": "u-2"}}
    # What was made by a request whose answer got lost is there at the next one.
    kubernetes.away = 2
    kubernetes.refuse("POST", "daskclusters", 409, "alpage-1 already exists")
    kubernetes.answers["GET", "alpage-1"] = (200, made)
    cluster = module._Cluster.create(resource, 10)
    assert cluster.resource == made
    kubernetes.away = 1
    kubernetes.answers["POST", "secrets"] = (201, {})
    cluster.keep({"metadata": {"name": "alpage-1-tls"}}, 10)
    assert kubernetes.away == 0
    assert sum("does not answer yet" in line for line in said) == 3


def test_a_cluster_is_given_up_where_the_api_stays_away(
    kubernetes: Api, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.1)
    kubernetes.answers["POST", "daskclusters"] = (503, BUSY)
    resource = {"metadata": {"name": "alpage-1", "namespace": "team"}}
    with pytest.raises(ClusterError, match="the Kubernetes API does not answer: etcd is slow"):
        module._Cluster.create(resource, 0.3)
    assert len(said) > 1


def test_the_operator_waits_for_no_answer_for_ever(
    kubernetes: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes.silent = True
    version = {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}
    kubernetes.answers["GET", ""] = (200, version)
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "own",
        "clusters": [{"name": "own", "cluster": {"server": kubernetes.address}}],
        "users": [{"name": "own", "user": {}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(told))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr(operator, "ANSWER_S", 0.5)

    async def ask() -> None:
        settings, memo = kopf.OperatorSettings(), kopf.Memo()
        await operator.configure(settings=settings, memo=memo)
        assert settings.scanning.disabled
        # As dask-kubernetes asks: by whatever client kr8s has.
        async with asyncio.timeout(20):
            await Service.get("a-scheduler", namespace="team")

    with pytest.raises(APITimeoutError):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"deletionTimestamp": "2026-11-28T03:00:00Z"}, "only the Dask operator takes its fin"),
        ({}, "Kubernetes removes it with this pod"),
    ],
    ids=["kept by its finalizer", "only slow"],
)
def test_a_cluster_that_does_not_go_says_who_ends_it(
    kubernetes: Api,
    kept: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    monkeypatch.setattr(module, "GONE_S", 0.3)
    monkeypatch.setattr(module, "POLL_S", 0.1)
    metadata = {"name": "alpage-1", "namespace": "team"}
    kubernetes.answers["DELETE", "alpage-1"] = (200, {})
    kubernetes.answers["GET", "pods"] = (200, {"items": [{}]})
    kubernetes.answers["GET", "alpage-1"] = (200, {"metadata": metadata | kept})
    module._Cluster({"metadata": metadata}).remove(wait=True)
    assert words in said[-1]


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
