"""What every task of a run needs to know: sent to each worker once, and unpacked there."""

import functools
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from pydantic import BaseModel
from shapely.geometry.base import BaseGeometry

from alpage.cube.axes import axes_from_json, axes_to_json
from alpage.cube.layout import Layout
from alpage.engine.code import code_digests
from alpage.engine.header import CogHeader
from alpage.errors import ProductError
from alpage.grid import Grid
from alpage.product import Context, Product
from alpage.study import Study, make_study


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
    code: Mapping[str, str]
    """Digests of the product's code, which workers must have too."""
    area: BaseGeometry | None = None
    """The study's area in the grid's CRS, as workers need it."""


told: dict[str, bytes] = {}
"""What runs told this process, by the name that their tasks carry: a worker may serve several."""


def pack(study: Study, shared: Shared, area: BaseGeometry) -> bytes:
    """Return the packed form of a run's constants: products travel by name, never as code."""
    text = {
        "study": study.model_dump_json(),
        "folder": str(study.folder),
        "grid": shared.layout.grid.to_json(),
        "axes": axes_to_json(shared.layout.axes),
        "table_shapes": dict(shared.layout.table_shapes),
        "context": shared.context,
        "dem": shared.dem,
        "batch_days": shared.batch_days,
        "product": (shared.product.name, shared.product.version, dict(shared.code)),
        "area": shapely.to_wkb(area),
    }
    return pickle.dumps(text)


@functools.lru_cache(maxsize=4)
def unpack(name: str) -> Shared:
    """Return a run's constants, from the worker's memory after the first time."""
    text: dict[str, Any] = pickle.loads(told[name])  # noqa: S301 - what `pack` made
    study = make_study(json.loads(text["study"]), folder=Path(text["folder"]))
    product = study.load_product()
    code = code_digests(product, *study.product_place)
    if (product.name, product.version, code) != text["product"]:
        raise ProductError(
            f"product: a worker has other code of {study.product} than this run was planned with; "
            "start anew what imported it before it was edited, this Python or the workers, or give "
            "the workers the image that has it"
        )
    context: Context = text["context"]
    layout = Layout(
        product,
        Grid.from_json(text["grid"]),
        axes_from_json(text["axes"]),
        context.zones,
        text["table_shapes"],
    )
    # Not prepared: the threads of a worker share it, and GEOS forbids that (libgeos/geos#825).
    area = shapely.from_wkb(text["area"])
    parameters = study.load_parameters(product)
    return Shared(product, parameters, layout, context, text["dem"], text["batch_days"], code, area)
