"""Clusters that belong to one run: there when it starts, gone when it ends, however it ends."""

import asyncio
import contextlib
import logging
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask.config
from distributed import Client, LocalCluster
from distributed.utils import LoopRunner
from tornado.ioloop import IOLoop

from alpage.engine.report import Pace
from alpage.engine.workers import workers_of
from alpage.errors import ClusterError
from alpage.settings import settings
from alpage.study import ClusterChoice

# What a run and its workers must agree on.
SAME_VERSIONS = ("alpage", "dask", "distributed", "icechunk", "numpy", "zarr")

# Icechunk and obstore run threads of their own, which a forked process would not have.
DASK_SETTINGS = {
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.preload": ["alpage.logs"],
    "distributed.scheduler.worker-ttl": "5 minutes",
    "distributed.comm.timeouts.connect": "60s",
    # Tasks hold their arrays themselves; there is nothing that dask could spill.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.9,
    "distributed.worker.memory.terminate": 0.98,
    # What is submitted is bounded already, and short blocks must not wait for the next message.
    "distributed.scheduler.worker-saturation": float("inf"),
    # A thread in each process that looks at every stack a hundred times a second.
    "distributed.worker.profile.enabled": False,
    # Fifty wakings a second of each process, to find a loop that stalls for three seconds, took
    # two thirds of what an idle cluster costs.
    "distributed.admin.tick.interval": "1s",
    # Dask's own lets go of every freed page: blocks allocate the same sizes over and over, and
    # getting pages anew took a sixth of their time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": "1",
    "distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": "1",
}

MAIN_GUARD = (
    " Each worker imports the script that starts it, which must not run a study then: put the call "
    'below `if __name__ == "__main__":`'
)


@contextlib.contextmanager
def open_cluster(choice: ClusterChoice, pace: Pace | None = None) -> Iterator[Client]:
    """Give a client of the cluster that a study chose.

    On Kubernetes the workers follow the blocks that `pace` says are left, by default none.
    Raises ClusterError where it cannot be started or reached.
    """
    # Prefect lets every library's chatter through; what fails is raised, not logged.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(DASK_SETTINGS), contextlib.ExitStack() as stack:
        try:
            if choice.kind == "kubernetes":
                client = stack.enter_context(_kubernetes(choice, pace or Pace()))
            elif choice.kind == "gateway":
                client = stack.enter_context(_gateway(choice))
            elif choice.kind == "address":
                client = stack.enter_context(Client(choice.address, timeout="30s"))
            else:
                client = stack.enter_context(_local(choice))
        except (OSError, TimeoutError, RuntimeError) as error:
            at = f" at {choice.address}" if choice.address else ""
            hint = MAIN_GUARD if choice.kind == "local" and _lacks_main_guard() else ""
            raise ClusterError(
                f"cluster: {choice.kind} cluster of {choice.workers} workers{at} did not start: "
                f"{error}{hint}"
            ) from error
        if choice.kind != "local":
            _check_versions(client)
            _check_memory(client, choice.memory_gib)
        yield client


@contextlib.contextmanager
def _local(choice: ClusterChoice) -> Iterator[Client]:
    with (
        # A worker that is killed leaves files behind that nobody else owns.
        tempfile.TemporaryDirectory(prefix="alpage-", ignore_cleanup_errors=True) as scratch,
        _loop_without_interrupts() as loop,
    ):
        address: Future[Any] = Future()
        over = asyncio.Event()

        async def live() -> None:
            async with LocalCluster(
                n_workers=choice.workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                memory_limit=int(choice.memory_gib * 2**30),
                dashboard_address="127.0.0.1:0",
                local_directory=scratch,
                silence_logs=50,
                asynchronous=True,
            ) as cluster:
                address.set_result(cluster.scheduler_address)
                await over.wait()
                # What an interrupt left under way to workers fails with them: nobody waits for it.
                asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        # Dask cannot end workers that are still starting: an interrupt waits until they have.
        living = asyncio.run_coroutine_threadsafe(live(), loop.asyncio_loop)  # type: ignore[attr-defined]
        try:
            wait((address, living), return_when=FIRST_COMPLETED)
            if address.done():
                with Client(address.result(), loop=loop) as client:
                    yield client
        finally:
            loop.add_callback(over.set)
            living.result()


@contextlib.contextmanager
def _loop_without_interrupts() -> Iterator[IOLoop]:
    """Give a loop of its own thread, from which the terminal's Ctrl-C reaches no process.

    Those of the terminal's group get it as well as we do: worker processes, also those that are
    started again, inherit the mask of the thread that starts them. They end as the cluster does.
    """
    # Starting it would take the mask off again.
    resource_tracker.ensure_running()
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()


def _lacks_main_guard() -> bool:
    # A module that was started by -m has a spec, a notebook no file, and `alpage` itself a guard.
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or main.__spec__ is not None:
        return False
    return "__main__" not in Path(file).read_text(errors="replace")


def _kubernetes(choice: ClusterChoice, pace: Pace) -> contextlib.AbstractContextManager[Client]:
    with _needing_extra("kubernetes"):
        from alpage.kube.cluster import open_kubernetes
    return open_kubernetes(
        choice,
        settings().cluster_template,
        settings().cluster_start_seconds,
        DASK_SETTINGS,
        pace,
    )


def _gateway(choice: ClusterChoice) -> contextlib.AbstractContextManager[Client]:
    with _needing_extra("gateway"):
        from alpage.gateway import open_gateway
    return open_gateway(choice, settings().cluster_start_seconds)


@contextlib.contextmanager
def _needing_extra(kind: str) -> Iterator[None]:
    """Raises ClusterError where the packages are not installed that a kind of cluster needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"cluster: kind {kind} needs what pip install 'alpage[{kind}]' adds: {error}"
        ) from error


def _check_memory(client: Client, memory_gib: float) -> None:
    """Raises ClusterError where a worker has less memory than the plan fills in each thread."""
    # The order of workers is that of their arrival, which changes.
    workers = sorted(workers_of(client).items())
    for name, worker in workers:
        limit, threads = worker["memory_limit"], worker["nthreads"]
        # None is no limit; servers round a GiB their way.
        if limit and limit < 0.98 * memory_gib * threads * 2**30:
            told = "" if threads == 1 else f" for {threads} threads, each of which does a block"
            raise ClusterError(
                f"cluster: worker {name} has {limit / 2**30:.2f} GiB of memory{told}, the study "
                f"plans for {memory_gib:g} a thread: set cluster.memory_gib to what they have, "
                "give workers more, or start them with --nthreads 1"
            )


def _check_versions(client: Client) -> None:
    """Raises ClusterError where scheduler or workers run other versions than this process."""
    told = client.get_versions(packages=list(SAME_VERSIONS))
    own = _versions(told["client"])
    others = {"scheduler": told["scheduler"], **told["workers"]}
    for name, other in others.items():
        theirs = _versions(other)
        different = [
            f"{package} {theirs[package]} instead of {version}"
            for package, version in own.items()
            if theirs[package] != version
        ]
        if different:
            raise ClusterError(
                f"cluster: {name} runs {', '.join(different)}: use one image, or one environment, "
                "for the flow and its cluster"
            )


def _versions(told: dict[str, dict[str, str | None]]) -> dict[str, str | None]:
    python = ".".join(str(told["host"]["python"]).split(".")[:2])
    return {"python": python, **{name: told["packages"].get(name) for name in SAME_VERSIONS}}
