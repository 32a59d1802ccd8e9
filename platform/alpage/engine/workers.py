"""What a cluster's scheduler knows of its workers."""

import math
import time
from typing import Any

from distributed import Client

LOOK_S = 5.0
"""Between two counts of the workers: pods arrive one by one."""


class Threads:
    """How many threads the workers of a cluster have, counted now and then."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counted, self._looked = 1, -math.inf

    @property
    def count(self) -> int:
        """Number of threads of all workers; at least one. Raises OSError without a scheduler."""
        if time.monotonic() - self._looked > LOOK_S:
            self._counted = sum(self._client.nthreads().values()) or 1
            self._looked = time.monotonic()
        return self._counted


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
