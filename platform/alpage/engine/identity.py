"""What a cube says of itself, and whether a study may go on with it."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

import shapely
from pydantic import BaseModel
from shapely.geometry.base import BaseGeometry

from alpage.cube.ledger import digest
from alpage.engine.relief import Relief
from alpage.errors import CubeError
from alpage.grid import Grid
from alpage.product import Product, Zone
from alpage.study import Study

IDENTITY_KEYS = ("product", "version", "parameters", "area", "grid", "dem")


def geometry_digest(geometry: BaseGeometry) -> str:
    """Return the digest of an area or zone, as cubes and fingerprints tell it."""
    return str(digest(shapely.to_wkb(geometry, hex=True)))


def identity_of(
    study: Study,
    product: Product,
    parameters: BaseModel,
    grid: Grid,
    zones: Sequence[tuple[Zone, BaseGeometry]],
    relief: Relief | None,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what a study's cube will say of itself, given what it says `before` the run."""
    first, last = str(study.period.first), str(study.period.last)
    if before is not None:
        first, last = min(first, before["period"][0]), max(last, before["period"][1])
    area = study.geometry()
    return {
        "product": product.name,
        "version": product.version,
        "parameters": json.loads(parameters.model_dump_json()),
        "area": {
            "bounds": [round(edge, 7) for edge in area.bounds],
            "digest": geometry_digest(area),
        },
        "grid": grid.to_json(),
        "dem": None
        if relief is None
        else {"digest": relief.digest, "range_m": list(relief.range_m)},
        "relief": None if relief is None else {"file": relief.file, "counts": list(relief.counts)},
        "period": [first, last],
        "damaged": {} if before is None else before.get("damaged", {}),
        "zones": [
            {"id": zone.id, "name": zone.name, "digest": geometry_digest(outline)}
            for zone, outline in zones
        ],
    }


def check_goes_on(
    study: Study, cube: Mapping[str, Any], about: Mapping[str, Any], *, is_unfinished: bool
) -> None:
    """Raise CubeError where a cube is another study's, or none that this one may lengthen.

    `cube` is what it says of itself, `about` what the study would have it say.
    """
    what = f"an unfinished run of this study at {study.cube}" if is_unfinished else study.cube
    for key in IDENTITY_KEYS:
        if cube.get(key) != about[key]:
            raise CubeError(
                f"cube: {what} was made with {key} {_short(cube.get(key))}, this study "
                f"asks for {_short(about[key])}; give it another cube, or the cube's own {key}"
            )
    _check_period(study, *cube["period"])


def _check_period(study: Study, first: str, last: str) -> None:
    """Raises CubeError where days would be left between, which no run was ever asked for."""
    asked = study.period
    day = dt.timedelta(days=1)
    starts, ends = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    if asked.first <= ends + day and starts - day <= asked.last:
        return
    whole = f"{min(asked.first, starts)}/{max(asked.last, ends)}"
    raise CubeError(
        f"period: expected one that meets {first}/{last}, which {study.cube} holds, got "
        f"{asked.first}/{asked.last}: nobody has looked at the days between. Ask for {whole}, or "
        "give this study another cube"
    )


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 200 else text[:197] + "..."
