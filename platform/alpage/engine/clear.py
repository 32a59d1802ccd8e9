"""Empty a block that has nothing to read any more, as if it had never been computed."""

import numpy as np
import zarr

from alpage.cube.layout import Layout, partial_path
from alpage.cube.ledger import BlockId
from alpage.product import Gather, Observe, Stage, Summarise, stage_layers


def clear_block(layout: Layout, stage: Stage, block: BlockId, root: zarr.Group) -> None:
    """Take away the shards of a block, and empty its tables and series.

    Functions of products are not asked: they need not know what a block without a day is.
    """
    for layer in stage_layers(stage):
        place = layout.place(layer, block.tile, block.block)
        layout.shards(layer, root.store).write(place, None)
    calendar = layout.steps[block.step]
    axis = layout.axes[calendar]
    start = (block.block - axis.first_block) * axis.window
    slots = slice(start, start + axis.window)
    tile = layout.grid.number(block.tile)
    match stage:
        case Observe():
            for table in stage.tables:
                root[partial_path(stage.name, table.name)][tile, slots] = 0
        case Gather():
            root[f"ledger/{stage.name}/result"][slots] = np.nan
        case Summarise() if block.step == stage.name:
            root[partial_path(stage.name, stage.name)][tile, slots] = 0
        case Summarise():
            for series in stage.series:
                root[f"zones/{calendar.value}/{series.name}"][:, slots] = np.nan
