"""Do the blocks of a plan on a cluster: bounded submission, retries, batched commits, budget.

The coordinator holds the blocks in flight and the ledger's fingerprints, never
pixels. Every commit joins data, tables and record; what is not committed when
the coordinator dies is done again by the next run, from the last commit.
"""

import contextlib
import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import icechunk
import numpy as np
import shapely
import zarr
from distributed import Client, KilledWorker

from alpage import logs
from alpage.cube.layout import COSTS
from alpage.cube.ledger import NOTHING, BlockId, Fingerprint
from alpage.cube.store import CubeStore
from alpage.engine.budget import Budget
from alpage.engine.flight import Flight, Told, fault_of
from alpage.engine.pending import Pending
from alpage.engine.plan import Plan, inspect_needed
from alpage.engine.queue import Queue
from alpage.engine.relief import area_on
from alpage.engine.report import Pace, Progress, RunReport
from alpage.engine.shared import pack
from alpage.engine.tally import Running
from alpage.engine.task import Chain, Done, Task
from alpage.errors import (
    AlpageError,
    ArchiveError,
    BlockFailed,
    LimitReached,
    SceneError,
    StorageError,
)
from alpage.objectstore import MAX_TRIES, is_passing
from alpage.product import Derive, Gather, Observe, Summarise
from alpage.redaction import redact
from alpage.settings import Settings
from alpage.timeaxis import Calendar

OUT_OF_MEMORY = "Most often they passed their memory limit: raise cluster.memory_gib"

logger = logging.getLogger(__name__)


class _Replan(Exception):  # noqa: N818 - a signal between two functions, not a failure
    """A scene was quarantined: what blocks should read has changed."""


