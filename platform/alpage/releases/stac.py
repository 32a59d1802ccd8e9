"""The STAC Collection of a release, as plain JSON.

STAC 1.1.0 with the extensions datacube 2.3.0, projection 2.0.0, processing 1.2.0
and version 1.2.0. As the STAC Zarr best practices have it, one store that grows
in time is a Collection whose assets are the store's groups.
"""

import datetime as dt
import json
import platform
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from alpage.cube.place import is_local, local_path
from alpage.releases.contents import Contents, Group, Variable
from alpage.releases.geozarr import bounds, projection
from alpage.releases.naming import COLLECTION
from alpage.timeaxis import Calendar

STORE = "cube.zarr"
MAPS = "maps"
"""Group of the store that holds a pyramid of each group of layers."""
CUBE = "alpage:cube"
"""Key of what tells a cube from others of its name."""
EXTENSIONS = {
    name: f"https://stac-extensions.github.io/{name}/v{number}/schema.json"
    for name, number in (
        ("datacube", "2.3.0"),
        ("projection", "2.0.0"),
        ("processing", "1.2.0"),
        ("version", "1.2.0"),
    )
}
_FOLDERS = re.compile(r"(?<![\w/:.~-])/(?:[^/\s'\":]+/)*")
ZARR = "application/vnd.zarr; version=3"
PYRAMID = f"{ZARR}; profile=multiscales"
PARQUET = "application/vnd.apache.parquet"
JSON = "application/json"
SOFTWARE = ("alpage", "icechunk", "numba", "numpy", "zarr")
# ISO 8601 durations; a dekad has 8 to 11 days, which STAC tells by null.
STEPS = {
    Calendar.DAY: "P1D",
    Calendar.DEKAD: None,
    Calendar.MONTH: "P1M",
    Calendar.SEASON: "P1Y",
    Calendar.YEAR: "P1Y",
}


@dataclass(frozen=True)
class About:
    """What a cube does not know of itself, but its readers want to."""

    id: str
    """Of the collection: the same for every release of a cube."""
    title: str
    description: str = ""
    license: str = "other"
    """An SPDX expression, or other."""
    keywords: tuple[str, ...] = ()
    providers: tuple[Mapping[str, Any], ...] = ()
    archive: str | None = None
    """Where the imagery was searched; told to readers where it is a URL."""
    preview: str = ""
    """Path of the layer that a preview shows, such as day/ndvi."""
    zones: Mapping[str, BaseGeometry] = field(default_factory=dict)
    """Outlines of the zones by id, EPSG:4326."""


@dataclass(frozen=True)
class Issue:
    """Which state of a cube a release is."""

    release: str
    snapshot: str
    cube: Mapping[str, str]
    """When its cube was made, to the microsecond, and a digest of where it lies."""
    created: dt.datetime
    n_scenes: int | None
    """Scenes that it was made from, where that is known."""
    files: tuple[str, ...]
    """Names of the files beside the store: tables and preview."""
    predecessor: str | None = None
    """The release that readers had before."""


def build_collection(contents: Contents, about: About, issue: Issue) -> dict[str, Any]:
    """Return the Collection of a release; its hrefs start at the release's own folder."""
    first, last = contents.identity["period"]
    crs = CRS.from_user_input(contents.grid.crs)
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    left, bottom, right, top = bounds(contents.grid)
    bbox = to_degrees.transform_bounds(left, bottom, right, top, densify_pts=41)
    collection: dict[str, Any] = {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS.values()),
        "id": about.id,
        "title": about.title,
        "description": about.description or about.title,
        "license": about.license,
        "keywords": list(about.keywords),
        "providers": _providers(contents, about, issue),
        "extent": {
            "spatial": {"bbox": [[round(edge, 7) for edge in bbox]]},
            "temporal": {"interval": [[f"{first}T00:00:00Z", f"{last}T23:59:59Z"]]},
        },
        "version": issue.release,
        "created": _spelled(issue.created),
        "updated": _spelled(issue.created),
        CUBE: dict(issue.cube),
        "alpage:snapshot": issue.snapshot,
        "summaries": {key: [value] for key, value in projection(contents.grid).items()},
        "cube:dimensions": {
            **_spatial_dimensions(contents),
            "time": {
                "type": "temporal",
                "extent": [f"{first}T00:00:00Z", f"{last}T23:59:59Z"],
                "step": None,
                "description": "Each group has its own calendar.",
            },
        },
        "cube:variables": {
            f"{group.path}/{variable.name}": _variable(variable)
            for group in contents.layers
            for variable in group.variables
        },
        "assets": _assets(contents, issue),
        "links": _links(about, issue),
    }
    return collection


def pointer(collection: Mapping[str, Any], release: str) -> dict[str, Any]:
    """Return a release's Collection as it reads from the folder of all releases.

    >>> link = {"rel": "predecessor-version", "href": "../old/collection.json"}
    >>> pointer({"links": [link], "assets": {"day": {"href": "./cube.zarr/day"}}}, "new")["assets"]
    {'day': {'href': './new/cube.zarr/day'}}
    """
    links = [link for link in collection["links"] if link["rel"] != "latest-version"]
    canonical = {"rel": "canonical", "href": f"./{COLLECTION}", "type": JSON}
    return {
        **collection,
        "assets": {key: _moved(asset, release) for key, asset in collection["assets"].items()},
        "links": [_moved(link, release) for link in (*links, canonical)],
    }


