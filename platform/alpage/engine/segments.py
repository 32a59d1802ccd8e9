"""The time that a block of a stage is about."""

from alpage.cube.layout import Layout
from alpage.product import Derive, Summarise
from alpage.timeaxis import Calendar, Span


def segment_span(layout: Layout, stage: Derive | Summarise, block: int) -> Span:
    """Return the slots that a block of a stage is about, on the calendar that names its blocks."""
    if isinstance(stage, Summarise):
        return layout.axes[layout.product.layer(stage.reads[0]).calendar].block_span(block)
    if stage.segment is Calendar.DAY:
        return layout.axes[Calendar.DAY].block_span(block)
    return Span(stage.segment, block, block + 1)
