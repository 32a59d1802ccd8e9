"""One block: what a worker does, from imagery or layers to shards, in one task."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from typing import Any

import icechunk
import numpy as np
import rasterio.features
import shapely
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from alpage.cube.layout import STATISTICS, Layout, partial_path
from alpage.cube.ledger import NOTHING, BlockId, Fingerprint, Record
from alpage.engine.clear import clear_block
from alpage.engine.header import BadCog
from alpage.engine.imagery import Day, read_days
from alpage.engine.shared import Shared, SharedText, unpack
from alpage.engine.storage import ReadCounters
from alpage.engine.tiff import read_header
from alpage.engine.warp import read_onto
from alpage.errors import ProductError, StudyError
from alpage.product import Derive, Gather, Layer, Observation, Observe, Segment, Summarise
from alpage.science.statistics import filled_statistics
from alpage.science.zonal import ZoneIndex, zone_index
from alpage.timeaxis import Calendar, Span, slot_of, start_of

# Requests of one task under way at once; decoding them is what takes the core.
FETCH_THREADS = 8


@dataclass(frozen=True)
class Task:
    """One block to do. `days` are those with an acquisition over the tile, in the span it reads."""

    shared: SharedText
    id: BlockId
    fingerprint: Fingerprint
    attempt: int
    days: tuple[Day, ...] = ()
    observed: tuple[int, ...] = ()
    """Day slots with an acquisition over the tile, for blocks that read daily layers."""
    area: bytes | None = None
    """WKB of the study's area in the grid's CRS, for blocks of one tile."""
    zones: tuple[tuple[int, bytes], ...] = ()
    """Number and WKB, in the grid's CRS, of the zones that touch the tile."""
    tiles: tuple[tuple[int, int], ...] = ()
    """For blocks without a tile: the tiles whose tables add up."""


@dataclass(frozen=True)
class Done:
    """A finished block: its record, and the writes that the coordinator commits."""

    record: Record
    fork: icechunk.ForkSession


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


def run_block(task: Task, fork: icechunk.ForkSession) -> Done:
    """Return a block done: layers and tables written into the fork, which nobody sees yet."""
    shared = unpack(task.shared)
    clock, counters = Clock(), ReadCounters()
    root = zarr.open_group(fork.store, mode="r+")
    stage = _stage_of(shared, task.id.step)
    statistics: NDArray[np.int64] | None = None
    match stage:
        case _ if task.fingerprint == NOTHING:
            clear_block(shared.layout, stage, task.id, root)
            clock.lap("write")
        case Observe():
            statistics = _observe(stage, task, shared, root, clock, counters)
        case Derive():
            statistics = _derive(stage, task, shared, root, clock, counters)
        case Summarise() if task.id.step == stage.name:
            _summarise(stage, task, shared, root, clock, counters)
        case Gather() | Summarise():
            _total(stage, task, shared, root, clock)
    cost = {f"{kind}_seconds": seconds for kind, seconds in clock.seconds.items()}
    cost |= {
        "bytes_read": float(counters.bytes),
        "requests": float(counters.requests),
        "attempts": float(task.attempt),
    }
    return Done(Record(task.id, task.fingerprint, cost, statistics), fork)


def _stage_of(shared: Shared, step: str) -> Observe | Gather | Derive | Summarise:
    return next(
        stage
        for stage in shared.product.stages
        if step == stage.name or (isinstance(stage, Summarise) and step == f"{stage.name}_total")
    )


