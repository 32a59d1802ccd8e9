"""What the functions of products return: checked, cut to the area, counted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.cube.layout import STATISTICS
from alpage.engine.task import Job
from alpage.errors import ProductError
from alpage.product import Derive, Layer, Observe
from alpage.science.statistics import filled_statistics
from alpage.timeaxis import Span


def layer_of(
    stage: str, found: Mapping[str, Any], layer: Layer, steps: int, area: NDArray[np.bool_]
) -> NDArray[Any]:
    """Return a layer (steps, y, x) as a stage's function made it, with fill outside the area.

    Tiles that the area (y, x) does not touch are never computed, so the other pixels outside of it
    hold nothing either. Raises ProductError for another shape or dtype.
    """
    values, shape = named(stage, found, layer.name), (steps, *area.shape)
    if values.shape != shape or values.dtype != np.dtype(layer.dtype):
        raise ProductError(
            f"stage {stage}, layer {layer.name}: expected {layer.dtype} {shape}, "
            f"got {values.dtype} {values.shape}; mend its function"
        )
    return values if area.all() else np.where(area, values, values.dtype.type(layer.fill))


def table_of(stage: str, found: Any, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a table as a stage's function made it; raises ProductError where it does not fit."""
    rows = named(stage, found, name)
    if rows.shape != shape or rows.dtype.kind not in "iu":
        raise ProductError(
            f"stage {stage}, table {name}: expected integers {shape}, got {rows.dtype} "
            f"{rows.shape}; mend its function"
        )
    return rows


def named(stage: str, found: Any, name: str) -> NDArray[Any]:
    """Return one of the arrays that a stage's function returned."""
    if not isinstance(found, Mapping) or name not in found:
        got = ", ".join(sorted(found)) if isinstance(found, Mapping) else type(found).__name__
        raise ProductError(
            f"stage {stage}: expected {name!r} among the arrays that its function returns by "
            f"name, got {got or 'none'}"
        )
    return np.asarray(found[name])


def check_names(stage: Observe | Derive, found: Any) -> None:
    """Raise ProductError where a stage's function returned what the stage does not declare."""
    tables = stage.tables if isinstance(stage, Observe) else ()
    declared = {*(layer.name for layer in stage.layers), *(table.name for table in tables)}
    if isinstance(found, Mapping) and (others := sorted(map(str, found.keys() - declared))):
        raise ProductError(
            f"stage {stage.name}: its function returned {', '.join(others)}, which the stage does "
            f"not declare; it declares {', '.join(sorted(declared))}"
        )


def write_partial(
    job: Job, path: str, span: Span, table: NDArray[np.int64], *, by_zone: bool
) -> None:
    """Write one tile's table of a span, zero for the zones that do not touch it."""
    layout, array = job.layout, job.root[path]
    start = span.start - layout.axes[span.calendar].span.start
    whole = np.zeros((len(span), *array.shape[2:]), dtype=np.int64)
    if by_zone:
        whole[:, job.zones.zones] = table
    else:
        whole[:] = table
    array[layout.grid.number(job.tile), start : start + len(span)] = whole


class Statistics:
    """Statistics of the layers of one block, added up over batches of days."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._layers = layers
        self.array = np.zeros((len(layers), len(STATISTICS)), dtype=np.int64)

    def add(self, layer: Layer, values: NDArray[Any], area_px: int) -> None:
        """Count the pixels of some slots, those within the area."""
        row = self.array[self._layers.index(layer)]
        count, low, high, total = filled_statistics(values, layer.fill)
        row[0] += len(values) * area_px
        if count:
            row[2] = low if row[1] == 0 else min(row[2], low)
            row[3] = high if row[1] == 0 else max(row[3], high)
            row[1] += count
            row[4] += total
