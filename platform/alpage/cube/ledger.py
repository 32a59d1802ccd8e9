"""The record of a cube: for each step and block, what it was computed from and at what cost.

Planning is the difference between wanted and recorded fingerprints. The
fingerprint of an observing block digests its scenes; that of a derived block
digests the fingerprints it reads. A block that nothing touches has the
fingerprint (0, 0), which is also what a block has that was never computed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from alpage.cube.layout import COSTS, STATISTICS, Layout, ledger_tiles, step_layers

Fingerprint = tuple[int, int]
NOTHING: Fingerprint = (0, 0)
VOID: Fingerprint = (0, 1)
"""Of a block that holds something which nothing it may read now accounts for."""


@dataclass(frozen=True, order=True)
class BlockId:
    """One block of one step: tile x block of time. Steps without tiles use tile (0, 0)."""

    step: str
    block: int
    tile: tuple[int, int]

    @property
    def place(self) -> str:
        """Where and when the block is: row, column and number in time."""
        return f"{self.tile[0]},{self.tile[1]},{self.block}"

    def __str__(self) -> str:
        return f"{self.step}, tile {self.tile[0]},{self.tile[1]}, block {self.block}"


@dataclass(frozen=True)
class Record:
    """What the ledger keeps of one finished block."""

    id: BlockId
    fingerprint: Fingerprint
    cost: Mapping[str, float] = field(default_factory=dict)
    statistics: NDArray[np.int64] | None = None
    """(layers of the step, STATISTICS)."""


def digest(*parts: Any) -> Fingerprint:
    """Return a 128-bit fingerprint of JSON-able parts, none of the two that mean something else.

    >>> digest("a", [1, 2]) == digest("a", [1, 2]) != digest("a", [2, 1])
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    value = hashlib.blake2b(text.encode(), digest_size=16).digest()
    high, low = (int.from_bytes(value[i : i + 8], "big") for i in (0, 8))
    return (high, low) if high else (1, low)


class Ledger:
    """A cube's record, read whole at the start of a run and kept in step with what is committed."""

    def __init__(self, layout: Layout, fingerprints: dict[str, NDArray[np.uint64]]) -> None:
        self.layout = layout
        self.fingerprints = fingerprints

    @classmethod
    def empty(cls, layout: Layout) -> "Ledger":
        """Return the record of a cube in which nothing was computed."""
        return cls(
            layout,
            {
                step: np.zeros(
                    (layout.axes[calendar].n_blocks, *ledger_tiles(layout, step), 2), "uint64"
                )
                for step, calendar in layout.steps.items()
            },
        )

    def recorded(self, block: BlockId) -> Fingerprint:
        """Return the fingerprint a block was computed with; NOTHING where it never was."""
        axis = self.layout.axes[self.layout.steps[block.step]]
        if block.block not in axis.blocks:
            return NOTHING
        high, low = self.fingerprints[block.step][(block.block - axis.first_block, *block.tile)]
        return int(high), int(low)

    def write(self, root: zarr.Group, records: Iterable[Record]) -> None:
        """Write records into a session, each touched chunk once."""
        for step, of_step in _by_step(records).items():
            axis = self.layout.axes[self.layout.steps[step]]
            where = np.array([(r.id.block - axis.first_block, *r.id.tile) for r in of_step])
            fingerprints = np.array([r.fingerprint for r in of_step], dtype="uint64")
            self.fingerprints[step][tuple(where.T)] = fingerprints
            group = root[f"ledger/{step}"]
            _scatter(group["fingerprint"], where, fingerprints)
            costs = [[r.cost.get(name, 0.0) for name in COSTS] for r in of_step]
            _scatter(group["cost"], where, np.array(costs))
            if "statistics" in group:
                empty = np.zeros(group["statistics"].shape[-1], "int64")
                found = [empty if r.statistics is None else r.statistics.ravel() for r in of_step]
                _scatter(group["statistics"], where, np.array(found))


def voided(fingerprints: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return fingerprints (..., 2) of which those of blocks that hold something are void.

    >>> voided(np.array([[0, 0], [7, 9]], dtype="uint64")).tolist()
    [[0, 0], [0, 1]]
    """
    holds = (fingerprints != 0).any(axis=-1, keepdims=True)
    return np.where(holds, np.array(VOID, dtype="uint64"), np.uint64(0))


def _scatter(array: zarr.Array, where: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Set rows of an array (block, row, column, n), reading and writing each chunk once."""
    chunk_of = where // np.array(array.chunks[:3])
    chunks, member = np.unique(chunk_of, axis=0, return_inverse=True)
    for number, chunk in enumerate(chunks):
        mine = member.ravel() == number
        first = chunk * np.array(array.chunks[:3])
        region = tuple(
            slice(int(lo), int(lo) + size) for lo, size in zip(first, array.chunks[:3], strict=True)
        )
        part = np.asarray(array[region])
        part[tuple((where[mine] - first).T)] = values[mine]
        array[region] = part


def _by_step(records: Iterable[Record]) -> dict[str, list[Record]]:
    steps: dict[str, list[Record]] = {}
    for record in records:
        steps.setdefault(record.id.step, []).append(record)
    return steps


def read_costs(root: zarr.Group, layout: Layout) -> dict[str, dict[str, float]]:
    """Return, for each step, the number of blocks done and the sum of each cost."""
    totals = {}
    for step in layout.steps:
        group = root[f"ledger/{step}"]
        cost = group["cost"][:].reshape(-1, len(COSTS))
        done = (group["fingerprint"][:].reshape(-1, 2) != 0).any(axis=1)
        totals[step] = {
            "blocks": float(done.sum()),
            **dict(zip(COSTS, cost[done].sum(axis=0).tolist(), strict=True)),
        }
    return totals


def read_statistics(root: zarr.Group, layout: Layout, step: str) -> dict[str, NDArray[np.int64]]:
    """Return, for each layer of a step, its statistics (blocks, rows, columns, STATISTICS)."""
    layers = step_layers(layout.product, step)
    array = root[f"ledger/{step}/statistics"][:]
    split = array.reshape(*array.shape[:-1], len(layers), len(STATISTICS))
    return {layer.path: split[..., number, :] for number, layer in enumerate(layers)}
