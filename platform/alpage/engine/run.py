"""Do the blocks of a plan on a cluster: bounded submission, retries, batched commits, budget.

The coordinator holds the blocks in flight and the ledger's fingerprints, never
pixels. Every commit joins data, tables and record; what is not committed when
the coordinator dies is done again by the next run, from the last commit.
"""

import contextlib
import datetime as dt
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import icechunk
import numpy as np
import shapely
import zarr
from distributed import Client, KilledWorker

from alpage.cube import layout as cube_layout
from alpage.cube.layout import COSTS
from alpage.cube.ledger import NOTHING, BlockId
from alpage.cube.store import CubeStore
from alpage.engine.flight import Flight, Told
from alpage.engine.plan import Plan, inspect_needed
from alpage.engine.relief import area_on
from alpage.engine.report import Pace, Progress, RunReport
from alpage.engine.shared import pack
from alpage.engine.task import Done, Task
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
from alpage.settings import Settings
from alpage.timeaxis import Calendar

GIB = 2**30
OUT_OF_MEMORY = "Most often they passed their memory limit: raise cluster.memory_gib"


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
        self._threads = 0
        self.report = RunReport(store.url, started=dt.datetime.now(dt.UTC).isoformat())
        self._began = time.monotonic()
        area = area_on(plan.study, plan.layout.grid)
        self._told = Told(pack(plan.study, plan.shared, area))
        self._zones_wkb = [shapely.to_wkb(zone) for zone in plan.work.zones]
        self._fork: icechunk.ForkSession | None = None
        self._batch: list[Done] = []
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
        self._prepare()
        with self._workers_told():
            while True:
                try:
                    for step in self.plan.work.steps:
                        self._do_step(step)
                    break
                except _Replan:
                    inspect_needed(self.plan)
        self.report.quarantined = self.plan.left_out
        self.report.scenes = len(self.plan.scenes) - len(self.plan.quarantined)
        self.report.seconds = time.monotonic() - self._began
        return self.report

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

    def _prepare(self) -> None:
        plan = self.plan
        session = self.store.writable(self.branch)
        if plan.before is None:
            cube_layout.create(session, plan.layout, plan.identity)
        else:
            if any(plan.layout.axes[c] != axis for c, axis in plan.before.axes.items()):
                cube_layout.grow(session, plan.before, plan.layout, plan.identity)
            if plan.zones_changed:
                cube_layout.replace_zones(session, plan.layout, plan.identity)
        if session.has_uncommitted_changes:
            session.commit("Lay out the cube")
        self._fork = self.store.writable(self.branch).fork()

    def _do_step(self, step: str) -> None:
        todo = deque(self.plan.work.todo(step))
        flight = Flight(self.client)
        attempts: Counter[BlockId] = Counter()
        stop: AlpageError | _Replan | None = None
        is_stopping = False

        def fill() -> None:
            # A limit that comes near leaves room for less than keeps every thread busy.
            affordable = max(self._affordable(), flight.threads) - len(flight)
            room = int(max(min(flight.room, affordable, len(todo)), 0))
            blocks = [todo.popleft() for _ in range(room)]
            flight.submit([self._task(block, attempt=1) for block in blocks], self._fork)
            self.pace.blocks, self._threads = len(flight) + len(todo), flight.threads

        try:
            fill()
            while flight:
                again: list[Task] = []
                for task, done, failure in flight.landed():
                    if done is not None:
                        self._accept(done)
                        stop = stop or self._over_budget()
                        continue
                    assert failure is not None
                    attempts[task.id] += 1
                    is_tried_again, reason = self._judge(task, failure, attempts[task.id])
                    if is_tried_again:
                        again.append(task)
                    stop = stop or reason
                if stop is not None:
                    if not is_stopping:
                        flight.withdraw()
                        is_stopping = True
                    self.pace.blocks = len(flight)
                    continue
                self.report.retries += len(again)
                tasks = [self._task(task.id, attempt=task.attempt + 1) for task in again]
                flight.submit(tasks, self._fork)
                fill()
        finally:
            flight.close()
            self._commit(step)
        if isinstance(stop, LimitReached):
            # What was under way has landed since.
            stop = self._over_budget()
        if stop is not None:
            raise stop
        if isinstance(self.plan.work.stage(step), Gather):
            self._refresh_result(step)

    def _judge(
        self, task: Task, failure: BaseException, attempts: int
    ) -> tuple[bool, AlpageError | _Replan | None]:
        """Decide on a failed block: try again, go on without a scene, or stop and why."""
        if isinstance(failure, SceneError):
            if self.plan.study.on_bad_scene == "stop":
                told = f"scene {failure.scene_id} is bad: {failure.reason}"
                return False, ArchiveError(f"on_bad_scene is stop, and {told}")
            self.plan.quarantined[failure.scene_id] = failure.reason
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
        reason = str(failure).strip().split("\n", 1)[0]
        if is_deadly:
            reason = f"the workers that ran it died. {self.pace.waiting or OUT_OF_MEMORY}"
        error = (StorageError if stored else BlockFailed)(
            f"{task.id} failed {attempts} times, the last time with "
            f"{type(failure).__name__}: {reason}. What is done is kept: run again to resume"
        )
        error.__cause__ = failure
        return False, error

    def _task(self, block: BlockId, attempt: int) -> Task:
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
        if not work.is_total(block.step):
            zones = tuple((n, self._zones_wkb[n]) for n in work.zones_of(block.tile))
        return Task(
            shared=self._told.name,
            id=block,
            fingerprint=work.wanted(block),
            attempt=attempt,
            days=days,
            observed=observed,
            zones=zones,
            tiles=tiles,
        )

    def _accept(self, done: Done) -> None:
        self._batch.append(done)
        cost = done.record.cost
        report = self.report
        report.blocks[done.record.id.step] = report.blocks.get(done.record.id.step, 0) + 1
        for name in COSTS:
            if name != "attempts":
                setattr(report, name, getattr(report, name) + cost[name])
        self._done_units += self._units(done.record.id)
        full = len(self._batch) >= self.settings.commit_blocks
        late = time.monotonic() - self._last_commit > self.settings.commit_seconds
        if full or late:
            self._commit(done.record.id.step)
        self.on_progress(
            Progress(
                done.record.id.step,
                self._done_units,
                max(self._total_units, self._done_units),
                time.monotonic() - self._began,
                self.pace.blocks,
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
        session = self.store.writable(self.branch)
        session.merge(*(done.fork for done in self._batch))
        root = zarr.open_group(session.store, mode="r+")
        self.plan.work.ledger.write(root, [done.record for done in self._batch])
        session.commit(f"{step}: {len(self._batch)} blocks")
        self._batch.clear()
        self._last_commit = time.monotonic()
        self._fork = self.store.writable(self.branch).fork()

    def _refresh_result(self, step: str) -> None:
        root = self.store.read(branch=self.branch)
        self.plan.work.results[step] = np.asarray(root[f"ledger/{step}/result"][:])

    def _affordable(self) -> float:
        """How many more blocks the limits leave room for, if they cost what blocks did so far."""
        done = self.report.n_blocks
        if not done:
            return math.inf
        shares = [
            (limit / value - 1) * done if value else math.inf
            for _, value, limit, _ in self._spent()
        ]
        return max(min(shares, default=math.inf), 0.0)

    def _spent(self) -> list[tuple[str, float, float, str]]:
        """What the run has used of each limit that the study sets: name, value, limit, unit."""
        limits, report = self.plan.study.limits, self.report
        core_hours = (report.read_seconds + report.compute_seconds + report.write_seconds) / 3600
        prices = self.settings
        money = (
            report.requests / 1000 * prices.thousand_gets_eur
            + report.bytes_read / GIB * prices.egress_gib_eur
            + report.n_blocks / 1000 * prices.thousand_puts_eur
            + core_hours * prices.cpu_hour_eur
        )
        spent = (
            ("blocks", float(report.n_blocks), limits.blocks, "blocks"),
            ("read_gib", report.bytes_read / GIB, limits.read_gib, "GiB"),
            ("cost_eur", money, limits.cost_eur, "EUR"),
            ("hours", core_hours, limits.hours, "core hours"),
        )
        return [
            (name, value, limit, unit) for name, value, limit, unit in spent if limit is not None
        ]

    def _over_budget(self) -> LimitReached | None:
        report = self.report
        for name, value, limit, unit in self._spent():
            if value > limit:
                return LimitReached(
                    f"limits.{name}: the run has used {value:.6g} {unit}, the limit is {limit:g}; "
                    f"{report.n_blocks} blocks are done and kept, up to "
                    f"{self.plan.bill.n_blocks - report.n_blocks} are left. Raise the limit and "
                    "run again to go on"
                )
        return None

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


def finish(run: Run, scenes_digest: str, gate: Callable[[zarr.Group], list[dict[str, Any]]]) -> str:
    """Check the branch, seal it with the run's report and make it what readers see.

    Returns the published snapshot. Raises GateFailed, with main as it was.
    """
    plan, store = run.plan, run.store
    run.report.gate = gate(store.read(branch=run.branch))
    session = store.writable(run.branch)
    root = zarr.open_group(session.store, mode="r+")
    counts = np.zeros(len(plan.layout.axes[Calendar.DAY].span), dtype=np.uint8)
    start = plan.layout.axes[Calendar.DAY].span.start
    for day, number in plan.work.index.day_counts.items():
        counts[day - start] = min(number, 255)
    root["day/observed"][:] = counts
    root.attrs["alpage"] = {
        **root.attrs["alpage"],
        **plan.identity,
        "scenes": scenes_digest,
        "quarantined": plan.left_out,
    }
    run.report.seconds = time.monotonic() - run._began
    session.commit(
        f"{plan.identity['product']}: {run.report.n_blocks} blocks",
        metadata={"published": True, "report": run.report.to_json()},
        allow_empty=True,
    )
    run.report.snapshot = store.publish(run.branch, expected=str(plan.base))
    return run.report.snapshot
