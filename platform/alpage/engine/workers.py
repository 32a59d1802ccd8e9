"""What a cluster's scheduler knows of its workers."""

from typing import Any

from distributed import Client


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler tells of each worker, by address.

    `Client.scheduler_info` may give none where there are some: its answer is overwritten by one
    without workers that every client asks for every other second.

    >>> from distributed import LocalCluster
    >>> own = {"processes": False, "protocol": "tcp", "host": "127.0.0.1"}
    >>> with LocalCluster(n_workers=1, dashboard_address=None, **own) as cluster:
    ...     with Client(cluster) as client:
    ...         [worker["name"] for worker in workers_of(client).values()]
    [0]
    """
    told = client.sync(client.scheduler.identity, n_workers=-1)
    return dict(told["workers"])
