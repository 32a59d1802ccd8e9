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
from alpage.product import Gather, Observe, Product, Summarise, Zone
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
    code: Mapping[str, str],
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
        "declared": declared(product),
        "code": dict(code),
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
        "zone_pixels": [zone.pixels for zone, _ in zones],
    }


def declared(product: Product) -> dict[str, str]:
    """Return what a cube's arrays follow from, by stage, layer, table and series.

    >>> from alpage.products.snow import snow
    >>> declared(snow)["season/scd"]
    'uint16, fill 65535, scale 1.0, units d'
    """
    told = {}
    for layer in product.layers:
        told[layer.path] = (
            f"{layer.dtype}, fill {layer.fill}, scale {layer.scale}, units {layer.units}"
        )
        if layer.flags:
            told[layer.path] += f", flags {dict(layer.flags)}"
    for stage in product.stages:
        told[f"stage {stage.name}"] = type(stage).__name__
        match stage:
            case Observe():
                told |= {
                    f"{stage.name}/{table.name}": f"table{' by zone' * table.by_zone}"
                    for table in stage.tables
                }
            case Gather():
                told[f"{stage.name}/result"] = f"table{' by zone' * stage.by_zone}"
            case Summarise():
                told |= {
                    f"{stage.name}/{series.name}": f"series, units {series.units}"
                    for series in stage.series
                }
            case _:
                pass
    return told


def check_product(product: Product, cube: Mapping[str, Any], what: str) -> None:
    """Raise CubeError where a cube, called `what`, holds another product's arrays."""
    for key, asked in (("product", product.name), ("version", product.version)):
        if cube[key] != asked:
            raise _other(what, key, cube[key], asked)
    # Cubes of before say nothing of it.
    now = declared(product)
    there = cube.get("declared", now)
    if differing := sorted(name for name in {*there, *now} if there.get(name) != now.get(name)):
        name = differing[0]
        raise CubeError(
            f"cube: {what} was made by version {product.version} of {product.name} with {name} "
            f"({there.get(name, 'not there')}), which is now {now.get(name, 'not there')}; give "
            "the product another version and the study another cube, or change it back"
        )


def check_goes_on(
    study: Study, cube: Mapping[str, Any], about: Mapping[str, Any], what: str
) -> None:
    """Raise CubeError where a cube is another study's, or none that this one may lengthen.

    `cube` is what it says of itself, `about` what the study would have it say, `what` its name.
    """
    for key in IDENTITY_KEYS:
        if cube.get(key) != about[key]:
            there, asked = (_told(key, one.get(key)) for one in (cube, about))
            if there == asked:
                asked = "another of the same extent"
            raise _other(what, key, there, asked)
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


def _other(what: str, key: str, there: str, asked: str) -> CubeError:
    return CubeError(
        f"cube: {what} was made with {key} {there}, this study asks for {asked}; give it another "
        f"cube, or the cube's own {key}"
    )


def _told(key: str, value: Any) -> str:
    """What of a part of the identity says something to people."""
    shown = {"area": "bounds", "dem": "range_m"}
    if key in shown and value is not None:
        value = value[shown[key]]
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 200 else text[:197] + "..."
