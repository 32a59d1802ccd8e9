"""A DaskCluster for as long as a block of code runs: made, waited for, checked, removed."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client
from kubernetes import client as api
from kubernetes import config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from alpage.errors import ClusterError
from alpage.kube.resource import GROUP, PLURAL, VERSION, make_resource, read_template
from alpage.kube.trouble import Trouble, find_troubles, tell
from alpage.study import ClusterChoice

logger = logging.getLogger(__name__)

POLL_S = 1.0
# What looks lasting may still be a hiccup, of a registry for instance.
LASTING_S = 20.0
OPERATOR_S = 45.0
"""Within this time the operator has made the scheduler's pod, or it is not there."""
REST_S = 30.0
"""How long the first worker waits for the others before it starts alone."""
GONE_S = 90.0
REQUEST_S = 10.0


@contextlib.contextmanager
def open_kubernetes(
    choice: ClusterChoice, template: Path | None, patience_s: float, dask_config: str
) -> Iterator[Client]:
    """Give a client of a new DaskCluster with at least one worker.

    Raises ClusterError where it does not start, with what keeps it from starting.
    """
    resource = make_resource(read_template(template), choice, dask_config)
    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise ClusterError(
            "cluster: kind kubernetes is for flows that run in the cluster: submit the study to a "
            f"deployment, or use kind: local here ({error})"
        ) from error
    cluster = _Cluster.create(resource)
    started = False
    try:
        cluster.await_scheduler(patience_s)
        with Client(cluster.address, timeout="60s") as client:
            cluster.await_workers(client, choice.workers, patience_s)
            started = True
            yield client
    finally:
        # Why it did not start is told at once; pods that never ran may take their time to go.
        cluster.remove(wait=started)


@dataclass
class _Cluster:
    name: str
    namespace: str

    @classmethod
    def create(cls, resource: dict[str, Any]) -> "_Cluster":
        metadata = resource["metadata"]
        try:
            api.CustomObjectsApi().create_namespaced_custom_object(
                GROUP,
                VERSION,
                metadata["namespace"],
                PLURAL,
                resource,
                _request_timeout=REQUEST_S,
            )
        except ApiException as error:
            raise ClusterError(f"cluster: {_refusal(error, metadata['namespace'])}") from error
        except HTTPError as error:
            raise ClusterError(f"cluster: the Kubernetes API does not answer: {error}") from error
        return cls(metadata["name"], metadata["namespace"])

    @property
    def address(self) -> str:
        return f"tcp://{self.name}-scheduler.{self.namespace}.svc:8786"

    def await_scheduler(self, patience_s: float) -> None:
        """Wait until the scheduler's pod is ready. Raises ClusterError."""
        patience = _Patience(self, patience_s)
        while True:
            pods = self.pods("scheduler")
            if any(_is_ready(pod) for pod in pods):
                return
            if not pods and not self.deployments("scheduler") and patience.waited > OPERATOR_S:
                raise ClusterError(
                    f"cluster: nothing was made of DaskCluster {self.name} in {OPERATOR_S:.0f} s: "
                    f"is the Dask operator running, and does it watch {self.namespace}?"
                )
            patience.wait("scheduler", "the scheduler waits")

    def await_workers(self, client: Client, wanted: int, patience_s: float) -> None:
        """Wait for all workers, or for some once the others keep waiting. Raises ClusterError."""
        patience = _Patience(self, patience_s)
        first: float | None = None
        while True:
            ready = len(client.scheduler_info(n_workers=-1).get("workers", {}))
            if ready >= wanted:
                return
            if ready and first is None:
                first = patience.waited
            if first is not None and patience.waited - first > REST_S:
                logger.warning("going on with %d of %d workers", ready, wanted)
                return
            patience.wait("worker", f"{wanted - ready} of {wanted} workers wait", endless=ready > 0)

    def pods(self, role: str | None = None) -> list[dict[str, Any]]:
        return self._list(api.CoreV1Api().list_namespaced_pod, role)

    def deployments(self, role: str) -> list[dict[str, Any]]:
        return self._list(api.AppsV1Api().list_namespaced_deployment, role)

    def _list(self, call: Callable[..., Any], role: str | None) -> list[dict[str, Any]]:
        labels = f"dask.org/cluster-name={self.name}"
        if role is not None:
            labels += f",dask.org/component={role}"
        found = call(self.namespace, label_selector=labels, _request_timeout=REQUEST_S)
        plain = api.ApiClient().sanitize_for_serialization(found)
        return list(plain["items"])

    def remove(self, *, wait: bool) -> None:
        """Remove the cluster, and its pods before it returns if so asked; try again on failures."""
        deadline = time.monotonic() + GONE_S
        deleted = False
        while time.monotonic() < deadline:
            try:
                if not deleted:
                    self._delete()
                    deleted = True
                if not wait or not self.pods():
                    return
            except (ApiException, HTTPError) as error:
                logger.warning("cluster %s: cannot be removed yet: %s", self.name, _brief(error))
            time.sleep(POLL_S)
        logger.warning(
            "cluster %s is not gone after %.0f s: Kubernetes removes it with this pod",
            self.name,
            GONE_S,
        )

    def _delete(self) -> None:
        try:
            api.CustomObjectsApi().delete_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                self.name,
                grace_period_seconds=5,
                _request_timeout=REQUEST_S,
            )
        except ApiException as error:
            if error.status != 404:
                raise


class _Patience:
    """One wait: polls, says what is waited for when that changes, and ends it."""

    def __init__(self, cluster: _Cluster, patience_s: float) -> None:
        self._cluster = cluster
        self._patience_s = patience_s
        self._began = time.monotonic()
        self._lasting_since: float | None = None
        self._said = ""

    @property
    def waited(self) -> float:
        return time.monotonic() - self._began

    def wait(self, role: str, what: str, *, endless: bool = False) -> None:
        """Sleep a moment. Raises ClusterError where more waiting would not help."""
        troubles = self._troubles(role)
        told = f"{what}: {tell(troubles) or 'no reason given'}"
        if told != self._said and troubles:
            logger.warning(told)
            self._said = told
        if any(trouble.lasting for trouble in troubles):
            self._lasting_since = self._lasting_since or time.monotonic()
        else:
            self._lasting_since = None
        lasted = self._lasting_since and time.monotonic() - self._lasting_since > LASTING_S
        if not endless and (lasted or self.waited > self._patience_s):
            raise ClusterError(f"cluster: after {self.waited:.0f} s {told}")
        time.sleep(POLL_S)

    def _troubles(self, role: str) -> list[Trouble]:
        try:
            return find_troubles(self._cluster.pods(role), self._cluster.deployments(role))
        except (ApiException, HTTPError) as error:
            return [Trouble(f"the Kubernetes API does not answer ({_brief(error)})", False)]


def _refusal(error: ApiException, namespace: str) -> str:
    if error.status == 404:
        return (
            "Kubernetes knows no DaskCluster: install the Dask operator (operator.enabled in the "
            "chart, or the operator's own), whose resource definitions come with it"
        )
    if error.status == 403:
        return (
            f"this pod's service account may not create a DaskCluster in {namespace}: "
            f"{_brief(error)}"
        )
    return f"Kubernetes refused the DaskCluster: {_brief(error)}"


def _brief(error: ApiException | HTTPError) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return str(error).split("\n", 1)[0]


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions") or []
    )
