"""What a run will read, compute, write and cost: known before any block runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr

from alpage.cube.layout import SECONDS, Layout, step_layers
from alpage.cube.ledger import BlockId, read_costs
from alpage.engine.budget import beside, cost_of
from alpage.engine.demand import demand_of
from alpage.engine.inspect import SceneSource
from alpage.engine.shared import Shared
from alpage.engine.storage import ReadCounters
from alpage.engine.work import Work
from alpage.errors import LimitReached
from alpage.settings import Settings
from alpage.study import Limits


@dataclass
class Bill:
    """Blocks, requests, bytes, seconds, memory and money of a run, at most."""

    blocks: dict[str, list[BlockId]] = field(default_factory=dict)
    skipped: int = 0
    scenes: int = 0
    requests: int = 0
    """Tiles of imagery and elevation that will be asked for, and what was for the plan."""
    read_bytes: int = 0
    read_px: int = 0
    useful_px: int = 0
    peak_bytes: int = 0
    cpu_seconds: float | None = None
    """From the ledger of earlier runs; None where there is none."""
    write_bytes: int = 0
    """Of the layers, uncompressed."""
    cost_eur: float = 0.0
    notes: list[str] = field(default_factory=list)
    """Sentences on what is no error, and not what one would expect either."""

    @property
    def n_blocks(self) -> int:
        """Blocks to do at most."""
        return sum(len(blocks) for blocks in self.blocks.values())

    @property
    def amplification(self) -> float:
        """Pixels decoded for each pixel needed; 1 where tiles and COG tiles coincide."""
        return self.read_px / self.useful_px if self.useful_px else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the bill as plain values."""
        return {
            "blocks": {step: len(blocks) for step, blocks in self.blocks.items()},
            "blocks_to_do": self.n_blocks,
            "blocks_to_skip": self.skipped,
            "scenes": self.scenes,
            "requests": self.requests,
            "read_bytes": self.read_bytes,
            "read_amplification": round(self.amplification, 3),
            "peak_memory_bytes": self.peak_bytes,
            "cpu_seconds": self.cpu_seconds,
            "write_bytes_uncompressed": self.write_bytes,
            "cost_eur": round(self.cost_eur, 4),
            "notes": self.notes,
        }

    def check(self, limits: Limits) -> None:
        """Raise LimitReached where the run would pass a limit of the study."""
        used = beside(
            limits,
            blocks=self.n_blocks,
            read_bytes=self.read_bytes,
            cost_eur=self.cost_eur,
            worker_seconds=self.cpu_seconds or 0.0,
        )
        for name, value, limit, unit in used:
            if value > limit:
                raise LimitReached(
                    f"limits.{name}: the run needs up to {value:.6g} {unit}, the limit is "
                    f"{limit:g}; nothing was started. Raise the limit, or ask for a smaller "
                    "area or period"
                )


def draw_bill(
    work: Work,
    sources: Mapping[str, SceneSource],
    shared: Shared,
    peak_bytes: int,
    found: zarr.Group | None,
    inspection: ReadCounters,
    prices: Settings,
) -> Bill:
    """Return the bill of all work that a plan expects."""
    blocks = work.expected()
    demand = demand_of(work, blocks, sources, shared)
    bill = Bill(
        blocks=blocks,
        scenes=len(demand.scenes),
        requests=inspection.requests + demand.requests,
        read_bytes=inspection.bytes + demand.read_bytes,
        read_px=demand.read_px,
        useful_px=demand.useful_px,
        peak_bytes=peak_bytes,
        write_bytes=sum(
            _write_bytes(work.layout, step) * len(of_step) for step, of_step in blocks.items()
        ),
    )
    bill.skipped = sum(1 for step in work.steps for _ in work.blocks(step)) - bill.n_blocks
    bill.cpu_seconds = _cpu_seconds(bill, work.layout, found)
    bill.cost_eur = cost_of(
        prices,
        blocks=bill.n_blocks,
        requests=bill.requests,
        read_bytes=bill.read_bytes,
        worker_seconds=bill.cpu_seconds or 0.0,
    )
    return bill


def _write_bytes(layout: Layout, step: str) -> int:
    area = layout.grid.tile_px**2
    return sum(
        area * layout.axes[layer.calendar].window * np.dtype(layer.dtype).itemsize
        for layer in step_layers(layout.product, step)
    )


def _cpu_seconds(bill: Bill, layout: Layout, found: zarr.Group | None) -> float | None:
    if found is None:
        return None
    costs = read_costs(found, layout)
    total = 0.0
    for step, blocks in bill.blocks.items():
        done = costs[step]["blocks"]
        if blocks and not done:
            return None
        if blocks:
            total += len(blocks) * sum(costs[step][kind] for kind in SECONDS) / done
    return total
