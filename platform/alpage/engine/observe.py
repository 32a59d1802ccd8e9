"""A block of an observing stage: imagery in, shards of daily layers and tables out."""

from itertools import batched
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.cube.layout import partial_path
from alpage.cube.shards import ShardWriter
from alpage.engine.imagery import Imagery, read_batches
from alpage.engine.results import Statistics, check_names, layer_of, table_of, write_partial
from alpage.engine.task import Job
from alpage.product import Observation, Observe
from alpage.timeaxis import Calendar, slot_of


def observe(stage: Observe, job: Job) -> NDArray[np.int64]:
    """Return the statistics of a block's layers, which are written with its tables."""
    layout, task, clock = job.layout, job.task, job.clock
    span = layout.axes[Calendar.DAY].block_span(task.id.block)
    given = _Given(stage, job, stage.halo_px(job.shared.context))
    writers = {layer.path: ShardWriter(layout.shard_shape(layer)) for layer in stage.layers}
    tables = {table.name: _empty_table(job, table.name, table.by_zone) for table in stage.tables}
    statistics, area_px = Statistics(stage.layers), int(job.area.sum())
    batches = list(batched(task.days, job.shared.batch_days))
    for imagery in read_batches(batches, stage.bands, given.geobox, job.counters):
        clock.lap("read")
        found = stage.function(given.observation(imagery))
        slots = slot_of(Calendar.DAY, imagery.days) - span.start
        for layer in stage.layers:
            values = layer_of(stage.name, found, layer, len(slots), job.area)
            statistics.add(layer, values, area_px)
            if job.kept is not None:
                job.kept.put(layer.path, slots + span.start, values)
            # The imagery's own arrays hold other days before these are written.
            values = values if values.base is None else values.copy()
            clock.lap("compute")
            writers[layer.path].add(slots, values)
            clock.lap("write")
        for name, rows in tables.items():
            rows[slots] = table_of(stage.name, found, name, (len(slots), *rows.shape[1:]))
        check_names(stage, found)
        clock.lap("compute")
    for layer in stage.layers:
        place = layout.place(layer, job.tile, task.id.block)
        layout.shards(layer, job.store).write(place, writers[layer.path].finish())
    for table in stage.tables:
        path = partial_path(stage.name, table.name)
        write_partial(job, path, span, tables[table.name], by_zone=table.by_zone)
    clock.lap("write")
    return statistics.array


class _Given:
    """What all batches of a block have in common."""

    def __init__(self, stage: Observe, job: Job, halo: int) -> None:
        self._job, self._halo = job, halo
        self._zones, self._context = job.zones_for(stage), job.context_for(stage)
        self.geobox = job.layout.grid.tile_box(job.tile, halo_px=halo)
        self._dem = job.elevation(self.geobox)
        rows, columns = job.layout.grid.slices(job.tile)
        self._origin_yx = (rows.start - halo, columns.start - halo)

    def observation(self, imagery: Imagery) -> Observation:
        return Observation(
            days=imagery.days,
            bands=imagery.bands,
            gains=imagery.gains,
            offsets=imagery.offsets,
            quality=imagery.quality,
            dem=self._dem,
            area=self._job.area,
            zones=self._zones,
            halo_px=self._halo,
            origin_yx=self._origin_yx,
            context=self._context,
        )


def _empty_table(job: Job, name: str, by_zone: bool) -> NDArray[Any]:
    layout = job.layout
    days = layout.axes[Calendar.DAY].window
    zones = [len(job.zones.zones)] if by_zone else []
    return np.zeros((days, *zones, *layout.table_shapes[name]), dtype=np.int64)
