"""Clusters of a dask-gateway-server: asked for at its address, gone when the run is.

Who may ask is between the server and dask's own settings (`gateway.auth`), never in a study.
"""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Iterator

import aiohttp
from dask_gateway import GatewayCluster, GatewayClusterError, GatewayServerError, GatewayWarning
from distributed import Client

from alpage.errors import ClusterError
from alpage.study import ClusterChoice

LOOK_S = 0.5

logger = logging.getLogger(__name__)


class _Cluster(GatewayCluster):  # type: ignore[misc]  # it has no types
    """A cluster that is ended by its user, also where the server refused it.

    Left to the garbage collector, the finalizer of its gateway waits for distributed's lock of
    event loops. Where that runs in the thread of a loop that just begins, both wait in vain.
    """

    def __init__(self, address: str | None) -> None:
        try:
            super().__init__(address, shutdown_on_close=True)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Shut the cluster down, and the event loop with it; the finalizers find nothing to do."""
        if "gateway" not in vars(self):
            return
        # The library closes what was refused by itself, but for its event loop.
        (self.gateway if self.status == "closed" else self).close()
        del self.gateway._loop_runner


@contextlib.contextmanager
def open_gateway(choice: ClusterChoice, patience_s: float) -> Iterator[Client]:
    """Give a client of a new cluster with at least one worker.

    Raises ClusterError where the server refuses, or no worker comes in time.
    """
    with contextlib.ExitStack() as stack:
        try:
            cluster = _Cluster(choice.address)
            stack.callback(cluster.end)
            held_back = _scale(cluster, choice.workers)
            client = stack.enter_context(cluster.get_client())
        # The library lets through what its HTTP client raises; what servers say is ValueError.
        except (
            GatewayClusterError,
            GatewayServerError,
            aiohttp.ClientError,
            ValueError,
            OSError,
        ) as error:
            raise ClusterError(
                f"cluster: the gateway at {choice.address} gave no cluster: {error}. Whom it lets "
                "in is asked of dask's settings gateway.auth"
            ) from error
        _wait_for_worker(client, choice, patience_s, held_back)
        yield client


def _scale(cluster: GatewayCluster, workers: int) -> str:
    """Ask for workers; returns what the server says where it gives fewer."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", GatewayWarning)
        cluster.scale(workers)
    told = " ".join(str(one.message) for one in said)
    if told:
        logger.warning("gateway: %s", told)
    return told


def _wait_for_worker(
    client: Client, choice: ClusterChoice, patience_s: float, held_back: str
) -> None:
    until = time.monotonic() + patience_s
    while not client.nthreads():
        if time.monotonic() > until:
            reason = held_back.rstrip(".") or "no node has room for one"
            raise ClusterError(
                f"cluster: the gateway at {choice.address} started a scheduler, but none of "
                f"{choice.workers} workers within {math.ceil(patience_s)} s: {reason}. "
                "Ask for fewer, or ask who runs it"
            )
        time.sleep(LOOK_S)
