"""How much memory a task takes, so that it is decided before it starts."""

from alpage.cube.layout import Layout
from alpage.errors import StudyError
from alpage.product import Context, Derive, Observe
from alpage.timeaxis import Calendar

# A worker with every import done and its kernels compiled, as measured by benchmarks/fused.py.
BASE_BYTES = 420 * 2**20
# The part of a worker's memory that a plan may fill: below dask's own limits (0.7 spills).
USABLE = 0.65
# Digital numbers, quality, and what a function makes of them, per band and pixel of a batch.
BATCH_BYTES_PER_BAND = 8
# Acquisitions of a tile are rarely denser than one in two days.
OBSERVED_FRACTION = 0.5


def batch_px(layout: Layout, memory_gib: float, context: Context) -> int:
    """Return how many pixels of one band an observing task may hold at once.

    Raises StudyError where not even one day of a tile fits beside the block's layers.
    """
    usable = memory_gib * 2**30 * USABLE - BASE_BYTES
    smallest = None
    for stage in layout.product.stages:
        if not isinstance(stage, Observe):
            continue
        dense = dense_bytes(layout, stage)
        day_px = (layout.grid.tile_px + 2 * stage.halo_px(context)) ** 2
        per_px = BATCH_BYTES_PER_BAND * (len(stage.bands) + 1)
        room = int((usable - dense) // per_px)
        if room < day_px:
            needed = (BASE_BYTES + dense + day_px * per_px) / USABLE / 2**30
            raise StudyError(
                f"cluster.memory_gib: expected at least {needed:.1f} for tiles of "
                f"{layout.grid.tile_px} px and windows of "
                f"{layout.axes[Calendar.DAY].window} days, got {memory_gib:g}; "
                "or make grid.tile_px or grid.window_days smaller"
            )
        # Larger batches than this gain nothing: eight fetches are under way anyway.
        room = min(room, 32 * day_px)
        smallest = room if smallest is None else min(smallest, room)
    return smallest or 1


def dense_bytes(layout: Layout, stage: Observe | Derive) -> int:
    """Return the bytes of a block's dense layers, and of one more while it is encoded."""
    area = layout.grid.tile_px**2
    sizes = [
        area * layout.axes[layer.calendar].window * _itemsize(layer.dtype) for layer in stage.layers
    ]
    return sum(sizes) + max(sizes, default=0)


def peak_bytes(layout: Layout, batch: int, context: Context) -> int:
    """Return the most memory that one worker will hold during a run."""
    peaks = [0]
    area = layout.grid.tile_px**2
    for stage in layout.product.stages:
        match stage:
            case Observe():
                per_px = BATCH_BYTES_PER_BAND * (len(stage.bands) + 1)
                peaks.append(dense_bytes(layout, stage) + batch * per_px)
            case Derive():
                peaks.append(dense_bytes(layout, stage) + area * _read_slots(layout, stage))
            case _:
                pass
    return BASE_BYTES + max(peaks)


def _read_slots(layout: Layout, stage: Derive) -> int:
    """Bytes per pixel of the layers that a deriving block reads."""
    calendar = layout.product.layer(stage.reads[0]).calendar
    axis = layout.axes[stage.layers[0].calendar]
    about = axis.block_span(axis.first_block)
    slots = len(about.on(calendar, margin_days=stage.margin_days))
    if calendar is Calendar.DAY:
        slots = int(slots * OBSERVED_FRACTION)
    return slots * sum(_itemsize(layout.product.layer(path).dtype) for path in stage.reads)


def _itemsize(dtype: str) -> int:
    return int(dtype.removeprefix("u").removeprefix("int")) // 8
