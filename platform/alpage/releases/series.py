"""Series per zone as GeoParquet: one row per zone and slot."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import zarr
from numpy.typing import NDArray
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from alpage.releases.contents import Group

ZONES_AT_ONCE = 256
# Outlines repeat on every row of a zone: they are worth a large dictionary.
DICTIONARY_BYTES = 64 * 2**20


def write_series(
    root: zarr.Group, group: Group, zones: Mapping[str, BaseGeometry], path: Path
) -> int:
    """Write the series of one calendar to a GeoParquet file; return the number of rows.

    Columns are zone, name, area_m2, time (first day of the slot), one per series, and
    geometry (the zone in EPSG:4326; null for a zone without one). Slots in which no series of
    a zone has a value are left out. Few zones are in memory at once.
    """
    schema = _schema(group)
    geo = json.dumps(_geo(list(zones.values())))
    rows = 0
    # Without Arrow's own schema, which would have readers take the dictionaries as they are.
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
    ) as writer:
        for table in _tables(root, group, zones, schema):
            writer.write_table(table)
            rows += table.num_rows
        writer.add_key_value_metadata({"geo": geo})
    return rows


def _tables(
    root: zarr.Group, group: Group, zones: Mapping[str, BaseGeometry], schema: pa.Schema
) -> Iterator[pa.Table]:
    source = root[group.path]
    ids = [str(zone) for zone in source["zone"][:]]
    names = [str(name) for name in source["zone_name"][:]]
    areas = np.asarray(source["zone_area"][:])
    outlines = [shapely.to_wkb(zones[zone]) if zone in zones else None for zone in ids]
    dates = group.span.dates.astype("datetime64[ms]")
    for start in range(0, len(ids), ZONES_AT_ONCE):
        part = slice(start, start + ZONES_AT_ONCE)
        values = {v.name: np.asarray(source[v.name][part]) for v in group.variables}
        told = np.any([np.isfinite(array) for array in values.values()], axis=0)
        zone, slot = np.nonzero(told)
        columns = {
            "zone": _repeated(ids[part], zone),
            "name": _repeated(names[part], zone),
            "area_m2": pa.array(areas[part][zone]),
            "time": pa.array(dates[slot]),
            **{name: pa.array(array[told], from_pandas=True) for name, array in values.items()},
            "geometry": _repeated(outlines[part], zone),
        }
        yield pa.table(columns, schema=schema)


def _repeated(values: list[str] | list[bytes | None], index: NDArray[np.intp]) -> pa.Array:
    """Values by their place in a list, each held once however often it is told."""
    kind = pa.string() if isinstance(values[0], str) else pa.binary()
    return pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), pa.array(values, kind))


def _schema(group: Group) -> pa.Schema:
    fields = [
        pa.field("zone", pa.dictionary(pa.int32(), pa.string())),
        pa.field("name", pa.dictionary(pa.int32(), pa.string())),
        pa.field("area_m2", pa.float64()),
        pa.field("time", pa.timestamp("ms")),
        *(pa.field(variable.name, pa.float64()) for variable in group.variables),
        pa.field("geometry", pa.dictionary(pa.int32(), pa.binary())),
    ]
    return pa.schema(fields)


def _geo(outlines: list[BaseGeometry]) -> dict[str, object]:
    """The file's metadata by GeoParquet 1.1.0."""
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": sorted({outline.geom_type for outline in outlines}),
        "crs": CRS.from_user_input("OGC:CRS84").to_json_dict(),
    }
    if outlines:
        column["bbox"] = [float(edge) for edge in shapely.total_bounds(outlines)]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