def public_href(href: str) -> str:
    """Return what readers may know of an href.

    Of a URL all but what may sign it: user, password, query, fragment. Of a file of this machine
    its name alone: it tells which image was used, its folders tell of the machine and its users.

    >>> public_href("https://me:pw@host/a.tif?sig=secret"), public_href("/home/me/S2A/B04.tif")
    ('https://host/a.tif', 'B04.tif')
    """
    if is_local(href):
        return local_path(href).name
    parts = urlsplit(href)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def public_text(text: str) -> str:
    """Return a text in which files of this machine are told by their name alone.

    >>> public_text("band red: /home/me/S2A/B04.tif: truncated, see https://example.org/a/b")
    'band red: B04.tif: truncated, see https://example.org/a/b'
    """
    return _FOLDERS.sub("", text)


def _moved(holder: Mapping[str, Any], release: str) -> dict[str, Any]:
    if "://" in holder["href"]:
        return dict(holder)
    return {**holder, "href": "./" + posixpath.normpath(posixpath.join(release, holder["href"]))}


def _links(about: About, issue: Issue) -> list[dict[str, Any]]:
    links = [
        {"rel": "store", "href": f"./{STORE}", "type": ZARR, "title": "Root of the Zarr store"},
        {"rel": "latest-version", "href": f"../{COLLECTION}", "type": JSON},
    ]
    if about.archive and about.archive.startswith(("http://", "https://", "s3://")):
        links.append({"rel": "derived_from", "href": public_href(about.archive), "type": JSON})
    if issue.predecessor:
        href = f"../{issue.predecessor}/{COLLECTION}"
        links.append({"rel": "predecessor-version", "href": href, "type": JSON})
    return links


def _providers(contents: Contents, about: About, issue: Issue) -> list[dict[str, Any]]:
    """The processing is told of the first processor, which is alpage where none is named."""
    identity = contents.identity
    scenes = "scenes"
    if issue.n_scenes is not None:
        scenes = f"{issue.n_scenes} scene{'' if issue.n_scenes == 1 else 's'}"
    lineage = (
        f"Product {identity['product']} {identity['version']}, from {scenes} between "
        f"{identity['period'][0]} and {identity['period'][1]}"
    )
    if parameters := identity.get("parameters"):
        lineage += f", with parameters {json.dumps(parameters, sort_keys=True)}"
    if quarantined := identity.get("quarantined"):
        lineage += f"; quarantined, so not used: {len(quarantined)}"
    processing = {
        "processing:level": "L3",
        "processing:lineage": f"{lineage}.",
        "processing:version": str(identity["version"]),
        "processing:datetime": _spelled(issue.created),
        "processing:software": {
            **{name: version(name) for name in SOFTWARE},
            "python": platform.python_version(),
        },
    }
    providers = [dict(provider) for provider in about.providers]
    if not any("processor" in provider.get("roles", ()) for provider in providers):
        providers.append({"name": "alpage", "roles": ["processor"]})
    processor = next(one for one in providers if "processor" in one.get("roles", ()))
    processor.update(processing)
    return providers


def _assets(contents: Contents, issue: Issue) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for group in contents.layers:
        assets[group.path] = told = _group_asset(contents, group)
        assets[f"{MAPS}-{group.path}"] = {
            **told,
            "href": f"./{STORE}/{MAPS}/{group.path}",
            "type": PYRAMID,
            "title": f"Maps by {group.calendar.value}, at several resolutions",
        }
    for name in issue.files:
        key, _, suffix = name.rpartition(".")
        if suffix == "png":
            told = {"type": "image/png", "title": "Preview", "roles": ["thumbnail", "overview"]}
        elif key == "scenes":
            title = "Scenes that this was made from, as stac-geoparquet"
            told = {"type": PARQUET, "title": title, "roles": ["metadata"]}
        else:
            title = f"Series per zone by {key.removeprefix('series-')}, as GeoParquet"
            told = {"type": PARQUET, "title": title, "roles": ["data"]}
        assets[key] = {"href": f"./{name}", **told}
    return assets


def _group_asset(contents: Contents, group: Group) -> dict[str, Any]:
    grid, span = contents.grid, group.span
    return {
        "href": f"./{STORE}/{group.path}",
        "type": ZARR,
        "title": f"Layers by {group.calendar.value}",
        "roles": ["data"],
        "bands": [_band(variable) for variable in group.variables],
        "cube:dimensions": {
            **_spatial_dimensions(contents),
            "time": {
                "type": "temporal",
                "extent": [f"{span.first_day}T00:00:00Z", f"{span.last_day}T23:59:59Z"],
                "step": STEPS[group.calendar],
            },
        },
        "cube:variables": {variable.name: _variable(variable) for variable in group.variables},
        **projection(grid),
        "proj:shape": list(grid.shape_yx),
        "proj:transform": [float(number) for number in list(grid.transform)[:6]],
        "proj:bbox": bounds(grid),
    }


def _spatial_dimensions(contents: Contents) -> dict[str, Any]:
    grid = contents.grid
    left, bottom, right, top = bounds(grid)
    crs = CRS.from_user_input(grid.crs)
    system: int | str = crs.to_epsg() or crs.to_wkt()
    edges = {"x": (left, right, grid.transform.a), "y": (bottom, top, grid.transform.e)}
    return {
        axis: {
            "type": "spatial",
            "axis": axis,
            "extent": [low, high],
            "step": abs(float(step)),
            "reference_system": system,
        }
        for axis, (low, high, step) in edges.items()
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {"type": "data", "dimensions": list(variable.dimensions), **_common(variable)}


def _band(variable: Variable) -> dict[str, Any]:
    return {"name": variable.name, **_common(variable)}


def _common(variable: Variable) -> dict[str, Any]:
    """What STAC 1.1 calls common metadata of values, as they are stored."""
    attributes = variable.attributes
    told = {
        "description": attributes.get("long_name"),
        "data_type": variable.dtype,
        "nodata": variable.nodata,
        "unit": attributes.get("units"),
    }
    return {key: value for key, value in told.items() if value not in (None, "")}


def _spelled(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
