"""What the blocks of this process cost, added up for whoever asks: once a block, never a pixel."""

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import icechunk

from alpage.engine.storage import ReadCounters
from alpage.errors import SceneError, StorageError

Reason = Literal["scene", "storage", "worker", "product"]


def reason_of(failure: BaseException) -> Reason:
    """Return where to look for the fault of a block that failed.

    >>> reason_of(SceneError("a", "truncated")), reason_of(ZeroDivisionError())
    ('scene', 'product')
    """
    if isinstance(failure, SceneError):
        return "scene"
    if isinstance(failure, MemoryError):
        return "worker"
    if isinstance(failure, StorageError | icechunk.IcechunkError | OSError):
        return "storage"
    return "product"


@dataclass(frozen=True)
class Running:
    """The run that a worker works for, as its logs and metrics name it."""

    run: str
    cube: str
    product: str
    planned_bytes: int
    """Most memory that its plan gives a worker."""


@dataclass(frozen=True)
class Stage:
    """One step of a product on a cube."""

    cube: str
    product: str
    step: str


@dataclass
class Tally:
    """What all blocks of one stage cost in this process, those that failed as well."""

    done: int = 0
    failed: Counter[Reason] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    read_bytes: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    """By status: `ok`, or what failed."""


running: dict[str, Running] = {}
"""The runs that this process works for, by the name that their tasks carry."""
tallies: dict[Stage, Tally] = defaultdict(Tally)
lock = threading.Lock()
"""Held while a block is added, and while the tallies are read."""


def count(
    about: Running,
    step: str,
    seconds: Mapping[str, float],
    counters: ReadCounters,
    failure: Exception | None,
) -> None:
    """Add one block of a run."""
    with lock:
        tally = tallies[Stage(about.cube, about.product, step)]
        if failure is None:
            tally.done += 1
        else:
            tally.failed[reason_of(failure)] += 1
        for phase, more in seconds.items():
            tally.seconds[phase] += more
        tally.read_bytes += counters.bytes
        tally.requests["ok"] += counters.requests
        tally.requests += counters.failures
