"""A DaskCluster for as long as a block of code runs: made, waited for, checked, removed."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from distributed import Client
from kubernetes import client as api
from kubernetes import config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from alpage.engine.report import Pace
from alpage.engine.workers import workers_of
from alpage.errors import ClusterError
from alpage.kube.crew import Crew
from alpage.kube.resource import (
    CLUSTERS,
    GROUP,
    VERSION,
    WORKERS,
    address_of,
    make_resource,
    make_worker,
    read_template,
)
from alpage.kube.tls import SETTINGS, make_secret, make_security
from alpage.kube.trouble import Trouble, brief, find_troubles, lacks_rights, tell
from alpage.study import ClusterChoice

logger = logging.getLogger(__name__)

POLL_S = 1.0
# What looks lasting may still be a hiccup, of a registry for instance.
LASTING_S = 20.0
OPERATOR_S = 45.0
"""Within this time the operator has made the scheduler's pod, or it is not there."""
GONE_S = 90.0
REQUEST_S = 10.0
CORE = "/api/v1/namespaces/{namespace}"
APPS = "/apis/apps/v1/namespaces/{namespace}"
DASK = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}"


@contextlib.contextmanager
def open_kubernetes(
    choice: ClusterChoice,
    template: Path | None,
    patience_s: float,
    dask_settings: dict[str, Any],
    pace: Pace,
) -> Iterator[Client]:
    """Give a client of a new DaskCluster with at least one worker, whose workers follow `pace`.

    Raises ClusterError where it does not start, with what keeps it from starting.
    """
    resource = make_resource(read_template(template), choice, _configuration(dask_settings))
    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise ClusterError(
            "cluster: kind kubernetes is for flows that run in the cluster: submit the study to a "
            f"deployment, or use kind: local here ({error})"
        ) from error
    security = make_security()
    cluster = _Cluster.create(resource, patience_s)
    crew = Crew(cluster, choice, pace)
    started = False
    try:
        cluster.keep(make_secret(security, cluster.resource), patience_s)
        # Workers that come first could take the last place that a quota leaves to the scheduler.
        cluster.await_scheduler(patience_s, ready=False)
        cluster.await_crew(crew, patience_s)
        cluster.await_scheduler(patience_s, ready=True)
        with Client(cluster.address, timeout="60s", security=security) as client:
            cluster.await_worker(client, len(crew), patience_s)
            started = True
            with crew.following(client):
                yield client
    finally:
        # Why it did not start is told at once; pods that never ran may take their time to go.
        cluster.remove(wait=started)


