"""Check a release's documents against the published JSON schemas, without a network.

`schemas/README.md` tells where each came from, and which could not be had.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pyproj.datadir
from pystac import STACObjectType
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from referencing import Registry, Resource

STAC_SITE = "https://stac-extensions.github.io"
PROJJSON = tuple(f"https://proj.org/schemas/v{n}/projjson.schema.json" for n in ("0.4", "0.7"))
# By identifier of the extension: the schema's file, and the identifier that it expects itself.
STAC_SCHEMAS = {
    f"{STAC_SITE}/{name}/v{asked}/schema.json": (
        f"{name}-v{held}.json",
        f"{STAC_SITE}/{name}/v{held}/schema.json",
    )
    for name, asked, held in (
        ("datacube", "2.3.0", "2.2.0"),
        ("projection", "2.0.0", "2.0.0"),
        ("version", "1.2.0", "1.2.0"),
    )
}
CONVENTIONS = ("proj", "spatial")


@dataclass(frozen=True)
class Checked:
    """What a document was checked against."""

    schemas: tuple[str, ...]
    """Identifiers of the schemas that it satisfies."""
    without_schema: tuple[str, ...]
    """Extensions that it uses, but that no schema here tells of."""


def validate_collection(collection: Mapping[str, Any]) -> Checked:
    """Return what a STAC 1.1 Collection satisfies.

    datacube 2.3.0 is checked by the schema of 2.2.0: what 2.3.0 adds, `nodata` and
    `data_type` of variables, that one leaves alone.

    Raises
    ------
    pystac.errors.STACValidationError
        The document breaks a schema; the message names the place.
    """
    validator = JsonSchemaSTACValidator()
    projjson = json.loads(_projjson_file().read_text())
    validator.schema_cache |= dict.fromkeys(PROJJSON, projjson)
    kind, number = STACObjectType.COLLECTION, str(collection["stac_version"])
    document = json.loads(json.dumps(collection))
    core = validator.validate_core(document, kind, number)
    checked, without = [str(core)], []
    for extension in collection.get("stac_extensions", ()):
        if extension not in STAC_SCHEMAS:
            without.append(extension)
            continue
        name, expected = STAC_SCHEMAS[extension]
        validator.schema_cache[expected] = _schema(name)
        asked = {**document, "stac_extensions": [expected]}
        validator.validate_extension(asked, kind, number, expected)
        checked.append(expected)
    return Checked(tuple(checked), tuple(without))


def validate_node(document: Mapping[str, Any]) -> None:
    """Check a zarr.json, of an array or a group, against the proj and spatial conventions v0.1.

    One that tells of multiscales is checked against that convention too.

    Raises
    ------
    jsonschema.ValidationError
        The attributes break a convention, or do not say that they follow it.
    """
    projjson = Resource.from_contents(json.loads(_projjson_file().read_text()))
    registry = Registry().with_resources([(url, projjson) for url in PROJJSON])
    scales = ("multiscales",) if "multiscales" in document["attributes"] else ()
    for name in (*CONVENTIONS, *scales):
        schema = _schema(f"zarr-{name}-v0.1.json")
        # The schemas say draft 7, in which the `required` beside their `$ref` counts for nothing.
        jsonschema.Draft202012Validator(schema, registry=registry).validate(document)


def _schema(name: str) -> dict[str, Any]:
    content = files("alpage.releases").joinpath("schemas", name).read_text()
    schema: dict[str, Any] = json.loads(content)
    return schema


def _projjson_file() -> Path:
    """PROJ brings its own schema, v0.7, which v0.4 has grown into."""
    return Path(pyproj.datadir.get_data_dir()) / "projjson.schema.json"
