"""Prometheus metrics: their names, and where their values are when somebody asks.

Nothing is counted for them alone. A run's are its report and its queue; a worker's are the
tallies of its process, which Dask serves at /metrics with its own. docs/operations.md tells
them one by one.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from alpage.engine import tally

if TYPE_CHECKING:
    from alpage.engine.run import Run

PHASES = ("read", "compute", "write")


@dataclass(frozen=True)
class Family:
    """One metric. All have the labels `cube` and `product`, and those named here."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Return the metric without samples."""
        made = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return made(self.name, self.help, labels=("cube", "product", *self.labels))


QUEUE = ("alpage_run_blocks_remaining", "alpage_run_blocks_in_flight")
"""What a run has no more of when it has ended."""
RUN = (
    Family("alpage_run_start_time_seconds", "gauge", "When the run began, since the epoch."),
    Family(
        "alpage_run_last_block_time_seconds",
        "gauge",
        "When the last block was done, or the run began, since the epoch.",
    ),
    Family("alpage_run_blocks_planned", "gauge", "Blocks to do at most.", ("stage",)),
    Family(QUEUE[0], "gauge", "Blocks not done yet, at most.", ("stage",)),
    Family(QUEUE[1], "gauge", "Blocks at the cluster.", ("stage",)),
    Family("alpage_run_blocks_done_total", "counter", "Blocks done.", ("stage",)),
    Family(
        "alpage_run_blocks_failed_total",
        "counter",
        "Times that a block failed.",
        ("stage", "reason"),
    ),
    Family("alpage_run_blocks_retried_total", "counter", "Blocks tried again."),
    Family(
        "alpage_run_block_seconds_total", "counter", "Workers' time for blocks done.", ("phase",)
    ),
    Family("alpage_run_read_bytes_total", "counter", "Imagery read for blocks done."),
    Family(
        "alpage_run_requests_total", "counter", "Requests for imagery of blocks done.", ("status",)
    ),
    Family("alpage_run_scenes", "gauge", "Scenes in use."),
    Family("alpage_run_quarantined_scenes", "gauge", "Scenes left out, since they are bad."),
    Family("alpage_run_cost_euros_total", "counter", "Cost of the blocks done."),
    Family(
        "alpage_run_limit_used_ratio", "gauge", "Used of a limit that the study sets.", ("limit",)
    ),
    Family(
        "alpage_run_worker_memory_planned_bytes", "gauge", "Most memory that a worker will need."
    ),
)
WORKER = (
    Family("alpage_worker_blocks_done_total", "counter", "Blocks done.", ("stage",)),
    Family("alpage_worker_blocks_failed_total", "counter", "Blocks failed.", ("stage", "reason")),
    Family("alpage_worker_block_seconds_total", "counter", "Time for blocks.", ("stage", "phase")),
    Family("alpage_worker_read_bytes_total", "counter", "Imagery read.", ("stage",)),
    Family("alpage_worker_requests_total", "counter", "Requests for imagery.", ("stage", "status")),
    Family("alpage_worker_memory_planned_bytes", "gauge", "Most memory that the plan expects."),
    Family("alpage_worker_memory_limit_bytes", "gauge", "Memory that the worker may have."),
    Family("alpage_worker_memory_resident_bytes", "gauge", "Memory that the worker has."),
    Family("alpage_worker_memory_peak_bytes", "gauge", "Most memory that the worker ever had."),
)

Sample = tuple[str, tuple[str, ...], float]
"""Name, values of the labels, value."""


class Samples(Collector):
    """Serves the families of a table with the samples that a function gives at the moment."""

    def __init__(
        self, families: tuple[Family, ...], samples: Callable[[], Iterable[Sample]]
    ) -> None:
        self._families = families
        self._samples = samples

    def describe(self) -> Iterator[Metric]:
        """Give the families without samples: their names alone are looked at."""
        return (family.empty() for family in self._families)

    def collect(self) -> Iterator[Metric]:
        """Give the families."""
        found = {family.name: family.empty() for family in self._families}
        for name, labels, value in self._samples():
            found[name].add_metric(labels, value)
        return iter(found.values())


def run_samples(run: "Run") -> list[Sample]:
    """Return the samples of a run, which goes on meanwhile in another thread."""
    about, report, plan = run.running, run.report, run.plan
    samples: list[Sample] = []

    def add(name: str, value: float, *labels: str) -> None:
        samples.append((f"alpage_run_{name}", (about.cube, about.product, *labels), value))

    add("start_time_seconds", run.queue.began)
    add("last_block_time_seconds", run.queue.last_block)
    for step, planned in run.queue.planned.items():
        done = report.blocks.get(step, 0)
        add("blocks_planned", planned, step)
        add("blocks_done_total", done, step)
        add("blocks_remaining", run.queue.remaining(step, done), step)
        add("blocks_in_flight", run.queue.in_flight(step), step)
        for reason in ("scene", "storage", "worker", "product"):
            failed = report.failures.get(step, {}).get(reason, 0)
            add("blocks_failed_total", failed, step, reason)
    add("blocks_retried_total", report.retries)
    for phase in PHASES:
        add("block_seconds_total", getattr(report, f"{phase}_seconds"), phase)
    add("read_bytes_total", report.bytes_read)
    for status, number in {"ok": report.requests, **report.requests_failed}.items():
        add("requests_total", number, status)
    add("scenes", len(plan.scenes) - len(plan.quarantined))
    add("quarantined_scenes", len(plan.left_out))
    add("cost_euros_total", run.budget.cost_eur)
    for limit, value, most, _ in run.budget.spent():
        add("limit_used_ratio", value / most if most else 1.0, limit)
    add("worker_memory_planned_bytes", about.planned_bytes)
    return samples


@cache
def register_worker(memory_limit: int | None) -> None:
    """Let this worker's process serve its tallies; once for all its runs."""
    REGISTRY.register(Samples(WORKER, lambda: _worker_samples(memory_limit)))


def _worker_samples(memory_limit: int | None) -> list[Sample]:
    samples: list[Sample] = []
    with tally.lock:
        for stage, found in tally.tallies.items():
            samples += _stage_samples(stage, found)
    planned: dict[tuple[str, str], int] = {}
    for run in tuple(tally.running.values()):
        key = run.cube, run.product
        planned[key] = max(planned.get(key, 0), run.planned_bytes)
    memory = _memory_bytes() | ({"limit": memory_limit} if memory_limit else {})
    for key, planned_bytes in planned.items():
        for name, value in {"planned": planned_bytes, **memory}.items():
            samples.append((f"alpage_worker_memory_{name}_bytes", key, value))
    return samples


def _stage_samples(stage: tally.Stage, found: tally.Tally) -> Iterator[Sample]:
    labels = stage.cube, stage.product, stage.step
    yield "alpage_worker_blocks_done_total", labels, found.done
    yield "alpage_worker_read_bytes_total", labels, found.read_bytes
    for reason, failed in found.failed.items():
        yield "alpage_worker_blocks_failed_total", (*labels, reason), failed
    for phase, seconds in found.seconds.items():
        yield "alpage_worker_block_seconds_total", (*labels, phase), seconds
    for status, number in found.requests.items():
        yield "alpage_worker_requests_total", (*labels, status), number


def _memory_bytes() -> dict[str, int]:
    """What this process holds and the most that it ever held, where the system tells it (Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return {}
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    return {"resident": int(found["VmRSS"]) * 1024, "peak": int(found["VmHWM"]) * 1024}
