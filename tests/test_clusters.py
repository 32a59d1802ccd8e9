"""Clusters of this machine, and those that a study takes as they are."""

import os
import signal
import time

import pytest
from distributed import LocalCluster

from alpage.clusters import open_cluster
from alpage.errors import ClusterError
from alpage.study import ClusterChoice


def test_threads_of_one_worker_share_its_memory() -> None:
    own = {"n_workers": 1, "host": "127.0.0.1", "dashboard_address": None, "processes": False}
    with LocalCluster(threads_per_worker=2, memory_limit=2**30, protocol="tcp", **own) as cluster:
        address = cluster.scheduler_address
        enough = ClusterChoice(kind="address", address=address, memory_gib=0.5)
        with open_cluster(enough) as client:
            assert sum(client.nthreads().values()) == 2
        short = ClusterChoice(kind="address", address=address, memory_gib=0.75)
        told = r"1\.00 GiB of memory for 2 threads, .* 0\.75 a thread: .* --nthreads 1"
        with pytest.raises(ClusterError, match=told), open_cluster(short):
            pass


def test_workers_live_on_after_ctrl_c_also_those_that_were_started_again() -> None:
    """The terminal's Ctrl-C reaches all of its processes; who ends the workers is their cluster."""
    with open_cluster(ClusterChoice(workers=1)) as client:
        (first,) = client.run(os.getpid).values()
        os.kill(first, signal.SIGINT)
        assert list(client.run(os.getpid).values()) == [first]
        os.kill(first, signal.SIGKILL)
        until = time.monotonic() + 60
        while (found := list(client.run(os.getpid, on_error="ignore").values())) in ([], [first]):
            assert time.monotonic() < until
            time.sleep(0.1)
        os.kill(found[0], signal.SIGINT)
        time.sleep(0.5)
        assert list(client.run(os.getpid).values()) == found
