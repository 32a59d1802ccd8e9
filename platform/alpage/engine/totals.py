"""Blocks that count within zones, and those that add up the tables of all tiles."""

import numpy as np

from alpage.cube.layout import Layout, partial_path
from alpage.engine.derive import read_segment
from alpage.engine.results import write_partial
from alpage.engine.task import Job
from alpage.errors import ProductError
from alpage.product import Gather, Observe, Summarise
from alpage.timeaxis import Calendar, slot_of


def summarise(stage: Summarise, job: Job) -> None:
    """Write a block's counts within the zones that touch its tile."""
    segment, span = read_segment(stage, job)
    job.clock.lap("read")
    counts = np.asarray(stage.count(segment))
    expected = (len(segment.days), len(segment.zones.zones), *job.layout.table_shapes[stage.name])
    if counts.shape != expected or counts.dtype.kind != "i":
        raise ProductError(
            f"stage {stage.name} must count integers of shape {expected}, "
            f"got {counts.dtype} {counts.shape}"
        )
    table = np.zeros((len(span), *counts.shape[1:]), dtype=np.int64)
    table[slot_of(span.calendar, segment.days) - span.start] = counts
    job.clock.lap("compute")
    write_partial(job, partial_path(stage.name, stage.name), span, table, by_zone=True)
    job.clock.lap("write")


def add_up(stage: Gather | Summarise, job: Job) -> None:
    """Write what follows from the tables of all tiles: a gathered table, or series."""
    layout, root = job.layout, job.root
    source, table, calendar = _summed(layout, stage)
    axis = layout.axes[calendar]
    span = axis.block_span(job.task.id.block)
    start = span.start - axis.span.start
    partial = root[partial_path(source, table)]
    total = np.zeros((len(span), *partial.shape[2:]), dtype=np.int64)
    for tile in job.task.tiles:
        total += np.asarray(partial[layout.grid.number(tile), start : start + len(span)])
    job.clock.lap("read")
    if isinstance(stage, Gather):
        rows = np.asarray(stage.function(total, job.context_for(stage)), dtype=np.float64)
        job.clock.lap("compute")
        root[f"ledger/{stage.name}/result"][start : start + len(span)] = rows
    else:
        series = stage.finish(total, job.context_for(stage))
        job.clock.lap("compute")
        group = root[f"zones/{calendar.value}"]
        for one in stage.series:
            values = np.asarray(series[one.name], dtype=np.float64)
            group[one.name][:, start : start + len(span)] = values.T
    job.clock.lap("write")


def _summed(layout: Layout, stage: Gather | Summarise) -> tuple[str, str, Calendar]:
    """The stage and table that add up, and their calendar."""
    if isinstance(stage, Summarise):
        return stage.name, stage.name, layout.product.layer(stage.reads[0]).calendar
    for other in layout.product.stages:
        if isinstance(other, Observe) and stage.table in {table.name for table in other.tables}:
            return other.name, stage.table, Calendar.DAY
    raise ProductError(f"stage {stage.name} gathers {stage.table!r}, which no stage makes")
