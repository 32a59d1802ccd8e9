"""Blocks of one tile that one task does in turn: the last reads what the others have in memory.

Yearly layers need the daily ones just made. Read back, they are decoded once more, and on object
storage fetched once more.
"""

from collections.abc import Callable, Sequence
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


Read = Callable[[NDArray[Any], NDArray[np.int64], Slots], None]
"""Writes days, by their slots, over places along the first axis of an array."""


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
        room = self._room(path, values.shape[1:], values.dtype)
        for slot, one in zip(slots, values, strict=True):
            at = int(np.searchsorted(self._slots, slot))
            if at < len(self._slots) and self._slots[at] == slot:
                room[at] = one
                self._is_kept[path][at] = True

    def complete(
        self, path: str, shape_yx: tuple[int, int], dtype: np.dtype[Any], read: Read
    ) -> NDArray[Any]:
        """Return a layer (days, y, x), once days that no block of the chain has put are read."""
        layer, is_kept = self._room(path, shape_yx, dtype), self._is_kept[path]
        if not is_kept.all():
            missing = np.flatnonzero(~is_kept)
            read(layer, missing, self._slots[missing])
            is_kept[missing] = True
        return layer

    def _room(self, path: str, shape_yx: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if path not in self._layers:
            self._layers[path] = np.empty((len(self._slots), *shape_yx), dtype=dtype)
            self._is_kept[path] = np.zeros(len(self._slots), dtype=bool)
        return self._layers[path]