class Run:
    """One run of one plan. Use once."""

    def __init__(
        self,
        plan: Plan,
        client: Client,
        store: CubeStore,
        branch: str,
        settings: Settings,
        on_progress: Callable[[Progress], None],
        pace: Pace,
    ) -> None:
        self.plan = plan
        self.client = client
        self.store = store
        self.branch = branch
        self.settings = settings
        self.on_progress = on_progress
        self.pace = pace
        self._threads = self._blocks_left = 0
        part = plan.work.part
        self.report = RunReport(
            store.url,
            started=dt.datetime.now(dt.UTC).isoformat(),
            part=None if part is None else str(part),
        )
        self._began = time.monotonic()
        self.budget = Budget(plan.study.limits, settings, self.report, plan.bill.n_blocks)
        self.queue = Queue({step: len(blocks) for step, blocks in plan.blocks.items()})
        self.running = Running(
            run=logs.run_id(),
            cube=plan.study.cube.rstrip("/").rsplit("/", 1)[-1],
            product=plan.shared.product.name,
            planned_bytes=plan.bill.peak_bytes,
        )
        area = area_on(plan.study, plan.layout.grid)
        self._told = Told(pack(plan.study, plan.shared, area), self.running)
        self._zones_wkb = [shapely.to_wkb(zone) for zone in plan.work.zones]
        self._fork: icechunk.ForkSession | None = None
        self._batch: list[Done] = []
        self._failed: Counter[BlockId] = Counter()
        self._last_commit = time.monotonic()
        self._done_units = 0.0
        self._total_units = sum(
            self._units(block) for blocks in plan.blocks.values() for block in blocks
        )

    def execute(self) -> RunReport:
        """Do every block and leave the result on the branch; readers see nothing yet.

        Raises LimitReached, BlockFailed, ArchiveError, StorageError or ProductError; what is
        finished by then is committed on the branch.
        """
        about = {name: getattr(self.running, name) for name in ("run", "cube", "product")}
        with logs.about(**about):
            told = self.plan.bill.n_blocks, len(self.plan.scenes), len(self.plan.left_out)
            logger.info("%d blocks to do at most; %d scenes, %d left out", *told)
            try:
                self._do_steps()
            except AlpageError as error:
                logger.error("the run has ended: %s", error)
                raise
            finally:
                self.report.cost_eur = self.budget.cost_eur
                self.report.quarantined = self.plan.left_out
                self.report.scenes = len(self.plan.scenes) - len(self.plan.quarantined)
                self.report.seconds = time.monotonic() - self._began
        return self.report

    def _do_steps(self) -> None:
        self._fork = self.store.writable(self.branch).fork()
        with self._workers_told():
            while True:
                try:
                    for step in self.plan.work.steps:
                        with logs.about(stage=step):
                            self._do_step(step)
                    return
                except _Replan:
                    inspect_needed(self.plan)
                    if self.budget.spent():
                        # Blocks that were done with what is left out now are to do again.
                        left = sum(map(len, self.plan.work.expected().values()))
                        self.budget.planned_blocks = self.report.n_blocks + left

    @contextlib.contextmanager
    def _workers_told(self) -> Iterator[None]:
        """Workers know the run's constants, those that join later too: no task carries them."""
        self.client.register_plugin(self._told, name=self._told.name)
        try:
            yield
        finally:
            # A scheduler that is gone does not answer; one that was started anew knows of none.
            with contextlib.suppress(OSError, ValueError):
                self.client.unregister_worker_plugin(self._told.name)

    def _do_step(self, step: str) -> None:
        pending = Pending(self.plan.work, step)
        flight = Flight(self.client)
        self.queue.begin(step, flight)
        stop: AlpageError | _Replan | None = None
        is_stopping = False

        def fill() -> None:
            # Never less than keeps every thread busy: by so much a limit may be passed.
            affordable = max(self.budget.affordable_blocks(), flight.threads) - len(flight)
            chains: list[Chain] = []
            for _ in range(flight.room):
                if not pending or affordable < 1:
                    break
                links = pending.take(threads=flight.threads, affordable=affordable)
                chains.append(tuple(self._task(*link) for link in links))
                affordable -= len(links)
            flight.submit(chains, self._fork)
            self.pace.tasks, self._threads = flight.chains + len(pending), flight.threads
            self._blocks_left = flight.blocks(step) + len(pending)

        try:
            fill()
            while flight:
                again: list[Task] = []
                for chain, outcome in flight.landed():
                    for done in outcome.done:
                        self._accept(step, done)
                        stop = stop or self.budget.passed()
                    rest = list(chain[len(outcome.done) :])
                    if outcome.failure is not None:
                        task = rest.pop(0)
                        # A bad scene is no fault of the blocks that meet it.
                        self._failed[task.id] += not isinstance(outcome.failure, SceneError)
                        is_tried_again, reason = self._judge((task, *rest), outcome.failure)
                        self._book(task, outcome.failure, is_tried_again and stop is None)
                        if is_tried_again:
                            again.append(task)
                        stop = stop or reason
                    pending.put_back(one.id for one in rest if one.id.step == step)
                if stop is not None:
                    if not is_stopping:
                        flight.withdraw()
                        is_stopping = True
                    self.pace.tasks, self._blocks_left = flight.chains, flight.blocks(step)
                    continue
                self.report.retries += len(again)
                # What reads of others is tried again when they are committed, in its own step.
                again = [task for task in again if task.id.step == step]
                links = [(task.id, self.plan.work.wanted(task.id)) for task in again]
                flight.submit([(self._task(*link),) for link in links], self._fork)
                fill()
        finally:
            flight.close()
            self._commit(step)
        if isinstance(stop, LimitReached):
            # What was under way has landed since.
            stop = self.budget.passed()
        if stop is not None:
            raise stop
        self.queue.end(step)
        if isinstance(self.plan.work.stage(step), Gather):
            self._refresh_result(step)

    def _judge(
        self, chain: Chain, failure: BaseException
    ) -> tuple[bool, AlpageError | _Replan | None]:
        """Decide on a chain's first block, which failed: again, without a scene, or the end."""
        task, attempts = chain[0], self._failed[chain[0].id]
        if isinstance(failure, SceneError):
            if self.plan.study.on_bad_scene == "stop":
                told = f"scene {failure.scene_id} is bad: {failure.reason}"
                return False, ArchiveError(f"on_bad_scene is stop, and {told}")
            self.plan.quarantined[failure.scene_id] = failure.reason
            if failure.where is not None:
                self.plan.damaged[failure.scene_id] = failure.where
            return False, _Replan()
        if isinstance(failure, AlpageError) and not isinstance(failure, StorageError):
            return False, failure
        # A network that breaks asks for more patience than a product that does.
        patience = MAX_TRIES if is_passing(failure) else self.settings.block_retries
        # Several workers died of it already, each of which took its time to come back.
        is_deadly = isinstance(failure, KilledWorker)
        if attempts <= patience and not is_deadly:
            return True, None
        # A full disk or a store that is gone is no fault of the block.
        stored = isinstance(failure, StorageError | icechunk.IcechunkError)
        told = f"failed {attempts} times, the last time with {_in_words(failure)}"
        if is_deadly:
            # Dask counts for itself how many workers a task took with it.
            told = "" if len(chain) == 1 else f"or one of {len(chain) - 1} that follow on its tile "
            told += f"ended each worker that ran it. {self.pace.waiting or OUT_OF_MEMORY}"
        error = (StorageError if stored else BlockFailed)(
            f"{task.id} {told}. What is done is kept: run again to resume"
        )
        error.__cause__ = failure
        return False, error

    def _book(self, task: Task, failure: BaseException, is_tried_again: bool) -> None:
        reasons = self.report.failures.setdefault(task.id.step, {})
        reason = fault_of(failure)
        reasons[reason] = reasons.get(reason, 0) + 1
        then = ", is tried again" if is_tried_again else ""
        with logs.about(block=task.id.place, attempt=task.attempt):
            logger.warning("%s failed%s: %s", task.id, then, _in_words(failure))

    def _task(self, block: BlockId, fingerprint: Fingerprint) -> Task:
        work = self.plan.work
        stage = work.stage(block.step)
        days: tuple[Any, ...] = ()
        observed: tuple[int, ...] = ()
        tiles: tuple[tuple[int, int], ...] = ()
        zones: tuple[tuple[int, bytes], ...] = ()
        if isinstance(stage, Observe):
            days = tuple(
                (
                    np.datetime64(day, "D"),
                    tuple(self.plan.sources[scene.id] for scene in scenes),
                )
                for day, scenes in work.index.scenes(block.tile, block.block)
            )
        elif work.is_total(block.step):
            tiles = tuple(
                one.tile for one in work.inputs(block) if work.ledger.recorded(one) != NOTHING
            )
        else:
            assert isinstance(stage, Derive | Summarise)
            observed = work.observed(block)
        if not work.is_total(block.step) and work.layout.product.uses_zones(stage):
            zones = tuple((n, self._zones_wkb[n]) for n in work.zones_of(block.tile))
        return Task(
            shared=self._told.name,
            id=block,
            fingerprint=fingerprint,
            attempt=self._failed[block] + 1,
            days=days,
            observed=observed,
            zones=zones,
            tiles=tiles,
        )

    def _accept(self, step: str, done: Done) -> None:
        self._batch.append(done)
        cost = done.record.cost
        report = self.report
        report.blocks[done.record.id.step] = report.blocks.get(done.record.id.step, 0) + 1
        for name in COSTS:
            if name != "attempts":
                setattr(report, name, getattr(report, name) + cost[name])
        for status, number in done.requests_failed.items():
            report.requests_failed[status] = report.requests_failed.get(status, 0) + number
        self.budget.learn()
        self.queue.landed()
        self._done_units += self._units(done.record.id)
        full = len(self._batch) >= self.settings.commit_blocks
        late = time.monotonic() - self._last_commit > self.settings.commit_seconds
        if full or late:
            self._commit(step)
        self.on_progress(
            Progress(
                step,
                self._done_units,
                max(self._total_units, self._done_units),
                time.monotonic() - self._began,
                self._blocks_left,
                self._threads,
                self.pace.waiting,
            )
        )

    def _commit(self, step: str) -> None:
        """Join finished blocks, their tables and their record in one snapshot.

        Forks of older snapshots merge as well: each block has its own shards.
        """
        if not self._batch:
            return

        def join(session: icechunk.Session) -> None:
            session.merge(*(done.fork for done in self._batch))
            root = zarr.open_group(session.store, mode="r+")
            self.plan.work.ledger.write(root, [done.record for done in self._batch])

        self.store.commit(self.branch, f"{step}: {len(self._batch)} blocks", join)
        self._batch.clear()
        self._last_commit = time.monotonic()
        self._fork = self.store.writable(self.branch).fork()

    def _refresh_result(self, step: str) -> None:
        root = self.store.read(branch=self.branch)
        self.plan.work.results[step] = np.asarray(root[f"ledger/{step}/result"][:])

    def _units(self, block: BlockId) -> float:
        """Square kilometres times dates of a block."""
        work = self.plan.work
        stage = work.stage(block.step)
        if work.is_total(block.step):
            return 0.0
        rows, columns = work.layout.grid.slices(block.tile)
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        if isinstance(stage, Observe):
            dates = len(work.index.scenes(block.tile, block.block))
        else:
            dates = len(work.observed(block)) or 1
        return float(pixels * work.layout.grid.pixel_area_m2 / 1e6 * dates)


