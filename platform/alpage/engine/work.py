"""Which blocks there are, what each one reads, and so what its fingerprint should be.

One rule serves building, resuming, updating and withdrawing: a block is to do
where the wanted fingerprint is not the recorded one.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from alpage.archive.scene import Scene
from alpage.archive.scenes import mosaic_order
from alpage.cube.layout import LEDGER_CHUNK, Layout
from alpage.cube.ledger import NOTHING, BlockId, Fingerprint, Ledger, digest
from alpage.cube.part import Part
from alpage.engine.chain import follower
from alpage.engine.identity import geometry_digest
from alpage.engine.segments import segment_span
from alpage.grid import Tile
from alpage.product import Context, Derive, Gather, Observe, Stage, Summarise
from alpage.timeaxis import ONE_DAY, Calendar, slot_of

ScenesOfDays = tuple[tuple[int, tuple[Scene, ...]], ...]
"""Day slots, each with its scenes in the order in which they are laid."""

FOOTPRINT_SLACK_PX = 2
"""What a footprint may lack of the pixels of its scene: catalogues round it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks of one step and tile, with the block of a later step that reads what they make."""

    blocks: tuple[BlockId, ...]
    last: BlockId | None = None

    def apart(self) -> "list[Group]":
        """Return each block alone."""
        return [Group((block,)) for block in self.blocks]


class SceneIndex:
    """The scenes of each tile and block of days, in the order in which they are laid."""

    def __init__(self, layout: Layout, context: Context, scenes: Iterable[Scene]) -> None:
        observing = [stage for stage in layout.product.stages if isinstance(stage, Observe)]
        halo_px = max((stage.halo_px(context) for stage in observing), default=0)
        self.axis = layout.axes[Calendar.DAY]
        self._by_place: dict[tuple[Tile, int], list[Scene]] = defaultdict(list)
        days: dict[Tile, set[int]] = defaultdict(set)
        self.day_counts: dict[int, int] = defaultdict(int)
        self._epsg = layout.grid.geobox.crs.epsg
        span = self.axis.span
        for scene in scenes:
            day = int(slot_of(Calendar.DAY, scene.solar_day))
            if not span.start <= day < span.stop:
                continue
            tiles = layout.grid.tiles_touching(
                scene.footprint, halo_px=halo_px + FOOTPRINT_SLACK_PX
            )
            for tile in tiles:
                self._by_place[tile, day // self.axis.window].append(scene)
                days[tile].add(day)
            if tiles:
                self.day_counts[day] += 1
        self._ordered: dict[tuple[Tile, int], ScenesOfDays] = {}
        self._days = {tile: np.array(sorted(found)) for tile, found in days.items()}

    def scenes(self, tile: Tile, block: int) -> ScenesOfDays:
        """Return the days with scenes over a tile in a block, each with its scenes in order."""
        if (tile, block) not in self._ordered:
            self._ordered[tile, block] = self._in_order(tile, block)
        return self._ordered[tile, block]

    def _in_order(self, tile: Tile, block: int) -> ScenesOfDays:
        by_day: dict[int, list[Scene]] = defaultdict(list)
        for scene in self._by_place.get((tile, block), ()):
            by_day[int(slot_of(Calendar.DAY, scene.solar_day))].append(scene)
        return tuple(
            (day, tuple(found) if len(found) == 1 else mosaic_order(found, self._epsg))
            for day, found in sorted(by_day.items())
        )

    def days(self, tile: Tile, first: int, stop: int) -> tuple[int, ...]:
        """Return the day slots with scenes over a tile from `first` up to `stop`."""
        found = self._days.get(tile)
        if found is None:
            return ()
        lo, hi = np.searchsorted(found, [first, stop])
        return tuple(int(day) for day in found[lo:hi])

    def most_days(self, length: int) -> int:
        """Return the most days with scenes over one tile among so many consecutive days."""
        # Most tiles of one path see the same days.
        different = {days.tobytes(): days for days in self._days.values()}
        return max(
            (
                int(np.max(np.searchsorted(days, days + length) - np.arange(len(days))))
                for days in different.values()
            ),
            default=0,
        )


@dataclass
class Work:
    """Everything a run may have to do, given scenes, zones and a ledger."""

    layout: Layout
    index: SceneIndex
    ledger: Ledger
    identity: Fingerprint
    """Digest of product, version, parameters, grid and elevation."""
    code: Mapping[str, str]
    """Digest of a stage's code, by its name, where the product's version says nothing of it."""
    zones: tuple[BaseGeometry, ...]
    """In the grid's CRS, numbered as in the layout."""
    tiles: frozenset[Tile]
    """Tiles that the area touches."""
    results: dict[str, NDArray[np.float64]]
    """The gathered tables as they stand, one row for each day of the axis."""
    period: tuple[np.datetime64, np.datetime64]
    """First and last day that the cube is asked for, as its functions are told."""
    is_chaining: bool
    """Whether a task may keep daily layers for the block that reads them."""
    part: Part | None = None
    """The share of the tiles that is worked on, up to where all tiles are needed."""

    def __post_init__(self) -> None:
        self._steps: dict[str, Stage] = {}
        for stage in self.layout.product.stages:
            self._steps[stage.name] = stage
            if isinstance(stage, Summarise):
                self._steps[f"{stage.name}_total"] = stage
        self._makers = {
            layer.path: stage.name
            for stage in self.layout.product.stages
            if isinstance(stage, Observe | Derive)
            for layer in stage.layers
        }
        self._alone = _alone(self.layout.product.stages, self._makers)
        self.in_order = sorted(self.tiles, key=_neighbours_first)
        if self.part is not None:
            self.in_order = self.part.share(self.in_order)
        tiles = self.in_order
        found = shapely.STRtree(self.zones).query(
            self.layout.grid.outlines(tiles), predicate="intersects"
        )
        touching: dict[Tile, list[int]] = defaultdict(list)
        for at, zone in found.T.tolist():
            touching[tiles[at]].append(zone)
        self._zones_of = {tile: tuple(sorted(numbers)) for tile, numbers in touching.items()}

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps, in order."""
        return tuple(step for step in self._steps if self.part is None or step in self._alone)

    def stage(self, step: str) -> Stage:
        """Return the stage that a step belongs to."""
        return self._steps[step]

    def is_total(self, step: str) -> bool:
        """Return whether a step adds up the tables of all tiles."""
        stage = self._steps[step]
        return isinstance(stage, Gather) or step != stage.name

    def zones_of(self, tile: Tile) -> tuple[int, ...]:
        """Return the numbers of the zones that touch a tile."""
        return self._zones_of.get(tile, ())

    def blocks(self, step: str) -> Iterator[BlockId]:
        """Yield every block of a step, in the order in which they are done."""
        axis = self.layout.axes[self.layout.steps[step]]
        tiles: Iterable[Tile] = [(0, 0)] if self.is_total(step) else self.in_order
        return (BlockId(step, block, tile) for block in axis.blocks for tile in tiles)

    def sources(self, step: str) -> str:
        """Return the step whose tables a total adds up."""
        stage = self._steps[step]
        if isinstance(stage, Summarise):
            return stage.name
        assert isinstance(stage, Gather)
        return next(
            other.name
            for other in self.layout.product.stages
            if isinstance(other, Observe) and stage.table in {t.name for t in other.tables}
        )

    def inputs(self, block: BlockId) -> tuple[BlockId, ...]:
        """Return the blocks of layers or tables that a block reads; none for imagery."""
        stage = self._steps[block.step]
        if isinstance(stage, Observe):
            return ()
        if self.is_total(block.step):
            source = self.sources(block.step)
            return tuple(BlockId(source, block.block, tile) for tile in self.in_order)
        assert isinstance(stage, Derive | Summarise)
        calendar = self.layout.product.layer(stage.reads[0]).calendar
        margin = stage.margin_days if isinstance(stage, Derive) else 0
        span = segment_span(self.layout, stage, block.block).on(calendar, margin_days=margin)
        axis = self.layout.axes[calendar]
        there = [number for number in axis.blocks_of(span) if number in axis.blocks]
        makers = sorted({self._makers[path] for path in stage.reads})
        return tuple(BlockId(maker, number, block.tile) for maker in makers for number in there)

    def wanted(
        self, block: BlockId, given: Mapping[BlockId, Fingerprint] = MappingProxyType({})
    ) -> Fingerprint:
        """Return the fingerprint that a block should have, given what its inputs have now.

        Those that some of them will have may be `given`.
        """
        stage = self._steps[block.step]
        who = (self.identity, block.step, *filter(None, [self.code.get(stage.name)]))
        if isinstance(stage, Observe):
            scenes = self.index.scenes(block.tile, block.block)
            if not scenes:
                return NOTHING
            told = [(day, _told(ordered)) for day, ordered in scenes]
            return digest(who, told, self._zone_digest(stage, block.tile))
        recorded = [
            given[one] if one in given else self.ledger.recorded(one) for one in self.inputs(block)
        ]
        # Without those that hold nothing: an axis that grows changes only what gets data.
        recorded = [one for one in recorded if one != NOTHING]
        if not recorded or self._is_idle(block):
            return NOTHING
        if self.is_total(block.step):
            uses_zones = self.layout.product.uses_zones(stage)
            return digest(who, recorded, self._all_zones if uses_zones else "")
        if isinstance(stage, Summarise):
            if not self.zones_of(block.tile):
                return NOTHING
            return digest(who, recorded, self._tile_zones(block.tile))
        assert isinstance(stage, Derive)
        rows, asked = self._rows(stage, block), self._asked(stage, block)
        return digest(who, recorded, self._zone_digest(stage, block.tile), rows, asked)

    def observed(self, block: BlockId) -> tuple[int, ...]:
        """Return the day slots with scenes over the tile within what a block reads."""
        stage = self._steps[block.step]
        assert isinstance(stage, Derive | Summarise)
        if self.layout.product.layer(stage.reads[0]).calendar is not Calendar.DAY:
            return ()
        margin = stage.margin_days if isinstance(stage, Derive) else 0
        about = segment_span(self.layout, stage, block.block)
        span = about.on(Calendar.DAY, margin_days=margin)
        return self.index.days(block.tile, span.start, span.stop)

    def _is_idle(self, block: BlockId) -> bool:
        """Whether no day that a block of daily layers reads has a scene over its tile.

        Windows may reach further than what it reads: that they hold something says nothing.
        """
        stage = self._steps[block.step]
        if self.is_total(block.step) or not isinstance(stage, Derive | Summarise):
            return False
        daily = self.layout.product.layer(stage.reads[0]).calendar is Calendar.DAY
        return daily and not self.observed(block)

    def todo(self, step: str) -> list[BlockId]:
        """Return the blocks of a step whose wanted fingerprint is not the recorded one."""
        return [b for b in self.blocks(step) if self.wanted(b) != self.ledger.recorded(b)]

    def groups(self, step: str) -> list[Group]:
        """Return the blocks of a step to do, those together whose layers one later block reads."""
        todo = self.todo(step)
        last = follower(self.layout.product, self._steps[step]) if self.is_chaining else None
        if last is None:
            return [Group((block,)) for block in todo]
        left, found = dict.fromkeys(todo), []
        for block in self.blocks(last.name):
            if mine := tuple(one for one in self.inputs(block) if one in left):
                found.append(Group(mine, block))
                for one in mine:
                    del left[one]
        return found + [Group((block,)) for block in left]

    def are_done(self, blocks: Iterable[BlockId]) -> bool:
        """Return whether blocks are recorded as they should be."""
        return all(self.wanted(block) == self.ledger.recorded(block) for block in blocks)

    def expected(self) -> dict[str, list[BlockId]]:
        """Return, before anything runs, the blocks that each step will have to do at most.

        Later steps are said to be touched where anything they read is; a gathered
        table that comes out as before will spare its readers.
        """
        touched: set[BlockId] = set()
        found: dict[str, list[BlockId]] = {}
        gathered: dict[str, set[int]] = {}
        for step in self.steps:
            stage = self._steps[step]
            blocks = []
            for block in self.blocks(step):
                if isinstance(stage, Observe):
                    is_touched = self.wanted(block) != self.ledger.recorded(block)
                else:
                    is_touched = any(one in touched for one in self.inputs(block))
                    if isinstance(stage, Derive) and not is_touched:
                        is_touched = any(
                            block.block in gathered.get(table, ()) for table in stage.tables
                        ) and bool(self.observed(block))
                    if isinstance(stage, Summarise) and not self.is_total(step):
                        is_touched = is_touched and bool(self.zones_of(block.tile))
                    if is_touched and self._is_idle(block):
                        is_touched = self.ledger.recorded(block) != NOTHING
                    if not is_touched:
                        is_touched = self.wanted(block) != self.ledger.recorded(block)
                if is_touched:
                    blocks.append(block)
            touched.update(blocks)
            if isinstance(stage, Gather):
                gathered[step] = {block.block for block in blocks}
            found[step] = blocks
        return found

    def _asked(self, stage: Derive, block: BlockId) -> list[str]:
        """The part of the period within a segment: days say nothing of it, each is alone."""
        if stage.segment is Calendar.DAY:
            return []
        margin = stage.margin_days * ONE_DAY
        about = segment_span(self.layout, stage, block.block)
        first = max(about.first_day - margin, self.period[0])
        return [str(first), str(min(about.last_day + margin, self.period[1]))]

    def _zone_digest(self, stage: Observe | Derive, tile: Tile) -> object:
        return self._tile_zones(tile) if self.layout.product.uses_zones(stage) else ""

    def _gather(self, name: str) -> Gather:
        stage = self.layout.product.stage(name)
        assert isinstance(stage, Gather)
        return stage

    def _tile_zones(self, tile: Tile) -> list[tuple[int, str]]:
        return [(number, self._all_zones[number]) for number in self.zones_of(tile)]

    @cached_property
    def _all_zones(self) -> list[str]:
        return [geometry_digest(zone) for zone in self.zones]

    def _rows(self, stage: Derive, block: BlockId) -> Mapping[str, str]:
        """The gathered values that a block will read: equal values need no new work."""
        rows = {}
        start = self.layout.axes[Calendar.DAY].span.start
        slots = np.array(self.observed(block), dtype=np.int64) - start
        for name in stage.tables:
            values = self.results[name][slots]
            if self._gather(name).by_zone:
                values = values[:, list(self.zones_of(block.tile))]
            rows[name] = str(digest(np.ascontiguousarray(values).tobytes().hex()))
        return rows


def _alone(stages: Iterable[Stage], makers: Mapping[str, str]) -> set[str]:
    """Names of the stages whose blocks need nothing of other tiles."""
    found: set[str] = set()
    for stage in stages:
        if isinstance(stage, Derive | Summarise):
            tables = stage.tables if isinstance(stage, Derive) else ()
            if not tables and {makers[path] for path in stage.reads} <= found:
                found.add(stage.name)
        elif isinstance(stage, Observe):
            found.add(stage.name)
    return found


def _neighbours_first(tile: Tile) -> tuple[int, int, Tile]:
    """Tiles whose records lie in one chunk follow each other: a commit rewrites few of them."""
    return tile[0] // LEDGER_CHUNK, tile[1] // LEDGER_CHUNK, tile


def _told(ordered: Sequence[Scene]) -> list[object]:
    """What tells the imagery of a day."""
    told: list[object] = [(scene.id, scene.revision) for scene in ordered]
    passes = len({scene.group for scene in ordered})
    # Cubes of before have the first pass's clouds where another pass saw the ground.
    return told if passes == 1 else [*told, passes]
