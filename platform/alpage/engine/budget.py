"""What blocks cost, and what they use of the limits that a study sets: planned, and done."""

import math

from alpage.engine.report import RunReport
from alpage.errors import LimitReached
from alpage.settings import Settings
from alpage.study import Limits

GIB = 2**30
FORGETTING = 0.9
"""What is kept, with each block that is done, of what the dearest one before it used."""


Used = list[tuple[str, float, float, str]]
"""Name of a limit, how much of it is used, the limit, its unit."""


def cost_of(
    prices: Settings, *, blocks: int, requests: float, read_bytes: float, worker_seconds: float
) -> float:
    """Return what blocks cost in euros, planned or done."""
    return (
        requests / 1000 * prices.thousand_gets_eur
        + read_bytes / GIB * prices.egress_gib_eur
        + blocks / 1000 * prices.thousand_puts_eur
        + worker_seconds / 3600 * prices.cpu_hour_eur
    )


def beside(
    limits: Limits, *, blocks: int, read_bytes: float, cost_eur: float, worker_seconds: float
) -> Used:
    """Return each limit that a study sets, with what blocks use of it, planned or done."""
    used = (
        ("blocks", float(blocks), limits.blocks, "blocks"),
        ("read_gib", read_bytes / GIB, limits.read_gib, "GiB"),
        ("cost_eur", cost_eur, limits.cost_eur, "EUR"),
        ("hours", worker_seconds / 3600, limits.hours, "core hours"),
    )
    return [(name, value, limit, unit) for name, value, limit, unit in used if limit is not None]


class Budget:
    """A run's limits beside its report, which the run keeps up to date."""

    def __init__(
        self, limits: Limits, prices: Settings, report: RunReport, planned_blocks: int
    ) -> None:
        self._limits = limits
        self._prices = prices
        self._report = report
        self.planned_blocks = planned_blocks
        self._before = [0.0] * len(self.spent())
        self._dearest = list(self._before)

    @property
    def cost_eur(self) -> float:
        """What the blocks done so far cost."""
        return cost_of(
            self._prices,
            blocks=self._report.n_blocks,
            requests=self._report.requests,
            read_bytes=self._report.bytes_read,
            worker_seconds=self._report.worker_seconds,
        )

    def spent(self) -> Used:
        """Return what is used of each limit that the study sets."""
        return beside(
            self._limits,
            blocks=self._report.n_blocks,
            read_bytes=self._report.bytes_read,
            cost_eur=self.cost_eur,
            worker_seconds=self._report.worker_seconds,
        )

    def learn(self) -> None:
        """Note what a block has used of each limit, once it is in the report."""
        now = [value for _, value, _, _ in self.spent()]
        used = [value - before for value, before in zip(now, self._before, strict=True)]
        # First blocks compile and open what later ones find ready: they are forgotten by and by.
        self._dearest = [
            max(one, FORGETTING * dearest) for one, dearest in zip(used, self._dearest, strict=True)
        ]
        self._before = now

    def affordable_blocks(self) -> float:
        """Return how many more blocks there is room for, if all cost what dear ones did of late."""
        room = [
            (limit - value) / dearest if dearest else math.inf
            for (_, value, limit, _), dearest in zip(self.spent(), self._dearest, strict=True)
        ]
        return max(min(room, default=math.inf), 0.0)

    def passed(self) -> LimitReached | None:
        """Return the limit that is passed, if one is."""
        done = self._report.n_blocks
        for name, value, limit, unit in self.spent():
            if value > limit:
                return LimitReached(
                    f"limits.{name}: the run has used {value:.6g} {unit}, the limit is {limit:g}; "
                    f"{done} blocks are done and kept, up to {self.planned_blocks - done} are "
                    "left. Raise the limit and run again to go on"
                )
        return None