def _observe(
    stage: Observe,
    task: Task,
    shared: Shared,
    root: zarr.Group,
    clock: Clock,
    counters: ReadCounters,
) -> NDArray[np.int64]:
    layout, tile, context = shared.layout, task.id.tile, shared.context
    halo = stage.halo_px(context)
    geobox = layout.grid.tile_box(tile, halo_px=halo)
    inner_shape: tuple[int, int] = layout.grid.tile_box(tile).shape.yx
    span = layout.axes[Calendar.DAY].block_span(task.id.block)
    dem = _read_dem(shared, geobox, counters)
    area = _area(task, layout.grid.tile_box(tile))
    zones = _zones(task, layout.grid.tile_box(tile), area)
    rows, columns = layout.grid.slices(tile)
    origin_yx = (rows.start - halo, columns.start - halo)
    dense = {layer.name: _empty(layer, len(span), inner_shape) for layer in stage.layers}
    tables = {
        table.name: np.zeros(
            (
                len(span),
                *([len(zones.zones)] if table.by_zone else []),
                *layout.table_shapes[table.name],
            ),
            dtype=np.int64,
        )
        for table in stage.tables
    }
    statistics = _Statistics(stage.layers)
    per_batch = max(1, shared.batch_px // (geobox.shape.y * geobox.shape.x))
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        for batch in batched(task.days, per_batch):
            imagery = read_days(batch, stage.bands, geobox, pool, counters)
            clock.lap("read")
            found = stage.function(
                Observation(
                    days=imagery.days,
                    bands=imagery.bands,
                    gains=imagery.gains,
                    offsets=imagery.offsets,
                    quality=imagery.quality,
                    dem=dem,
                    area=area,
                    zones=zones,
                    halo_px=halo,
                    origin_yx=origin_yx,
                    context=context,
                )
            )
            slots = slot_of(Calendar.DAY, imagery.days) - span.start
            for layer in stage.layers:
                values = _checked(stage.name, found, layer, (len(slots), *inner_shape))
                values = _cut(values, layer, area)
                dense[layer.name][slots] = values
                statistics.add(layer, values, area)
            for name, rows_of in tables.items():
                rows_of[slots] = _table(stage.name, found, name, (len(slots), *rows_of.shape[1:]))
            clock.lap("compute")
    for layer in stage.layers:
        root[layer.path][layout.slices(layer, tile, task.id.block)] = dense[layer.name]
    for table in stage.tables:
        path = partial_path(stage.name, table.name)
        _write_partial(root[path], layout, task, span, tables[table.name], zones, table.by_zone)
    clock.lap("write")
    return statistics.array


def _derive(
    stage: Derive,
    task: Task,
    shared: Shared,
    root: zarr.Group,
    clock: Clock,
    counters: ReadCounters,
) -> NDArray[np.int64]:
    layout, tile = shared.layout, task.id.tile
    segment, inner = _read_segment(stage, task, shared, root, counters)
    clock.lap("read")
    found = stage.function(segment)
    shape: tuple[int, int] = layout.grid.tile_box(tile).shape.yx
    area = _area(task, layout.grid.tile_box(tile))
    statistics = _Statistics(stage.layers)
    arrays = {}
    for layer in stage.layers:
        axis = layout.axes[layer.calendar]
        if stage.segment is Calendar.DAY:
            values = _checked(stage.name, found, layer, (len(segment.days), *shape))
            values = _cut(values, layer, area)
            array = _empty(layer, axis.window, shape)
            array[slot_of(Calendar.DAY, segment.days) - inner.start] = values
        else:
            values = _checked(stage.name, found, layer, (axis.window, *shape))
            values = array = _cut(values, layer, area)
        statistics.add(layer, values, area)
        arrays[layer.path] = (layer, array)
    clock.lap("compute")
    for layer, array in arrays.values():
        root[layer.path][layout.slices(layer, tile, task.id.block)] = array
    clock.lap("write")
    return statistics.array


def segment_span(layout: Layout, stage: Derive | Summarise, block: int) -> Span:
    """Return the slots that a block of a stage is about, on the calendar that names its blocks."""
    if isinstance(stage, Summarise):
        return layout.axes[layout.product.layer(stage.reads[0]).calendar].block_span(block)
    if stage.segment is Calendar.DAY:
        return layout.axes[Calendar.DAY].block_span(block)
    return Span(stage.segment, block, block + 1)


def _read_segment(
    stage: Derive | Summarise,
    task: Task,
    shared: Shared,
    root: zarr.Group,
    counters: ReadCounters,
) -> tuple[Segment, Span]:
    layout, tile = shared.layout, task.id.tile
    calendar = layout.product.layer(stage.reads[0]).calendar
    about = segment_span(layout, stage, task.id.block)
    margin = stage.margin_days if isinstance(stage, Derive) else 0
    wanted = about.on(calendar, margin_days=margin)
    slots = np.array(task.observed, dtype=np.int64) if calendar is Calendar.DAY else wanted.slots
    inner_span = about.on(calendar)
    first, last = np.searchsorted(slots, [inner_span.start, inner_span.stop])
    start = layout.axes[calendar].span.start
    rows, columns = layout.grid.slices(tile)
    layers = {
        path: _read_slots(root[path], slots - start, rows, columns, layout.product.layer(path))
        for path in stage.reads
    }
    tables = {}
    if isinstance(stage, Derive):
        for name in stage.tables:
            tables[name] = np.asarray(root[f"ledger/{name}/result"].oindex[slots - start])
    box = layout.grid.tile_box(tile)
    segment = Segment(
        days=np.asarray(start_of(calendar, slots)),
        inner=slice(int(first), int(last)),
        layers=layers,
        tables=tables,
        dem=_read_dem(shared, box, counters),
        zones=_zones(task, box, _area(task, box)),
        first_day=about.first_day,
        last_day=about.last_day,
        context=shared.context,
    )
    return segment, inner_span


def _read_slots(
    array: zarr.Array, indices: NDArray[np.int64], rows: slice, columns: slice, layer: Layer
) -> NDArray[Any]:
    """Read some time steps of a tile, an inner chunk's worth at a time; else fill."""
    shape = (len(indices), rows.stop - rows.start, columns.stop - columns.start)
    out = np.full(shape, layer.fill, dtype=layer.dtype)
    inside = np.flatnonzero((indices >= 0) & (indices < array.shape[0]))
    step = array.chunks[0]
    for chunk in np.unique(indices[inside] // step):
        mine = inside[indices[inside] // step == chunk]
        lo, hi = int(indices[mine].min()), int(indices[mine].max()) + 1
        out[mine] = np.asarray(array[lo:hi, rows, columns])[indices[mine] - lo]
    return out


def _summarise(
    stage: Summarise,
    task: Task,
    shared: Shared,
    root: zarr.Group,
    clock: Clock,
    counters: ReadCounters,
) -> None:
    segment, span = _read_segment(stage, task, shared, root, counters)
    clock.lap("read")
    counts = np.asarray(stage.count(segment))
    zones = segment.zones
    expected = (len(segment.days), len(zones.zones), *shared.layout.table_shapes[stage.name])
    if counts.shape != expected or counts.dtype.kind != "i":
        raise ProductError(
            f"stage {stage.name} must count integers of shape {expected}, "
            f"got {counts.dtype} {counts.shape}"
        )
    table = np.zeros((len(span), *counts.shape[1:]), dtype=np.int64)
    table[slot_of(span.calendar, segment.days) - span.start] = counts
    clock.lap("compute")
    path = partial_path(stage.name, stage.name)
    _write_partial(root[path], shared.layout, task, span, table, zones, by_zone=True)
    clock.lap("write")


def _total(
    stage: Gather | Summarise, task: Task, shared: Shared, root: zarr.Group, clock: Clock
) -> None:
    layout = shared.layout
    source, table, calendar = _summed(layout, stage)
    axis = layout.axes[calendar]
    span = axis.block_span(task.id.block)
    start = span.start - axis.span.start
    partial = root[partial_path(source, table)]
    total = np.zeros((len(span), *partial.shape[2:]), dtype=np.int64)
    columns = layout.grid.tiles_yx[1]
    for row, column in task.tiles:
        total += np.asarray(partial[row * columns + column, start : start + len(span)])
    clock.lap("read")
    if isinstance(stage, Gather):
        rows = np.asarray(stage.function(total, shared.context), dtype=np.float64)
        clock.lap("compute")
        root[f"ledger/{stage.name}/result"][start : start + len(span)] = rows
    else:
        series = stage.finish(total, shared.context)
        clock.lap("compute")
        group = root[f"zones/{calendar.value}"]
        for one in stage.series:
            values = np.asarray(series[one.name], dtype=np.float64)
            group[one.name][:, start : start + len(span)] = values.T
    clock.lap("write")


def _summed(layout: Layout, stage: Gather | Summarise) -> tuple[str, str, Calendar]:
    """The stage and table that add up, and their calendar."""
    if isinstance(stage, Summarise):
        return stage.name, stage.name, layout.product.layer(stage.reads[0]).calendar
    for other in layout.product.stages:
        if isinstance(other, Observe) and stage.table in {table.name for table in other.tables}:
            return other.name, stage.table, Calendar.DAY
    raise ProductError(f"stage {stage.name} gathers {stage.table!r}, which no stage makes")


def _write_partial(
    array: zarr.Array,
    layout: Layout,
    task: Task,
    span: Span,
    table: NDArray[np.int64],
    zones: ZoneIndex,
    by_zone: bool,
) -> None:
    row, column = task.id.tile
    tile = row * layout.grid.tiles_yx[1] + column
    start = span.start - layout.axes[span.calendar].span.start
    whole = np.zeros((len(span), *array.shape[2:]), dtype=np.int64)
    if by_zone:
        whole[:, zones.zones] = table
    else:
        whole[:] = table
    array[tile, start : start + len(span)] = whole


def _read_dem(shared: Shared, geobox: GeoBox, counters: ReadCounters) -> NDArray[np.float32] | None:
    return None if shared.dem is None else read_elevation(shared.dem, geobox, counters)


def read_elevation(href: str, geobox: GeoBox, counters: ReadCounters) -> NDArray[np.float32]:
    """Return elevation on a geobox (y, x) in metres, bilinear, NaN where there is none."""
    try:
        header = read_header(href, counters)
        dem = read_onto(header, geobox, kernel="bilinear", counters=counters).astype(np.float32)
    except BadCog as error:
        raise StudyError(f"dem: {error}") from error
    if header.nodata is not None:
        dem[dem == header.nodata] = np.nan
    return dem


def _area(task: Task, geobox: GeoBox) -> NDArray[np.bool_]:
    assert task.area is not None
    return inside(shapely.from_wkb(task.area), geobox)


def _zones(task: Task, geobox: GeoBox, area: NDArray[np.bool_]) -> ZoneIndex:
    masks = {number: inside(shapely.from_wkb(wkb), geobox) & area for number, wkb in task.zones}
    return zone_index(masks, geobox.shape.yx)


def inside(geometry: BaseGeometry, geobox: GeoBox) -> NDArray[np.bool_]:
    """Return the pixels (y, x) of a geobox whose centre lies within a geometry of its CRS."""
    if geometry.is_empty:
        return np.zeros(geobox.shape.yx, dtype=bool)
    burnt = rasterio.features.rasterize(
        [geometry], out_shape=geobox.shape.yx, transform=geobox.transform, dtype="uint8"
    )
    return np.asarray(burnt != 0)


def _empty(layer: Layer, steps: int, shape: tuple[int, int]) -> NDArray[Any]:
    return np.full((steps, *shape), layer.fill, dtype=layer.dtype)


def _checked(
    stage: str, found: Mapping[str, Any], layer: Layer, shape: tuple[int, ...]
) -> NDArray[Any]:
    values = _named(stage, found, layer.name)
    if values.shape != shape or values.dtype != np.dtype(layer.dtype):
        raise ProductError(
            f"stage {stage}, layer {layer.name}: expected {layer.dtype} {shape}, "
            f"got {values.dtype} {values.shape}; mend its function"
        )
    return values


def _named(stage: str, found: Any, name: str) -> NDArray[Any]:
    """One of the arrays that a stage's function returned."""
    if not isinstance(found, Mapping) or name not in found:
        got = ", ".join(sorted(found)) if isinstance(found, Mapping) else type(found).__name__
        raise ProductError(
            f"stage {stage}: expected {name!r} among the arrays that its function returns by "
            f"name, got {got or 'none'}"
        )
    return np.asarray(found[name])


def _table(stage: str, found: Any, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    rows = _named(stage, found, name)
    if rows.shape != shape or rows.dtype.kind not in "iu":
        raise ProductError(
            f"stage {stage}, table {name}: expected integers {shape}, got {rows.dtype} "
            f"{rows.shape}; mend its function"
        )
    return rows


def _cut(values: NDArray[Any], layer: Layer, area: NDArray[np.bool_]) -> NDArray[Any]:
    """Empty the pixels outside the area: tiles that it does not touch are never computed."""
    return values if area.all() else np.where(area, values, values.dtype.type(layer.fill))


class _Statistics:
    """Statistics of the layers of one block, added up over batches of days."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._layers = layers
        self.array = np.zeros((len(layers), len(STATISTICS)), dtype=np.int64)

    def add(self, layer: Layer, values: NDArray[Any], area: NDArray[np.bool_]) -> None:
        """Count the pixels of some slots, those within the area."""
        row = self.array[self._layers.index(layer)]
        count, low, high, total = filled_statistics(values, layer.fill)
        row[0] += len(values) * int(area.sum())
        if count:
            row[2] = low if row[1] == 0 else min(row[2], low)
            row[3] = high if row[1] == 0 else max(row[3], high)
            row[1] += count
            row[4] += total