@dataclass
class _Cluster:
    resource: dict[str, Any]
    """As Kubernetes keeps it."""

    @classmethod
    def create(cls, resource: dict[str, Any], patience_s: float) -> "_Cluster":
        namespace = resource["metadata"]["namespace"]
        try:
            return cls(_insist(lambda: _create(CLUSTERS, namespace, resource), patience_s))
        except ApiException as error:
            # Its name is its own: it was made by a request whose answer did not come back.
            if error.status == 409:
                name = resource["metadata"]["name"]
                return cls(_insist(lambda: _read(namespace, name), patience_s))
            raise ClusterError(f"cluster: {_refusal(error, namespace)}") from error

    @property
    def name(self) -> str:
        return str(self.resource["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.resource["metadata"]["namespace"])

    @property
    def address(self) -> str:
        return address_of(self.resource["metadata"])

    def keep(self, secret: dict[str, Any], patience_s: float) -> None:
        """Make a secret that goes with the cluster. Raises ClusterError."""
        named = {"namespace": self.namespace}
        try:
            _insist(lambda: _request("POST", f"{CORE}/secrets", named, body=secret), patience_s)
        except ApiException as error:
            if error.status == 409:
                return
            needed = "; this pod's service account needs to create secrets, as the chart's does"
            raise ClusterError(
                f"cluster: the secret {secret['metadata']['name']} with the run's certificate "
                f"cannot be made: {brief(error)}{needed if lacks_rights(error) else ''}"
            ) from error

    def await_crew(self, crew: Crew, patience_s: float) -> None:
        """Ask for the first workers, again where the API does not answer. Raises ClusterError."""
        patience = _Patience(self, patience_s)
        while True:
            try:
                crew.begin()
                return
            except ApiException as error:
                if _is_refusal(error):
                    raise ClusterError(f"cluster: no worker is made: {brief(error)}") from error
            except HTTPError as error:
                logger.warning("no worker is made yet: %s", brief(error))
            patience.wait("scheduler", "no worker is made yet")

    def await_scheduler(self, patience_s: float, *, ready: bool) -> None:
        """Wait until the scheduler's pod is there, or ready. Raises ClusterError."""
        patience = _Patience(self, patience_s)
        while True:
            try:
                pods = self.pods("scheduler")
                is_made = bool(pods or self.deployments("scheduler"))
            except (ApiException, HTTPError):
                pods, is_made = [], True
            if any(_is_ready(pod) or not ready for pod in pods):
                return
            if not is_made and patience.waited > OPERATOR_S:
                raise ClusterError(
                    f"cluster: nothing was made of DaskCluster {self.name} in {OPERATOR_S:.0f} s: "
                    f"is the Dask operator running, and does it watch {self.namespace}?"
                )
            patience.wait("scheduler", "the scheduler waits")

    def await_worker(self, client: Client, asked: int, patience_s: float) -> None:
        """Wait for the first worker; others may join later. Raises ClusterError."""
        patience = _Patience(self, patience_s)
        while not workers_of(client):
            patience.wait("worker", f"{asked} of {asked} workers wait")

    def add(self, number: int) -> str:
        """Ask for a worker; returns the name of its group."""
        worker = make_worker(self.resource, number)
        try:
            _create(WORKERS, self.namespace, worker)
        except ApiException as error:
            # Asked for before, with an answer that did not come back.
            if error.status != 409:
                raise
        return str(worker["metadata"]["name"])

    def drop(self, name: str) -> None:
        """Remove the group of a worker, and with it the worker."""
        _delete(WORKERS, self.namespace, name)

    def troubles(self, role: str = "worker") -> list[Trouble]:
        """Return what keeps pods of one role from running."""
        return find_troubles(self.pods(role), self.deployments(role))

    def pods(self, role: str | None = None) -> list[dict[str, Any]]:
        return self._list(f"{CORE}/pods", role)

    def deployments(self, role: str) -> list[dict[str, Any]]:
        return self._list(f"{APPS}/deployments", role)

    def _list(self, path: str, role: str | None) -> list[dict[str, Any]]:
        labels = f"dask.org/cluster-name={self.name}"
        if role is not None:
            labels += f",dask.org/component={role}"
        found = _request("GET", path, {"namespace": self.namespace}, {"labelSelector": labels})
        return list(found["items"])

    def remove(self, *, wait: bool) -> None:
        """Remove the cluster, and its pods before it returns if so asked; try again on failures."""
        deadline = time.monotonic() + GONE_S
        deleted = False
        while time.monotonic() < deadline:
            try:
                if not deleted:
                    _delete(CLUSTERS, self.namespace, self.name)
                    deleted = True
                if not wait or not self.pods():
                    return
            except (ApiException, HTTPError) as error:
                logger.warning("cluster %s: cannot be removed yet: %s", self.name, brief(error))
            time.sleep(POLL_S)
        logger.warning(
            "cluster %s is not gone after %.0f s: %s", self.name, GONE_S, self._what_ends_it()
        )

    def _what_ends_it(self) -> str:
        with contextlib.suppress(ApiException, HTTPError):
            if "deletionTimestamp" in _read(self.namespace, self.name)["metadata"]:
                return "only the Dask operator takes its finalizer off: is it running?"
        return "Kubernetes removes it with this pod"


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

    def wait(self, role: str, what: str) -> None:
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
        if lasted or self.waited > self._patience_s:
            raise ClusterError(f"cluster: after {self.waited:.0f} s {told}")
        time.sleep(POLL_S)

    def _troubles(self, role: str) -> list[Trouble]:
        try:
            return self._cluster.troubles(role)
        except (ApiException, HTTPError) as error:
            return [Trouble(f"the Kubernetes API does not answer ({brief(error)})", False)]


def _configuration(dask_settings: dict[str, Any]) -> str:
    """Return Dask's configuration of scheduler and workers, serialized."""
    told: dict[str, Any] = {}
    routes = [*dask.config.get("distributed.scheduler.http.routes"), "alpage.kube.idle"]
    own = {**SETTINGS, "distributed.scheduler.http.routes": routes}
    dask.config.set({**dask_settings, **own}, config=told)
    return str(dask.config.serialize(told))


def _create(plural: str, namespace: str, resource: dict[str, Any]) -> dict[str, Any]:
    return _request("POST", f"{DASK}/{plural}", {"namespace": namespace}, body=resource)


def _read(namespace: str, name: str) -> dict[str, Any]:
    return _request("GET", f"{DASK}/{CLUSTERS}/{{name}}", {"namespace": namespace, "name": name})


def _insist(ask: Callable[[], dict[str, Any]], patience_s: float) -> dict[str, Any]:
    """Return what the API answers, asked again while it gives none, or one of its own failures.

    Raises ApiException where it refuses, ClusterError where it stays away.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except ApiException as error:
            if _is_refusal(error):
                raise
            failed: Exception = error
        except HTTPError as error:
            failed = error
        if time.monotonic() > deadline:
            raise ClusterError(
                f"cluster: the Kubernetes API does not answer: {brief(failed)}"
            ) from failed
        logger.warning("cluster: the Kubernetes API does not answer yet: %s", brief(failed))
        time.sleep(POLL_S)


def _is_refusal(error: ApiException) -> bool:
    """Whether asking again would bring the same answer."""
    status = error.status or 0
    return 400 <= status < 500 and status != 429


def _delete(plural: str, namespace: str, name: str) -> None:
    """Delete a resource; does nothing where there is none."""
    try:
        _request(
            "DELETE",
            f"{DASK}/{plural}/{{name}}",
            {"namespace": namespace, "name": name},
            {"gracePeriodSeconds": "5"},
        )
    except ApiException as error:
        if error.status != 404:
            raise


def _request(
    method: str,
    path: str,
    named: dict[str, str],
    query: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the Kubernetes API answers, as plain JSON.

    Not by the library's classes of pods and secrets: to import them takes seconds of a core, and
    what they make of an answer would be made plain again. Raises ApiException, HTTPError.
    """
    client = api.ApiClient()
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    request = client.param_serialize(
        method,
        path,
        path_params=named,
        query_params=list((query or {}).items()),
        header_params=headers,
        body=body,
        auth_settings=["BearerToken"],
    )
    answer = client.call_api(*request, _request_timeout=REQUEST_S)
    answer.read()
    return dict(client.response_deserialize(answer, {"2XX": "object"}).data)


def _refusal(error: ApiException, namespace: str) -> str:
    if error.status == 404:
        return (
            "Kubernetes knows no DaskCluster: install the Dask operator (operator.enabled in the "
            "chart, or the operator's own), whose resource definitions come with it"
        )
    if lacks_rights(error):
        return (
            f"this pod's service account may not create a DaskCluster in {namespace}: "
            f"{brief(error)}"
        )
    return f"Kubernetes refused the DaskCluster: {brief(error)}"


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions") or []
    )
