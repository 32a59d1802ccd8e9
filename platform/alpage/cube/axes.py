"""The time axes of a cube: whole blocks, numbered from the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from alpage.product import Product
from alpage.timeaxis import Calendar, Span, nested_slots, slot_of, start_of


@dataclass(frozen=True)
class Axis:
    """The time axis of one group, in whole blocks numbered from the epoch."""

    calendar: Calendar
    segment: Calendar
    """What a block is: one slot of it, or for days a window."""
    window: int
    """Slots of the calendar in one block."""
    first_block: int
    n_blocks: int

    @property
    def blocks(self) -> range:
        """Numbers of the blocks."""
        return range(self.first_block, self.first_block + self.n_blocks)

    @property
    def span(self) -> Span:
        """Every slot of the axis."""
        first, last = self.block_span(self.first_block), self.block_span(self.blocks[-1])
        return Span(self.calendar, first.start, last.stop)

    def block_span(self, block: int) -> Span:
        """Return the slots of one block."""
        if self.segment is Calendar.DAY:
            start = block * self.window
        else:
            start = int(slot_of(self.calendar, start_of(self.segment, block)))
        return Span(self.calendar, start, start + self.window)

    def blocks_of(self, span: Span) -> range:
        """Return the numbers of the blocks that hold any day of a span, on this axis or not."""
        if self.segment is Calendar.DAY:
            return span.on(Calendar.DAY).windows(self.window)
        on = span.on(self.segment)
        return range(on.start, on.stop)

    def joined(self, other: "Axis") -> "Axis":
        """Return the axis that holds both."""
        first = min(self.first_block, other.first_block)
        last = max(self.blocks[-1], other.blocks[-1])
        return replace(self, first_block=first, n_blocks=last - first + 1)

    def to_json(self) -> dict[str, Any]:
        """Return what rebuilds the axis."""
        return {
            "segment": self.segment.value,
            "window": self.window,
            "first_block": self.first_block,
            "n_blocks": self.n_blocks,
        }

    @classmethod
    def from_json(cls, calendar: str, value: Mapping[str, Any]) -> "Axis":
        """Rebuild an axis from `to_json`."""
        return cls(
            Calendar(calendar),
            Calendar(value["segment"]),
            value["window"],
            value["first_block"],
            value["n_blocks"],
        )


def axes_to_json(axes: Mapping[Calendar, Axis]) -> dict[str, Any]:
    """Return what rebuilds the axes of a cube, by the calendar's name."""
    return {calendar.value: axis.to_json() for calendar, axis in axes.items()}


def axes_from_json(value: Mapping[str, Any]) -> dict[Calendar, Axis]:
    """Rebuild the axes of a cube from `axes_to_json`."""
    return {Calendar(name): Axis.from_json(name, axis) for name, axis in value.items()}


def axes_for(product: Product, period: Span, window_days: int) -> dict[Calendar, Axis]:
    """Return the axis of each group of a product over a period of days."""
    axes = {}
    for calendar, segment in product.segments.items():
        if segment is Calendar.DAY:
            window, blocks = window_days, period.windows(window_days)
        else:
            window, on = nested_slots(calendar, segment), period.on(segment)
            blocks = range(on.start, on.stop)
        axes[calendar] = Axis(calendar, segment, window, blocks[0], len(blocks))
    return axes
