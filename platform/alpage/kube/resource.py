"""The DaskCluster resource of one run: the operator's template with what the study asks for."""

import copy
import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

import yaml

from alpage.errors import ClusterError
from alpage.kube.tls import mount
from alpage.settings import settings
from alpage.study import ClusterChoice

GROUP, VERSION = "kubernetes.dask.org", "v1"
CLUSTERS, WORKERS = "daskclusters", "daskworkergroups"
# The annotation of a DaskCluster that says after how long without work it is a forgotten one.
IDLE_SECONDS = "alpage/idle-seconds"
MIB = 2**20
# A worker that lost its scheduler ends, and Kubernetes starts it anew.
DEATH_TIMEOUT_S = 120
# What the worker's own limit leaves for the interpreter and for what Dask does not count.
SPARE_MIB = 128


def read_template(path: Path | None) -> dict[str, Any]:
    """Return the DaskCluster resource that the installation gives.

    Raises ClusterError where there is none, or where it is something else.
    """
    if path is None:
        raise ClusterError(
            "cluster: kind kubernetes needs ALPAGE_CLUSTER_TEMPLATE, which the flow pods of the "
            "helm chart have: submit the study to a deployment, or use kind: local here"
        )
    try:
        template = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(
            f"cluster: ALPAGE_CLUSTER_TEMPLATE is expected to be readable YAML: {error}"
        ) from error
    if not isinstance(template, dict) or template.get("kind") != "DaskCluster":
        raise ClusterError(f"cluster: expected a DaskCluster resource in {path}")
    try:
        for role in ("scheduler", "worker"):
            _container(template, role)
        template["metadata"]["namespace"]
        template["spec"]["scheduler"]["service"]["selector"]
    except (KeyError, IndexError, TypeError) as error:
        raise ClusterError(
            f"cluster: the DaskCluster in {path} lacks its namespace, its service, or "
            f"the container of its scheduler or worker ({error})"
        ) from error
    return template


def make_resource(
    template: dict[str, Any], choice: ClusterChoice, dask_config: str
) -> dict[str, Any]:
    """Return the DaskCluster resource of a new cluster: its own name, size and owner.

    It belongs to the pod that POD_NAME and POD_UID name, where they are set: when that pod is
    gone, Kubernetes removes the cluster. Its image is the study's, or else the flow's own
    (ALPAGE_CLUSTER_IMAGE), or else the template's. It has no worker yet. `dask_config` is Dask's
    serialized configuration.
    """
    made = copy.deepcopy(template)
    metadata = made["metadata"]
    metadata["name"] = f"alpage-{uuid.uuid4().hex[:12]}"
    if run := os.environ.get("PREFECT__FLOW_RUN_ID"):
        metadata.setdefault("labels", {})["alpage/flow-run"] = run
    pod, uid = os.environ.get("POD_NAME"), os.environ.get("POD_UID")
    if pod and uid:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid, "controller": False}
        ]
    scheduler, worker = _container(made, "scheduler"), _container(made, "worker")
    image = choice.image or settings().cluster_image
    for container in (scheduler, worker):
        if image is not None:
            container["image"] = image
        container.setdefault("env", []).append(
            {"name": "DASK_INTERNAL_INHERIT_CONFIG", "value": dask_config}
        )
    worker["env"].append({"name": "DASK_SCHEDULER_ADDRESS", "value": address_of(metadata)})
    for role in ("scheduler", "worker"):
        mount(made["spec"][role]["spec"], metadata["name"])
    scheduler["args"] = ["dask", "scheduler", "--protocol", "tls", "--port", "8786"]
    scheduler["args"] += ["--dashboard-address", ":8787"]
    made["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = metadata["name"]
    # Each worker is a group of its own: the run then says which one goes, not only how many.
    made["spec"]["worker"]["replicas"] = 0
    _shape_worker(made["spec"]["worker"]["spec"], worker, choice)
    spot = json.loads(metadata.get("annotations", {}).get("alpage/spot", "{}"))
    _place_worker(made["spec"]["worker"]["spec"], choice, spot)
    return made


def address_of(metadata: dict[str, Any]) -> str:
    """Return where the scheduler of a cluster is reached."""
    return f"tls://{metadata['name']}-scheduler.{metadata['namespace']}.svc:8786"


def make_worker(cluster: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the DaskWorkerGroup resource of one worker of a cluster, as Kubernetes keeps that."""
    metadata = cluster["metadata"]
    owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "DaskCluster"}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "DaskWorkerGroup",
        "metadata": {
            "name": f"{metadata['name']}-{number}",
            "namespace": metadata["namespace"],
            "labels": {**metadata.get("labels", {}), "dask.org/cluster-name": metadata["name"]},
            "ownerReferences": [{**owner, "name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": {
            "cluster": metadata["name"],
            "worker": {**cluster["spec"]["worker"], "replicas": 1},
        },
    }


def made_for(worker: str) -> str:
    """Return the DaskWorkerGroup whose worker has this name."""
    return worker.rpartition("-worker-")[0]


def _shape_worker(pod: dict[str, Any], worker: dict[str, Any], choice: ClusterChoice) -> None:
    memory_mib = math.floor(choice.memory_gib * 1024)
    cores = choice.cores or 1.0
    # One block at a time; no nanny: what runs out of memory is started anew by Kubernetes.
    worker["args"] = ["dask", "worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"]
    worker["args"] += ["--name", "$(DASK_WORKER_NAME)", "--local-directory", "/tmp/dask"]  # noqa: S108
    worker["args"] += ["--death-timeout", str(DEATH_TIMEOUT_S)]
    # No pages, but /metrics.
    worker["args"] += ["--dashboard-address", ":8787"]
    worker["args"] += ["--memory-limit", str(memory_mib * MIB)]
    memory = f"{memory_mib + SPARE_MIB}Mi"
    worker["resources"] = {
        "requests": {"cpu": f"{math.ceil(cores * 1000)}m", "memory": memory},
        "limits": {"cpu": str(math.ceil(cores)), "memory": memory},
    }


def _place_worker(pod: dict[str, Any], choice: ClusterChoice, spot: dict[str, Any]) -> None:
    """Choose the nodes of a worker; `spot` is what the installation says of spot nodes."""
    labels = spot.get("labels") or {}
    chosen = dict(choice.node_selector)
    if choice.spot and not labels:
        raise ClusterError(
            "cluster.spot: this installation names no spot nodes: set cluster.spot.labels of the "
            "chart, or leave spot out"
        )
    if choice.spot:
        chosen |= labels
    if choice.spot is not False:
        pod["tolerations"] = [*pod.get("tolerations", []), *(spot.get("tolerations") or [])]
    elif labels:
        off = [
            {"key": key, "operator": "NotIn", "values": [label]} for key, label in labels.items()
        ]
        terms = {"nodeSelectorTerms": [{"matchExpressions": off}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        pod["affinity"] = {"nodeAffinity": required}
    if chosen:
        pod["nodeSelector"] = {**pod.get("nodeSelector", {}), **chosen}


def _container(resource: dict[str, Any], role: str) -> dict[str, Any]:
    container = resource["spec"][role]["spec"]["containers"][0]
    assert isinstance(container, dict)
    return container
