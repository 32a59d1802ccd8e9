"""CF attributes of coordinates and layers, so that readers without alpage understand them.

Source: CF conventions 1.11, sections 3 (units, flags), 4 (coordinates), 5.6
(grid mappings), 8.1 (packed data).
"""

from typing import Any

from odc.geo.geobox import GeoBox
from pyproj import CRS

from alpage.grid import Grid
from alpage.product import Layer


def coordinate_attributes(grid: Grid, name: str) -> dict[str, Any]:
    """Return the CF attributes of a grid's y or x coordinate."""
    axis = CRS.from_user_input(grid.crs)
    unit = axis.axis_info[0].unit_name if axis.axis_info else "metre"
    return {
        "standard_name": f"projection_{name}_coordinate",
        "long_name": f"{name} of pixel centres",
        "units": "m" if unit == "metre" else unit,
        "axis": name.upper(),
    }


def grid_mapping_attributes(grid: Grid) -> dict[str, Any]:
    """Return the CF grid mapping of a grid, with GDAL's GeoTransform beside it."""
    geobox: GeoBox = grid.geobox
    attributes = dict(CRS.from_user_input(grid.crs).to_cf())
    a, b, c, d, e, f = list(geobox.transform)[:6]
    attributes["GeoTransform"] = f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"
    return attributes


def layer_attributes(layer: Layer) -> dict[str, Any]:
    """Return the CF attributes of a layer: packing, units, flags.

    Codes keep their integers: a layer with flags has no `_FillValue`, for its
    empty pixels are one of the codes.
    """
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref", "long_name": layer.long_name}
    if layer.standard_name:
        attributes["standard_name"] = layer.standard_name
    if layer.cell_methods:
        attributes["cell_methods"] = layer.cell_methods
    if layer.flags:
        kind = "flag_masks" if layer.flags_are_bits else "flag_values"
        attributes[kind] = list(layer.flags.values())
        attributes["flag_meanings"] = " ".join(layer.flags)
        return attributes
    attributes["units"] = layer.units
    attributes["_FillValue"] = layer.fill
    if layer.scale != 1.0:
        attributes["scale_factor"] = layer.scale
    if layer.valid_range is not None:
        attributes["valid_range"] = list(layer.valid_range)
    return attributes
