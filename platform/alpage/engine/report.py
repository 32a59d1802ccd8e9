"""What a run tells: how far it is, and what it did."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunReport:
    """What a run did."""

    cube: str
    started: str = ""
    seconds: float = 0.0
    blocks: dict[str, int] = field(default_factory=dict)
    """Blocks done, by step."""
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    """Times that a block failed, by step and by where the fault lies: scene, storage, worker or
    product."""
    retries: int = 0
    """Blocks that were tried again."""
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    write_seconds: float = 0.0
    bytes_read: float = 0.0
    requests: float = 0.0
    requests_again: float = 0.0
    """Requests for imagery that failed and were made again."""
    requests_failed: dict[str, int] = field(default_factory=dict)
    """Requests for imagery that failed, by status."""
    cost_eur: float = 0.0
    scenes: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)
    gate: list[dict[str, Any]] = field(default_factory=list)
    snapshot: str | None = None
    """What readers see now; None after a part, which shows them nothing."""
    part: str | None = None
    """The share of the tiles that was worked on, such as 2/4; None for all."""

    @property
    def n_blocks(self) -> int:
        """Blocks done in all steps."""
        return sum(self.blocks.values())

    @property
    def worker_seconds(self) -> float:
        """Time that workers spent on the blocks done."""
        return self.read_seconds + self.compute_seconds + self.write_seconds

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**vars(self), "blocks_done": self.n_blocks}


@dataclass
class Pace:
    """What a run and whoever sizes its cluster tell each other, from two threads."""

    tasks: int = 0
    """How many workers the present step keeps busy: a chain of blocks is one task."""
    waiting: str = ""
    """Which workers do not run, and for what they wait; empty where all run."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, in square kilometres times dates."""

    step: str
    done_km2_dates: float
    total_km2_dates: float
    seconds: float
    blocks_left: int = 0
    """Of this step."""
    threads: int = 0
    """Those that work at it."""
    waiting: str = ""
    """Which workers do not run, and for what they wait."""

    @property
    def seconds_left(self) -> float | None:
        """An estimate; None before anything is done."""
        if self.done_km2_dates <= 0:
            return None
        left = max(self.total_km2_dates - self.done_km2_dates, 0.0)
        return self.seconds * left / self.done_km2_dates

    def __str__(self) -> str:
        told = f"{self.step}: {self.done_km2_dates:.1f} of {self.total_km2_dates:.1f} km² × dates"
        if (left := self.seconds_left) is not None:
            told += f", about {left:.0f} s left"
        told += f"; {self.blocks_left} blocks of this step at {self.threads} threads"
        return f"{told}; {self.waiting}" if self.waiting else told
