"""What a worker does in one task: a block, or several of one tile, from imagery to shards."""

import logging
import pickle

import icechunk
import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from alpage import logs
from alpage.cube.ledger import NOTHING, Record
from alpage.engine import tally
from alpage.engine.chain import Kept
from alpage.engine.clear import clear_block
from alpage.engine.derive import derive
from alpage.engine.leftovers import drop_leftovers
from alpage.engine.observe import observe
from alpage.engine.shared import Shared, unpack
from alpage.engine.task import Chain, Done, Job, Outcome, Task
from alpage.engine.totals import add_up, summarise
from alpage.product import Derive, Gather, Observe, Stage, Summarise

logger = logging.getLogger(__name__)


withdrawn: set[str] = set()
"""Flights that this process is told to end: what is begun of them goes on to its next block."""


def run_chain(chain: Chain, fork: icechunk.ForkSession, flight: str) -> Outcome:
    """Return the blocks of a chain that are done, each in a fork of its own, and what ended it.

    Raises what the first block does: nothing is done then.
    """
    drop_leftovers()
    if len(chain) == 1:
        return Outcome((_run_block(chain[0], fork, None),))
    last, spare = chain[-1], pickle.dumps(fork)
    stage = _stage_of(unpack(last.shared), last.id.step)
    assert isinstance(stage, Derive)
    kept = Kept(stage.reads, last.observed)
    done: list[Done] = []
    for task in chain:
        if done and flight in withdrawn:
            break
        # Of a block that fails nothing may stay, and what those before it wrote must.
        own: icechunk.ForkSession = pickle.loads(spare)  # noqa: S301 - our own
        try:
            done.append(_run_block(task, own, kept))
        except Exception as error:
            if not done:
                raise
            return Outcome(tuple(done), _portable(error))
    return Outcome(tuple(done))


def _portable(error: Exception) -> Exception:
    """Return an error that reaches the coordinator: itself, or what it says where it cannot."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever a product's own class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _run_block(task: Task, fork: icechunk.ForkSession, kept: Kept | None) -> Done:
    """Return a block done: layers and tables written into the fork, which nobody sees yet."""
    told = tally.running[task.shared]
    with logs.about(
        run=told.run,
        cube=told.cube,
        product=told.product,
        stage=task.id.step,
        block=task.id.place,
        attempt=task.attempt,
    ):
        job = Job(task, unpack(task.shared), fork.store, _committed(fork), kept)
        try:
            statistics = _do(job)
        except Exception as error:
            _count(told, job, error)
            logger.warning("%s failed: %s", task.id, error, exc_info=True)
            raise
        _count(told, job, None)
        logger.debug("%s is done", task.id)
    cost = {f"{kind}_seconds": seconds for kind, seconds in job.clock.seconds.items()}
    cost |= {
        "bytes_read": float(job.counters.bytes),
        "requests": float(job.counters.requests),
        "requests_again": float(job.counters.retries),
        "attempts": float(task.attempt),
    }
    record = Record(task.id, task.fingerprint, cost, statistics)
    return Done(record, fork, dict(job.counters.failures))


def _do(job: Job) -> NDArray[np.int64] | None:
    """Do the block, and return the statistics of its layers."""
    task = job.task
    stage = _stage_of(job.shared, task.id.step)
    match stage:
        case _ if task.fingerprint == NOTHING:
            clear_block(job.layout, stage, task.id, job.root)
            job.clock.lap("write")
        case Observe():
            return observe(stage, job)
        case Derive():
            return derive(stage, job)
        case Summarise() if task.id.step == stage.name:
            summarise(stage, job)
        case Gather() | Summarise():
            add_up(stage, job)
    return None


def _count(told: tally.Running, job: Job, failure: Exception | None) -> None:
    tally.count(told, job.task.id.step, job.clock.seconds, job.counters, failure)


_KNOWN: dict[str, Store] = {}


def _committed(fork: icechunk.ForkSession) -> Store:
    """The store as it was committed: what Icechunk read of a snapshot serves all its blocks."""
    store = _KNOWN.get(fork.snapshot_id)
    if store is None:
        # A copy: the fork itself will hold what its block writes.
        copy: icechunk.ForkSession = pickle.loads(pickle.dumps(fork))  # noqa: S301 - our own
        store = copy.store
        _KNOWN.clear()
        _KNOWN[fork.snapshot_id] = store
    return store


def _stage_of(shared: Shared, step: str) -> Stage:
    return next(
        stage
        for stage in shared.product.stages
        if step == stage.name or (isinstance(stage, Summarise) and step == f"{stage.name}_total")
    )
