"""Why pods of a cluster do not run, in words: from what Kubernetes says of them."""

import json
import re
from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException

# Nothing that waiting would cure: somebody has to change something.
LASTING = {
    "ErrImageNeverPull": "the image is not on the node, and may not be pulled",
    "ImagePullBackOff": "the image cannot be pulled",
    "ErrImagePull": "the image cannot be pulled",
    "InvalidImageName": "the image's name is not valid",
    "CreateContainerConfigError": "a secret or config map that it needs is not there",
    "CreateContainerError": "the container cannot be made",
    "RunContainerError": "the container cannot be started",
    "CrashLoopBackOff": "it ends as soon as it starts",
}


@dataclass(frozen=True)
class Trouble:
    """Why one pod does not run."""

    text: str
    lasting: bool
    """Whether waiting alone will not help."""


def find_troubles(pods: list[dict[str, Any]], deployments: list[dict[str, Any]]) -> list[Trouble]:
    """Return what keeps the pods of a cluster from running, as the API gives both lists.

    >>> pod = {"metadata": {"name": "w"}, "status": {"containerStatuses": [
    ...     {"image": "alpage:9", "state": {"waiting": {"reason": "ErrImageNeverPull"}}}]}}
    >>> find_troubles([pod], [])[0].text
    'image alpage:9: the image is not on the node, and may not be pulled (ErrImageNeverPull)'
    """
    return [
        *(trouble for pod in pods for trouble in _of_pod(pod)),
        *(trouble for deployment in deployments for trouble in _of_deployment(deployment)),
    ]


def tell(troubles: list[Trouble]) -> str:
    """Return the different troubles, each with how often it is met."""
    counts: dict[str, int] = {}
    for trouble in troubles:
        counts[trouble.text] = counts.get(trouble.text, 0) + 1
    return "; ".join(text if n == 1 else f"{text} ({n} pods)" for text, n in counts.items())


def brief(error: Exception) -> str:
    """Return why the Kubernetes API did not do what it was asked, in a line.

    >>> body = '{"message": "exceeded quota: small, used: pods=1, limited: pods=1"}'
    >>> brief(ApiException(status=403, reason="Forbidden", body=body))
    'quota small allows pods=1'
    """
    if not isinstance(error, ApiException):
        return str(error).split("\n", 1)[0]
    try:
        told = " ".join(json.loads(error.body)["message"].split())
    except (ValueError, TypeError, KeyError):
        told = ""
    return _quota_in(told) or told or f"{error.status} {error.reason}"


def lacks_rights(error: ApiException) -> bool:
    """Return whether an account may not do it: quotas and admission refuse with 403 as well."""
    return error.status == 403 and " cannot create resource " in brief(error)


def _of_pod(pod: dict[str, Any]) -> list[Trouble]:
    status = pod.get("status", {})
    found = []
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            found.append(Trouble(f"no node takes it: {condition.get('message', '')}", False))
    for container in status.get("containerStatuses") or []:
        found += _of_container(container)
    return found


def _of_container(container: dict[str, Any]) -> list[Trouble]:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason not in LASTING:
        return []
    about = f"image {container.get('image')}: " if "Image" in reason else ""
    ended = ((container.get("lastState") or {}).get("terminated") or {}).get("reason", "")
    if ended == "OOMKilled":
        return [Trouble("it passed its memory limit (OOMKilled): raise cluster.memory_gib", True)]
    told = waiting.get("message", "") if reason.startswith("Create") else ""
    words = f"{about}{LASTING[reason]} ({reason}{': ' + told if told else ''})"
    return [Trouble(words, True)]


def _of_deployment(deployment: dict[str, Any]) -> list[Trouble]:
    found = []
    for condition in deployment.get("status", {}).get("conditions") or []:
        if condition["type"] != "ReplicaFailure" or condition["status"] != "True":
            continue
        message = condition.get("message", "")
        refused = f"Kubernetes refuses it: {message}"
        found.append(Trouble(_quota_in(message) or refused, False))
    return found


def _quota_in(message: str) -> str:
    """Only the quota's name and limits: the amounts in use change from one pod to the next."""
    found = re.search(r"exceeded quota: (.*)", message)
    if found is None:
        return ""
    name = found[1].split(",", 1)[0]
    limits = re.search(r"limited: (.*)", found[1])
    return f"quota {name} allows {limits[1]}" if limits else f"quota {found[1]}"
