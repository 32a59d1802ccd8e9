"""How far a run is, for others to see: blocks planned, at the cluster, and still to do."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alpage.engine.flight import Flight


class Queue:
    """A run's blocks that are not done yet, by step. Others may read while the run goes on."""

    def __init__(self, planned: Mapping[str, int]) -> None:
        self.planned = dict(planned)
        """Blocks to do at most."""
        self.began = self.last_block = time.time()
        self._flight: Flight | None = None
        self._finished: frozenset[str] = frozenset()

    def begin(self, step: str, flight: "Flight") -> None:
        """Go on to a step, whose blocks fly in `flight`; steps before it may come again."""
        self._flight = flight
        self._finished -= {step}

    def landed(self) -> None:
        """Note that a block is done."""
        self.last_block = time.time()

    def end(self, step: str) -> None:
        """Note that nothing of a step is left to do."""
        self._flight = None
        self._finished |= {step}

    def in_flight(self, step: str) -> int:
        """Return how many blocks of a step are at the cluster."""
        now = self._flight
        return 0 if now is None else now.blocks(step)

    def remaining(self, step: str, done: int) -> int:
        """Return how many blocks of a step are not done yet, at most."""
        if step in self._finished:
            return 0
        # Blocks that are done once more, without a scene, were not planned.
        return max(self.planned[step] - done, self.in_flight(step))
