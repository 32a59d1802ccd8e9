"""How much memory a task takes, so that it is decided before it starts."""

from collections.abc import Callable

import numpy as np

from alpage.cube.layout import Layout
from alpage.cube.shards import DAYS
from alpage.engine.chain import follower
from alpage.engine.imagery import DAYS_AHEAD
from alpage.errors import StudyError
from alpage.product import Context, Derive, Layer, Observe, Summarise
from alpage.timeaxis import Calendar

# A worker with every import done (231 MiB measured) and a product's kernels loaded (280 to 370).
BASE_BYTES = 380 * 2**20
# The part of a worker's memory that a plan may fill: below dask's own limits (0.7 spills).
USABLE = 0.65
# What a function makes of digital numbers and quality, per band and pixel of a batch, or of the
# values of a strip.
FUNCTION_BYTES_PER_BAND = 8
# Bytes that grow are copied up to this size, and remapped beyond. Source: mallopt(3), glibc's
# largest M_MMAP_THRESHOLD.
GROWTH_BYTES = 32 * 2**20
STRIP_PX = 2**14
"""Pixels that a function along time sees at once, in whole rows: what it makes of them stays in the
core's cache, and a block needs little more memory than what it reads and writes."""
BATCH_PX = 2**20
"""Pixels of the days that an observing function sees at once. More gain nothing: the next days are
fetched meanwhile, and these stay in the core's cache. Of 2, 4 and 8 days of 512² pixels, 4 took
the least time for NDVI and for snow."""

MostDays = Callable[[int], int]
"""The most days with an acquisition over one tile, of so many consecutive days."""


def most_batch_days(layout: Layout) -> int:
    """Return how many days an observing task holds at once where memory does not matter."""
    return min(max(1, BATCH_PX // layout.grid.tile_px**2), layout.axes[Calendar.DAY].window)


def batch_days(layout: Layout, memory_gib: float, context: Context, most: MostDays) -> int:
    """Return how many days an observing task may hold at once.

    Raises StudyError where not even one fits beside the block's layers.
    """
    usable = int(memory_gib * 2**30 * USABLE)
    for days in range(most_batch_days(layout), 0, -1):
        peak = peak_bytes(layout, days, context, most)
        if peak <= usable:
            return days
    raise StudyError(
        f"cluster.memory_gib: expected at least {peak / USABLE / 2**30:.1f} for tiles of "
        f"{layout.grid.tile_px} px and windows of {layout.axes[Calendar.DAY].window} days, got "
        f"{memory_gib:g}; or make grid.tile_px or grid.window_days smaller"
    )


def may_chain(
    layout: Layout, memory_gib: float, batch: int, context: Context, most: MostDays
) -> bool:
    """Return whether a task may keep the daily layers of a tile for the block that reads them."""
    peak = peak_bytes(layout, batch, context, most, is_chaining=True)
    return peak <= memory_gib * 2**30 * USABLE


def peak_bytes(
    layout: Layout, batch: int, context: Context, most: MostDays, *, is_chaining: bool = False
) -> int:
    """Return the most memory that one worker will hold during a run."""
    peaks = [0]
    for stage in layout.product.stages:
        last = follower(layout.product, stage) if is_chaining else None
        kept = 0 if last is None else _layers_read(layout, last, most)
        match stage:
            case Observe():
                peaks.append(_observing(layout, stage, batch, context, most) + kept)
            case Derive():
                made = _made_of_strip(layout, stage, most) + _writing(layout, stage.layers, most)
                peaks.append(_reading(layout, stage, most) + made + kept)
            case Summarise():
                peaks.append(_reading(layout, stage, most))
            case _:
                pass
    return BASE_BYTES + max(peaks)


def _observing(layout: Layout, stage: Observe, batch: int, context: Context, most: MostDays) -> int:
    area = layout.grid.tile_px**2
    day_px = (layout.grid.tile_px + 2 * stage.halo_px(context)) ** 2
    imagery = day_px * (2 * len(stage.bands) + 1)
    made = batch * day_px * FUNCTION_BYTES_PER_BAND * (len(stage.bands) + 1)
    # A batch decoded and, compressed, the day that is laid and the next ones, as large as raw.
    bands = (batch + 1 + DAYS_AHEAD) * imagery + made
    days = most(layout.axes[Calendar.DAY].window)
    sizes = [area * _itemsize(layer) for layer in stage.layers]
    # Days whose inner chunks are not complete yet, and the shards so far, of which one grows.
    kept = min(days, most(DAYS) + batch)
    return bands + (kept + days) * sum(sizes) + min(days * max(sizes, default=0), GROWTH_BYTES)


def _reading(layout: Layout, stage: Derive | Summarise, most: MostDays) -> int:
    """The layers that a block reads, the bytes of one shard of them and of the next."""
    layers = [layout.product.layer(path) for path in stage.reads]
    window = layout.axes[layers[0].calendar].window
    if layers[0].calendar is Calendar.DAY:
        window = most(window)
    shard = window * layout.grid.tile_px**2 * max(_itemsize(layer) for layer in layers)
    return _layers_read(layout, stage, most) + 2 * shard


def _layers_read(layout: Layout, stage: Derive | Summarise, most: MostDays) -> int:
    itemsizes = sum(_itemsize(layout.product.layer(path)) for path in stage.reads)
    return _slots_read(layout, stage, most) * layout.grid.tile_px**2 * itemsizes


def _made_of_strip(layout: Layout, stage: Derive, most: MostDays) -> int:
    # Tiles wider than a strip are handed over row by row.
    strip_px = min(max(STRIP_PX, layout.grid.tile_px), layout.grid.tile_px**2)
    slots = _slots_read(layout, stage, most) * len(stage.reads)
    return slots * strip_px * FUNCTION_BYTES_PER_BAND


def _slots_read(layout: Layout, stage: Derive | Summarise, most: MostDays) -> int:
    axis = layout.axes[layout.steps[stage.name]]
    calendar = layout.product.layer(stage.reads[0]).calendar
    margin = stage.margin_days if isinstance(stage, Derive) else 0
    slots = len(axis.block_span(axis.first_block).on(calendar, margin_days=margin))
    return most(slots) if calendar is Calendar.DAY else slots


def _writing(layout: Layout, layers: tuple[Layer, ...], most: MostDays) -> int:
    """The layers that a function made, and one as a shard, which grows."""
    sizes = []
    for layer in layers:
        window = layout.axes[layer.calendar].window
        slots = most(window) if layer.calendar is Calendar.DAY else window
        sizes.append(slots * layout.grid.tile_px**2 * _itemsize(layer))
    return sum(sizes) + max(sizes) + min(max(sizes), GROWTH_BYTES)


def _itemsize(layer: Layer) -> int:
    return np.dtype(layer.dtype).itemsize
