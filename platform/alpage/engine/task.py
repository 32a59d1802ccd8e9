"""One block as a task: what a worker is told, and what it answers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn, cast

import icechunk
import numpy as np
import shapely
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.abc.store import Store

from alpage.cube.layout import Layout
from alpage.cube.ledger import BlockId, Fingerprint, Record
from alpage.engine.chain import Kept
from alpage.engine.imagery import Day
from alpage.engine.rasters import inside, read_elevation
from alpage.engine.shared import Shared
from alpage.engine.storage import ReadCounters
from alpage.errors import ProductError
from alpage.product import Context, Gather, Stage, Summarise, Zone
from alpage.science.zones import ZoneIndex, zone_index


@dataclass(frozen=True)
class Task:
    """One block to do. `days` are those with an acquisition over the tile, in the span it reads."""

    shared: str
    """Name of the run's constants, which the worker was told."""
    id: BlockId
    fingerprint: Fingerprint
    attempt: int
    days: tuple[Day, ...] = ()
    observed: tuple[int, ...] = ()
    """Day slots with an acquisition over the tile, for blocks that read daily layers."""
    zones: tuple[tuple[int, bytes], ...] = ()
    """Number and WKB, in the grid's CRS, of the zones that touch the tile."""
    tiles: tuple[tuple[int, int], ...] = ()
    """For blocks without a tile: the tiles whose tables add up."""


Chain = tuple[Task, ...]
"""Blocks of one tile that a worker does in turn, often one: the last may read of the others."""


@dataclass(frozen=True)
class Done:
    """A finished block: its record, and the writes that the coordinator commits."""

    record: Record
    fork: icechunk.ForkSession
    requests_failed: Mapping[str, int] = field(default_factory=dict)
    """Requests for imagery that failed before they did not, by status."""


@dataclass(frozen=True)
class Outcome:
    """What became of a chain: its first blocks done, and what the one after them failed with."""

    done: tuple[Done, ...]
    failure: BaseException | None = None


@dataclass(frozen=True)
class _NotAsked:
    """In place of the zones that a stage has not asked for."""

    stage: str

    def _refuse(self, *_: Any) -> NoReturn:
        raise ProductError(
            f"stage {self.stage}: its function looks at zones that its record does not tell of; "
            "give the stage by_zone=True, and look at the zones of what the function is given, "
            "not at those of the context"
        )

    def __getattr__(self, name: str) -> NoReturn:
        # Copies and pickles ask for names of this kind.
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    __iter__ = __len__ = __getitem__ = __contains__ = _refuse


class Clock:
    """Seconds spent in reading, computing and writing."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "compute": 0.0, "write": 0.0}
        self._last = time.perf_counter()

    def lap(self, kind: str) -> None:
        """Book the time since the last lap."""
        now = time.perf_counter()
        self.seconds[kind] += now - self._last
        self._last = now


@dataclass
class Job:
    """A task in the hands of a worker: its inputs opened, its costs counted."""

    task: Task
    shared: Shared
    store: Store
    """Where the block writes."""
    committed: Store
    """What earlier steps left, to be read."""
    kept: Kept | None = None
    """What the blocks of the task have in common, where they are several."""
    clock: Clock = field(default_factory=Clock)
    counters: ReadCounters = field(default_factory=ReadCounters)

    @cached_property
    def root(self) -> zarr.Group:
        """The cube's root group, for tables: opening it takes longer than writing a shard."""
        return zarr.open_group(self.store, mode="r+")

    @property
    def layout(self) -> Layout:
        """How the cube lies."""
        return self.shared.layout

    @property
    def tile(self) -> tuple[int, int]:
        """Row and column of the block's tile."""
        return self.task.id.tile

    @cached_property
    def box(self) -> GeoBox:
        """The tile's pixels, without a halo."""
        return self.layout.grid.tile_box(self.tile)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the tile."""
        rows, columns = self.box.shape.yx
        return rows, columns

    @cached_property
    def area(self) -> NDArray[np.bool_]:
        """Pixels of the tile within the study's area."""
        assert self.shared.area is not None
        return inside(self.shared.area, self.box)

    @cached_property
    def zones(self) -> ZoneIndex:
        """Pixels of each zone within the tile."""
        masks = {}
        for number, wkb in self.task.zones:
            zone = shapely.from_wkb(wkb)
            # Without zones the area is the only one.
            is_area = zone == self.shared.area
            masks[number] = self.area if is_area else inside(zone, self.box) & self.area
        return zone_index(masks, self.shape)

    def zones_for(self, stage: Stage) -> ZoneIndex:
        """Return the zones that a stage's function sees: its record depends on what it may see."""
        if self.layout.product.uses_zones(stage):
            return self.zones
        return cast(ZoneIndex, _NotAsked(stage.name))

    def context_for(self, stage: Stage) -> Context:
        """Return the context that a stage's function sees: zones where it is done for all of them.

        What a tile's layers are made of is recorded by the zones that touch it.
        """
        context = self.shared.context
        if isinstance(stage, Gather | Summarise) and self.layout.product.uses_zones(stage):
            return context
        return replace(context, zones=cast(tuple[Zone, ...], _NotAsked(stage.name)))

    def elevation(self, geobox: GeoBox) -> NDArray[np.float32] | None:
        """Return elevation in metres on a geobox, None where the study has none."""
        if self.shared.dem is None:
            return None
        return read_elevation(self.shared.dem, geobox, self.counters)
