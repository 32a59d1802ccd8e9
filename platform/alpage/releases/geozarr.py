"""GeoZarr attributes: the proj and spatial conventions of Zarr, v0.1, beside those of CF.

A group's CRS is inherited by its direct children alone, and readers differ in
where they look: so root, groups and arrays all say it.

Source: github.com/zarr-conventions/proj and /spatial, tag v0.1.
"""

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
        "zarr_conventions": [
            {
                "schema_url": f"{SITE}/{name}/refs/tags/v0.1/schema.json",
                "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
                "uuid": uuid,
                "name": name,
                "description": description,
            }
            for name, uuid, description in CONVENTIONS
        ],
        **projection(grid),
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(grid.shape_yx),
        "spatial:transform": [float(number) for number in list(grid.transform)[:6]],
        "spatial:bbox": bounds(grid),
        "spatial:registration": "pixel",
    }


def projection(grid: Grid) -> dict[str, str]:
    """Return the CRS as an authority's code, or as WKT2 where it has none."""
    crs = CRS.from_user_input(grid.crs)
    authority = crs.to_authority()
    return {"proj:code": ":".join(authority)} if authority else {"proj:wkt2": crs.to_wkt()}


def bounds(grid: Grid) -> list[float]:
    """Return left, bottom, right and top of the pixels' outer edges, in the grid's CRS."""
    return [float(edge) for edge in grid.geobox.boundingbox.bbox]
