"""Encryption between a flow, its scheduler and its workers: one certificate for each run.

Whoever holds the certificate's key belongs to the run; nobody else is let in.
"""

from typing import Any

from distributed.security import Security

FOLDER = "/etc/dask-tls"
_CERTIFICATE, _KEY = f"{FOLDER}/tls.crt", f"{FOLDER}/tls.key"
READABLE_BY_GROUP = 0o440

SETTINGS = {
    "distributed.comm.require-encryption": True,
    "distributed.comm.tls.ca-file": _CERTIFICATE,
    **{
        f"distributed.comm.tls.{role}.{part}": path
        for role in ("scheduler", "worker", "client")
        for part, path in (("cert", _CERTIFICATE), ("key", _KEY))
    },
}
"""Dask's, for scheduler and workers."""


def make_security() -> Security:
    """Return a new certificate, which is in memory only, as Dask takes it."""
    return Security.temporary()


def make_secret(security: Security, cluster: dict[str, Any]) -> dict[str, Any]:
    """Return the Secret that brings a certificate to a cluster's pods, and goes with it."""
    metadata = cluster["metadata"]
    owner = {"apiVersion": cluster["apiVersion"], "kind": cluster["kind"], "name": metadata["name"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "immutable": True,
        "metadata": {
            "name": secret_name(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": {**metadata.get("labels", {}), "dask.org/cluster-name": metadata["name"]},
            "ownerReferences": [{**owner, "uid": metadata["uid"]}],
        },
        "stringData": {
            "tls.crt": security.tls_client_cert,
            "tls.key": security.tls_client_key,
        },
    }


def secret_name(cluster: str) -> str:
    """Return the name of the Secret of a cluster."""
    return f"{cluster}-tls"


def mount(pod: dict[str, Any], cluster: str) -> None:
    """Let the first container of a pod read the certificate."""
    secret = {"secretName": secret_name(cluster), "defaultMode": READABLE_BY_GROUP}
    pod.setdefault("volumes", []).append({"name": "dask-tls", "secret": secret})
    mounts = pod["containers"][0].setdefault("volumeMounts", [])
    mounts.append({"name": "dask-tls", "mountPath": FOLDER, "readOnly": True})
