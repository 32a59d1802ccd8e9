"""A block of a deriving stage: layers along time in, shards of layers out."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.cube.shards import ShardWriter
from alpage.engine.memory import STRIP_PX
from alpage.engine.results import Statistics, check_names, layer_of
from alpage.engine.segments import segment_span
from alpage.engine.task import Job
from alpage.product import Derive, Layer, Segment, Summarise
from alpage.science.zones import zones_by_rows
from alpage.timeaxis import Calendar, Slots, Span, slot_of, start_of


def derive(stage: Derive, job: Job) -> NDArray[np.int64]:
    """Return the statistics of a block's layers, which are written."""
    layout = job.layout
    segment, inner = read_segment(stage, job)
    job.clock.lap("read")
    slots = [_slots(stage, job, layer, segment, inner) for layer in stage.layers]
    made = [
        np.empty((len(at), *job.shape), dtype=layer.dtype)
        for layer, at in zip(stage.layers, slots, strict=True)
    ]
    for rows, strip in _strips(stage, segment, job):
        found = stage.function(strip)
        for layer, values in zip(stage.layers, made, strict=True):
            values[:, rows] = layer_of(stage.name, found, layer, len(values), job.area[rows])
        check_names(stage, found)
    statistics, area_px = Statistics(stage.layers), int(job.area.sum())
    for layer, at, values in zip(stage.layers, slots, made, strict=True):
        statistics.add(layer, values, area_px)
        if job.kept is not None and stage.segment is Calendar.DAY:
            job.kept.put(layer.path, at + inner.start, values)
        job.clock.lap("compute")
        shards = layout.shards(layer, job.store)
        writer = ShardWriter(shards.shape)
        writer.add(at, values)
        place = layout.place(layer, job.tile, job.task.id.block)
        shards.write(place, writer.finish())
        job.clock.lap("write")
    return statistics.array


def _slots(stage: Derive, job: Job, layer: Layer, segment: Segment, inner: Span) -> Slots:
    """Where a block's values of a layer lie along time in their shard."""
    if stage.segment is Calendar.DAY:
        return slot_of(Calendar.DAY, segment.days) - inner.start
    return np.arange(job.layout.axes[layer.calendar].window)


def _strips(stage: Derive, segment: Segment, job: Job) -> Iterator[tuple[slice, Segment]]:
    """Yield some rows at a time, and what the function sees of them."""
    height, width = job.shape
    step = max(1, STRIP_PX // width)
    strips = [slice(row, min(row + step, height)) for row in range(0, height, step)]
    uses_zones = job.layout.product.uses_zones(stage)
    whole = repeat(segment.zones, len(strips))
    zones_of = zones_by_rows(segment.zones, strips) if uses_zones else whole
    for rows, zones in zip(strips, zones_of, strict=True):
        yield (
            rows,
            replace(
                segment,
                layers={path: values[:, rows] for path, values in segment.layers.items()},
                dem=None if segment.dem is None else segment.dem[rows],
                zones=zones,
            ),
        )


def _layer(job: Job, path: str, slots: Slots) -> NDArray[Any]:
    """Return some slots of a layer: those that blocks before have in memory are not read."""
    layout = job.layout
    layer = layout.product.layer(path)
    shards, start = layout.shards(layer, job.committed), layout.axes[layer.calendar].span.start
    if job.kept is None or path not in job.kept.paths:
        return shards.read(slots - start, job.tile, *job.shape)

    def read(out: NDArray[Any], targets: NDArray[np.int64], missing: Slots) -> None:
        shards.read_into(out, targets, missing - start, job.tile)

    return job.kept.complete(path, job.shape, shards.shape.dtype, read)


def read_segment(stage: Derive | Summarise, job: Job) -> tuple[Segment, Span]:
    """Return what a stage's function sees of a block, and the slots that it is about."""
    layout, task = job.layout, job.task
    calendar = layout.product.layer(stage.reads[0]).calendar
    about = segment_span(layout, stage, task.id.block)
    margin = stage.margin_days if isinstance(stage, Derive) else 0
    wanted = about.on(calendar, margin_days=margin)
    slots = np.array(task.observed, dtype=np.int64) if calendar is Calendar.DAY else wanted.slots
    inner_span = about.on(calendar)
    first, last = np.searchsorted(slots, [inner_span.start, inner_span.stop])
    start = layout.axes[calendar].span.start
    layers = {path: _layer(job, path, slots) for path in stage.reads}
    tables = {}
    if isinstance(stage, Derive):
        for name in stage.tables:
            tables[name] = np.asarray(job.root[f"ledger/{name}/result"].oindex[slots - start])
    segment = Segment(
        days=np.asarray(start_of(calendar, slots)),
        inner=slice(int(first), int(last)),
        layers=layers,
        tables=tables,
        dem=job.elevation(job.box),
        zones=job.zones_for(stage),
        first_day=about.first_day,
        last_day=about.last_day,
        context=job.context_for(stage),
    )
    return segment, inner_span
