"""What a run has used of the limits that its study sets."""

import math

from alpage.engine.report import RunReport
from alpage.errors import LimitReached
from alpage.settings import Settings
from alpage.study import Limits

GIB = 2**30


class Budget:
    """A run's limits beside its report, which the run keeps up to date."""

    def __init__(
        self, limits: Limits, prices: Settings, report: RunReport, planned_blocks: int
    ) -> None:
        self._limits = limits
        self._prices = prices
        self._report = report
        self._planned_blocks = planned_blocks

    @property
    def cost_eur(self) -> float:
        """What the blocks done so far cost."""
        report, prices = self._report, self._prices
        return (
            report.requests / 1000 * prices.thousand_gets_eur
            + report.bytes_read / GIB * prices.egress_gib_eur
            + report.n_blocks / 1000 * prices.thousand_puts_eur
            + self._core_hours * prices.cpu_hour_eur
        )

    @property
    def _core_hours(self) -> float:
        report = self._report
        return (report.read_seconds + report.compute_seconds + report.write_seconds) / 3600

    def spent(self) -> list[tuple[str, float, float, str]]:
        """Return what is used of each limit that the study sets: name, value, limit, unit."""
        limits, report = self._limits, self._report
        spent = (
            ("blocks", float(report.n_blocks), limits.blocks, "blocks"),
            ("read_gib", report.bytes_read / GIB, limits.read_gib, "GiB"),
            ("cost_eur", self.cost_eur, limits.cost_eur, "EUR"),
            ("hours", self._core_hours, limits.hours, "core hours"),
        )
        return [
            (name, value, limit, unit) for name, value, limit, unit in spent if limit is not None
        ]

    def affordable_blocks(self) -> float:
        """Return how many more blocks there is room for, if they cost what blocks did so far."""
        done = self._report.n_blocks
        if not done:
            return math.inf
        shares = [
            (limit / value - 1) * done if value else math.inf for _, value, limit, _ in self.spent()
        ]
        return max(min(shares, default=math.inf), 0.0)

    def passed(self) -> LimitReached | None:
        """Return the limit that is passed, if one is."""
        done = self._report.n_blocks
        for name, value, limit, unit in self.spent():
            if value > limit:
                return LimitReached(
                    f"limits.{name}: the run has used {value:.6g} {unit}, the limit is {limit:g}; "
                    f"{done} blocks are done and kept, up to {self._planned_blocks - done} are "
                    "left. Raise the limit and run again to go on"
                )
        return None
