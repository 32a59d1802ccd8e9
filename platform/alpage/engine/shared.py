"""What every task of a run needs to know: small, sent with the task, unpacked once a worker."""

import functools
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alpage.cube.axes import Axis
from alpage.cube.layout import Layout
from alpage.engine.header import CogHeader
from alpage.grid import Grid
from alpage.product import Context, Product
from alpage.study import make_study


@dataclass(frozen=True)
class Shared:
    """One run's constants, as a worker sees them."""

    product: Product
    parameters: BaseModel
    layout: Layout
    context: Context
    dem: CogHeader | None
    """Of the elevation raster."""
    batch_days: int
    """Days that an observing stage holds at once: bounds a task's memory."""


@dataclass(frozen=True)
class SharedText:
    """`Shared` before it is unpacked: products travel by name, never as code."""

    study: str
    folder: str
    grid: str
    axes: str
    table_shapes: dict[str, tuple[int, ...]]
    context: bytes
    dem: CogHeader | None
    batch_days: int


def pack(study_json: str, folder: Path, shared: Shared) -> SharedText:
    """Return the packed form of a run's constants."""
    axes = {calendar.value: axis.to_json() for calendar, axis in shared.layout.axes.items()}
    return SharedText(
        study_json,
        str(folder),
        json.dumps(shared.layout.grid.to_json()),
        json.dumps(axes),
        dict(shared.layout.table_shapes),
        pickle.dumps(shared.context),
        shared.dem,
        shared.batch_days,
    )


def unpack(text: SharedText) -> Shared:
    """Return a run's constants, from the worker's memory after the first time."""
    return _unpack(pickle.dumps(text))


@functools.lru_cache(maxsize=4)
def _unpack(packed: bytes) -> Shared:
    text: SharedText = pickle.loads(packed)  # noqa: S301 - what `pack` made, within one run
    study = make_study(json.loads(text.study), folder=Path(text.folder))
    product = study.load_product()
    context: Context = pickle.loads(text.context)  # noqa: S301
    axes: dict[str, Any] = json.loads(text.axes)
    layout = Layout(
        product,
        Grid.from_json(json.loads(text.grid)),
        {axis.calendar: axis for axis in (Axis.from_json(c, a) for c, a in axes.items())},
        context.zones,
        text.table_shapes,
    )
    parameters = study.load_parameters(product)
    return Shared(product, parameters, layout, context, text.dem, text.batch_days)
