"""Blocks on their way through a cluster: how many at once, what came back, what is taken back.

The scheduler sees one task a chain of blocks, most often of one, and never more than the workers
need to stay busy. What short blocks cost is messages: many are sent, and their answers fetched, in
one.
"""

import contextlib
import math
import time
import uuid
from collections.abc import Iterator, Sequence

import icechunk
from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, as_completed
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError

from alpage.cube.layout import SECONDS
from alpage.engine import tally
from alpage.engine.block import run_chain, withdrawn
from alpage.engine.shared import told
from alpage.engine.tally import Reason, Running, reason_of
from alpage.engine.task import Chain, Done, Outcome
from alpage.engine.workers import Threads
from alpage.errors import ClusterError

AHEAD_S = 0.2
"""Work that waits at each thread, beside the block that it is at and one more."""
MOST_AHEAD = 64
PAUSE_S = 0.05
"""Between two looks at what came back, where enough waits at each thread."""


class Flight:
    """The chains of one step that are at the cluster. Not for use by several threads."""

    def __init__(self, client: Client) -> None:
        self._name = uuid.uuid4().hex
        self._client = client
        self._pool = as_completed()
        self._flying: dict[str, tuple[Chain, Future]] = {}
        self._seconds: float | None = None
        self._landed = -math.inf
        self._threads = Threads(client)

    def __len__(self) -> int:
        """Number of blocks under way, those of later steps included."""
        return sum(len(chain) for chain, _ in list(self._flying.values()))

    def blocks(self, step: str) -> int:
        """Return how many blocks of a step are under way."""
        flying = list(self._flying.values())
        return sum(task.id.step == step for chain, _ in flying for task in chain)

    @property
    def chains(self) -> int:
        """Number of chains under way."""
        return len(self._flying)

    @property
    def threads(self) -> int:
        """Number of threads of all workers; at least one."""
        with _scheduler_there():
            return self._threads.count

    @property
    def room(self) -> int:
        """How many more chains keep every thread busy."""
        return max(self.threads * (1 + self._ahead) + 1 - self.chains, 0)

    @property
    def _ahead(self) -> int:
        """Chains that wait at a thread."""
        if not self._seconds:
            return 1
        return 1 + min(int(AHEAD_S / self._seconds), MOST_AHEAD)

    def submit(self, chains: Sequence[Chain], fork: icechunk.ForkSession | None) -> None:
        """Send chains of blocks to the workers."""
        if not chains:
            return
        keys = [_key(chain) for chain in chains]
        forks, names = [fork] * len(chains), [self._name] * len(chains)
        with _scheduler_there():
            futures = self._client.map(run_chain, chains, forks, names, key=keys, pure=False)
        for chain, future in zip(chains, futures, strict=True):
            self._flying[future.key] = chain, future
        self._pool.update(futures)

    def landed(self) -> list[tuple[Chain, Outcome]]:
        """Wait for chains, and return those that ended, with what became of them."""
        if self._ahead > 1:
            time.sleep(max(self._landed + PAUSE_S - time.monotonic(), 0.0))
        futures = [one for one in self._pool.next_batch() if one.key in self._flying]
        self._landed = time.monotonic()
        states = {future.key: future.status for future in futures}
        finished = [future for future in futures if states[future.key] == "finished"]
        with _scheduler_there():
            # Without those that a worker took with it since.
            answers = self._client.gather({one.key: one for one in finished}, errors="skip")
        ended: list[tuple[Chain, Outcome]] = []
        for future in futures:
            outcome: Outcome | None = answers.get(future.key)
            if outcome is not None:
                self._learn(outcome.done)
            elif states[future.key] in ("error", "cancelled"):
                try:
                    outcome = Outcome((), self._failure(future))
                except ClusterError:
                    if not ended:
                        raise
                    # What has landed is told first.
                    self._pool.add(future)
                    continue
            else:
                # Its worker went away with what it had: the scheduler has it done anew.
                self._pool.add(future)
                continue
            chain, _ = self._flying.pop(future.key)
            ended.append((chain, outcome))
            future.release()
        return ended

    def _failure(self, future: Future) -> BaseException:
        with _scheduler_there():
            failure = future.exception()
        if not isinstance(failure, BaseException) or isinstance(failure, FutureCancelledError):
            # Cancelled, which nothing is here but by a scheduler that forgot what it had.
            raise _scheduler_gone()
        return failure

    def _learn(self, done: tuple[Done, ...]) -> None:
        seconds = sum(one.record.cost[kind] for one in done for kind in SECONDS)
        # The first blocks of a worker compile and open what later ones find ready.
        self._seconds = seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds

    def withdraw(self) -> None:
        """Take back what no worker has begun; chains that are begun end with their next block."""
        with _scheduler_there():
            begun = self._client.run(_withdraw, self._name, on_error="ignore")
        kept = {key for keys in begun.values() for key in keys}
        waiting = [key for key in self._flying if key not in kept]
        self._client.cancel([self._flying.pop(key)[1] for key in waiting])

    def close(self) -> None:
        """Let go of everything: what is under way is cancelled, its writes were never merged."""
        self._pool.clear()
        self._flying.clear()


class Told(WorkerPlugin):  # type: ignore[misc]
    """A run's constants on their way to the workers, those that join later too."""

    def __init__(self, packed: bytes, running: Running) -> None:
        # One for each run: what ends takes away its own, and runs may share a cluster.
        self.name = f"alpage-{uuid.uuid4().hex}"
        self._packed = packed
        self._running = running

    def setup(self, worker: Worker) -> None:
        """Leave the constants in the worker's process, for the tasks that name them."""
        from alpage.engine.metrics import register_worker

        told[self.name] = self._packed
        tally.running[self.name] = self._running
        register_worker(worker.memory_manager.memory_limit)

    def teardown(self, worker: Worker) -> None:
        """Take them away when the run is over."""
        told.pop(self.name, None)
        tally.running.pop(self.name, None)


def fault_of(failure: BaseException) -> Reason:
    """Return where to look for the fault of a block that failed, or was lost with its worker."""
    lost = isinstance(failure, KilledWorker | CommClosedError | FutureCancelledError)
    return "worker" if lost else reason_of(failure)


def _key(chain: Chain) -> str:
    first, last = chain[0], chain[-1]
    block = first.id
    place = f"{block.step}-{block.block}-{block.tile[0]}-{block.tile[1]}"
    until = f"-{last.id.step}-{last.id.block}" if len(chain) > 1 else ""
    return f"{place}{until}-{first.attempt}-{time.monotonic_ns()}"


@contextlib.contextmanager
def _scheduler_there() -> Iterator[None]:
    """Raises ClusterError where what runs inside finds that the scheduler went away."""
    try:
        yield
    except (OSError, FutureCancelledError) as error:
        raise _scheduler_gone() from error


def _scheduler_gone() -> ClusterError:
    return ClusterError(
        "cluster: its scheduler went away while the run went on; what is done is kept, run again "
        "to resume"
    )


async def _withdraw(flight: str, dask_worker: Worker) -> list[str]:
    """Tasks that run at a worker, or have run and wait there to be fetched."""
    withdrawn.add(flight)
    tasks = dask_worker.state.tasks.items()
    return [str(key) for key, task in tasks if task.state in ("executing", "memory")]
