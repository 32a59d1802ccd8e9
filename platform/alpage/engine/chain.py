"""Blocks of one tile that one task does in turn: the last reads what the others have in memory.

Yearly layers need the daily ones just made. Read back, they are decoded once more, and on object
storage fetched once more.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.product import Derive, Gather, Observe, Product, Stage, Summarise
from alpage.timeaxis import Calendar, Slots


def follower(product: Product, stage: Stage) -> Derive | None:
    """Return the stage that needs only what another makes of days, tile by tile; None without."""
    match stage:
        case Gather() | Summarise():
            return None
        case Derive() if stage.segment is not Calendar.DAY:
            return None
        case Observe() | Derive():
            made = {layer.path for layer in stage.layers if layer.calendar is Calendar.DAY}
    for other in product.stages:
        if (
            isinstance(other, Derive)
            and other.segment is not Calendar.DAY
            and not other.tables
            and made.issuperset(other.reads)
        ):
            return other
    return None


class Kept:
    """Daily layers of one tile while a chain is at work: days come from its blocks, in any order.

    Holds the days that its last block reads, of the layers that this reads.
    """

    def __init__(self, paths: Sequence[str], slots: Sequence[int]) -> None:
        self.paths = frozenset(paths)
        self._slots = np.array(slots, dtype=np.int64)
        self._layers: dict[str, NDArray[Any]] = {}
        self._is_kept: dict[str, NDArray[np.bool_]] = {}

    def put(self, path: str, slots: Slots, values: NDArray[Any]) -> None:
        """Keep what is needed of the values (n, y, x) of some days."""
        if path not in self.paths:
            return
        if path not in self._layers:
            shape = (len(self._slots), *values.shape[1:])
            self._layers[path] = np.empty(shape, dtype=values.dtype)
            self._is_kept[path] = np.zeros(len(self._slots), dtype=bool)
        needed = np.isin(slots, self._slots)
        at = np.searchsorted(self._slots, slots[needed])
        self._layers[path][at] = values[needed]
        self._is_kept[path][at] = True

    def missing(self, path: str) -> Slots:
        """Return the days of a layer that no block of the chain has put."""
        kept = self._is_kept.get(path)
        return self._slots if kept is None else self._slots[~kept]

    def take(self, path: str) -> NDArray[Any]:
        """Return a layer (days, y, x), of which none may be missing."""
        assert not len(self.missing(path))
        return self._layers[path]