def _in_words(failure: BaseException) -> str:
    """A failure in one line, without credentials that another's message may hold."""
    return f"{type(failure).__name__}: {redact(str(failure).strip().split('\n', 1)[0])}"


def finish(run: Run, scenes_digest: str, gate: Callable[[zarr.Group], list[dict[str, Any]]]) -> str:
    """Check the branch, seal it with the run's report and make it what readers see.

    Returns the published snapshot. Raises GateFailed, with main as it was.
    """
    plan, store = run.plan, run.store
    run.report.gate = gate(store.read(branch=run.branch))
    counts = np.zeros(len(plan.layout.axes[Calendar.DAY].span), dtype=np.uint8)
    start = plan.layout.axes[Calendar.DAY].span.start
    for day, number in plan.work.index.day_counts.items():
        counts[day - start] = min(number, 255)

    def tell(session: icechunk.Session) -> None:
        root = zarr.open_group(session.store, mode="r+")
        root["day/observed"][:] = counts
        root.attrs["alpage"] = {
            **root.attrs["alpage"],
            **plan.identity,
            "scenes": scenes_digest,
            "quarantined": plan.left_out,
            "damaged": {
                scene: where for scene, where in plan.damaged.items() if scene in plan.quarantined
            },
        }

    run.report.seconds = time.monotonic() - run._began
    store.commit(
        run.branch,
        f"{plan.identity['product']}: {run.report.n_blocks} blocks",
        tell,
        seal={"published": True, "report": run.report.to_json()},
    )
    run.report.snapshot = store.publish(run.branch, expected=str(plan.base))
    return run.report.snapshot
