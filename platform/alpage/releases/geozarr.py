"""GeoZarr attributes: the proj, spatial and multiscales conventions of Zarr, v0.1, beside CF's.

A group's CRS is inherited by its direct children alone, and readers differ in
where they look: so root, groups and arrays all say it.

Source: github.com/zarr-conventions/proj, /spatial and /multiscales, tag v0.1.
"""

from collections.abc import Sequence
from typing import Any

from pyproj import CRS

from alpage.grid import Grid

CONVENTIONS = (
    (
        "proj",
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
)
MULTISCALES = (
    "multiscales",
    "d35379db-88df-4056-af3a-620245f8e347",
    "Multiscale layout of zarr datasets",
)
SITE = "https://raw.githubusercontent.com/zarr-conventions"


def geozarr_attributes(grid: Grid) -> dict[str, Any]:
    """Return the attributes that place a node of a Zarr hierarchy on the ground.

    >>> from odc.geo.geobox import GeoBox
    >>> grid = Grid(GeoBox.from_bbox((0, 0, 20, 10), "EPSG:32631", resolution=10), 2)
    >>> attributes = geozarr_attributes(grid)
    >>> attributes["proj:code"], attributes["spatial:transform"]
    ('EPSG:32631', [10.0, 0.0, 0.0, 0.0, -10.0, 10.0])
    """
    return {
        "zarr_conventions": [_convention(*told) for told in CONVENTIONS],
        **projection(grid),
        "spatial:dimensions": ["y", "x"],
        **_pixels(grid),
        "spatial:bbox": bounds(grid),
        "spatial:registration": "pixel",
    }


def multiscales_attributes(grids: Sequence[Grid], method: str | None) -> dict[str, Any]:
    """Return the attributes of a group whose children 0, 1 ... hold the levels of a pyramid.

    `method` is how each level was made of the one before; None where that differs by layer.
    """
    attributes = geozarr_attributes(grids[0])
    layout: list[dict[str, Any]] = []
    for number, grid in enumerate(grids):
        entry: dict[str, Any] = {"asset": str(number), **_pixels(grid)}
        if number:
            entry["derived_from"] = str(number - 1)
            entry["transform"] = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
        layout.append(entry)
    told = {} if method is None else {"resampling_method": method}
    attributes["zarr_conventions"].append(_convention(*MULTISCALES))
    return {**attributes, "multiscales": {"layout": layout, **told}}


def _convention(name: str, uuid: str, description: str) -> dict[str, str]:
    return {
        "schema_url": f"{SITE}/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }


def _pixels(grid: Grid) -> dict[str, Any]:
    return {
        "spatial:shape": list(grid.shape_yx),
        "spatial:transform": [float(number) for number in list(grid.transform)[:6]],
    }


def projection(grid: Grid) -> dict[str, str]:
    """Return the CRS as an authority's code, or as WKT2 where it has none."""
    crs = CRS.from_user_input(grid.crs)
    authority = crs.to_authority()
    return {"proj:code": ":".join(authority)} if authority else {"proj:wkt2": crs.to_wkt()}


def bounds(grid: Grid) -> list[float]:
    """Return left, bottom, right and top of the pixels' outer edges, in the grid's CRS."""
    return [float(edge) for edge in grid.geobox.boundingbox.bbox]
