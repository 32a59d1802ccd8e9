"""How a cube lies in its store: groups, arrays, coordinates and their attributes.

    /                   what the cube is: attribute `alpage`
    /day, /dekad ...    one group per calendar: time, y, x, spatial_ref, layers
    /zones/<calendar>   series per zone
    /ledger/<step>      what was computed from what, see `alpage.cube.ledger`

Arrays begin at a whole block and are as long as whole blocks, so that a cube
grows in both directions by moving references, never data.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec

from alpage.cube.axes import Axis, axes_to_json
from alpage.cube.cf import coordinate_attributes, grid_mapping_attributes, layer_attributes
from alpage.cube.shards import DAYS, Shards, ShardShape, create_layer, inner_chunk
from alpage.grid import Grid
from alpage.product import Gather, Layer, Observe, Product, Summarise, Table, Zone
from alpage.timeaxis import Calendar

LEDGER_CHUNK = 64
SECONDS = ("read_seconds", "compute_seconds", "write_seconds")
COSTS = (
    *SECONDS,
    "bytes_read",
    "requests",
    "requests_again",
    "attempts",
)
STATISTICS = ("pixels", "filled", "minimum", "maximum", "sum")


@dataclass(frozen=True)
class Layout:
    """Everything that decides the arrays of a cube."""

    product: Product
    grid: Grid
    axes: Mapping[Calendar, Axis]
    zones: tuple[Zone, ...]
    table_shapes: Mapping[str, tuple[int, ...]]
    """Of one row of each table and gathered table, by name, without the zones."""

    @property
    def n_zones(self) -> int:
        """Number of zones."""
        return len(self.zones)

    @property
    def steps(self) -> dict[str, Calendar]:
        """The ledger's steps, in order, each with the calendar its blocks are counted on."""
        steps: dict[str, Calendar] = {}
        for stage in self.product.stages:
            match stage:
                case Observe() | Gather():
                    steps[stage.name] = Calendar.DAY
                case Summarise():
                    calendar = self.product.layer(stage.reads[0]).calendar
                    steps[stage.name] = calendar
                    steps[f"{stage.name}_total"] = calendar
                case _:
                    steps[stage.name] = stage.layers[0].calendar
        return steps

    def shard_shape(self, layer: Layer) -> ShardShape:
        """Return how a layer is cut: a block is a shard."""
        axis, tile = self.axes[layer.calendar], self.grid.tile_px
        steps = DAYS if layer.calendar is Calendar.DAY else axis.window
        side = inner_chunk(tile)
        dtype = np.dtype(layer.dtype).newbyteorder("<")
        return ShardShape((axis.window, tile, tile), (steps, side, side), dtype, layer.fill)

    def shards(self, layer: Layer, store: Store) -> Shards:
        """Return the shards of a layer in a store that holds a cube of this layout."""
        steps = len(self.axes[layer.calendar].span)
        return Shards(store, layer.path, self.shard_shape(layer), steps)

    def place(self, layer: Layer, tile: tuple[int, int], block: int) -> tuple[int, int, int]:
        """Return the number of a block's shard along time, y and x."""
        return block - self.axes[layer.calendar].first_block, *tile


def create(session: icechunk.Session, layout: Layout, identity: Mapping[str, Any]) -> None:
    """Write all groups and arrays of an empty cube into a session."""
    root = zarr.create_group(session.store, attributes={"Conventions": "CF-1.11"})
    for calendar, axis in layout.axes.items():
        group = root.create_group(calendar.value)
        _write_coordinates(group, layout.grid, axis)
        for layer in layout.product.layers:
            if layer.calendar is calendar:
                _create_layer(group, layout, layer, axis)
    for step, calendar in layout.steps.items():
        _create_ledger(root, layout, step, layout.axes[calendar])
    create_tables(root, layout, by_zone=False)
    create_tables(root, layout, by_zone=True)
    _write_identity(root, layout, identity)


def grow(session: icechunk.Session, old: Layout, new: Layout, identity: Mapping[str, Any]) -> None:
    """Lengthen every array of a cube to a layout that holds the old one."""
    root = zarr.open_group(session.store, mode="r+")
    for calendar, axis in new.axes.items():
        before = old.axes[calendar]
        if axis != before:
            paths = [layer.path for layer in new.product.layers if layer.calendar is calendar]
            paths += _observed_path(calendar)
            for path in paths:
                _lengthen(session, root, path, axis, before, time_dimension=0)
            _rewrite_time(root[calendar.value], axis)
            for step, on in new.steps.items():
                if on is calendar:
                    for name in ("fingerprint", "cost", "statistics"):
                        if f"ledger/{step}/{name}" in root:
                            per_block = replace(axis, window=1), replace(before, window=1)
                            _lengthen(session, root, f"ledger/{step}/{name}", *per_block, 0)
    for path, calendar, time_dimension in _table_paths(new):
        if new.axes[calendar] != old.axes[calendar]:
            axes = new.axes[calendar], old.axes[calendar]
            _lengthen(session, root, path, *axes, time_dimension)
            if path.startswith("zones/"):
                _rewrite_time(root[path.rsplit("/", 1)[0]], new.axes[calendar])
    _write_identity(root, new, identity)


def replace_zones(
    session: icechunk.Session,
    layout: Layout,
    identity: Mapping[str, Any],
    fingerprints: Mapping[str, NDArray[np.uint64]],
) -> None:
    """Empty every array that has zones, for a cube whose zones changed.

    `fingerprints`, by step, are what the record then says of the steps that depend on zones.
    """
    root = zarr.open_group(session.store, mode="r+")
    for path, _, _ in _table_paths(layout, by_zone=True):
        if path in root:
            del root[path]
    if "zones" in root:
        del root["zones"]
    create_tables(root, layout, by_zone=True)
    for step in zone_steps(layout.product):
        root[f"ledger/{step}/fingerprint"][:] = fingerprints[step]
    _write_identity(root, layout, identity)


def _write_identity(root: zarr.Group, layout: Layout, identity: Mapping[str, Any]) -> None:
    root.attrs["alpage"] = {**identity, "axes": axes_to_json(layout.axes)}


def _observed_path(calendar: Calendar) -> list[str]:
    return ["day/observed"] if calendar is Calendar.DAY else []


def _lengthen(
    session: icechunk.Session,
    root: zarr.Group,
    path: str,
    axis: Axis,
    before: Axis,
    time_dimension: int,
) -> None:
    array = root[path]
    shape = list(array.shape)
    shape[time_dimension] = axis.n_blocks * axis.window
    array.resize(tuple(shape))
    if earlier := before.first_block - axis.first_block:
        per_chunk = (array.shards or array.chunks)[time_dimension]
        offset = [0] * len(shape)
        offset[time_dimension] = earlier * axis.window // per_chunk
        session.shift_array(f"/{path}", offset)


def _rewrite_time(group: zarr.Group, axis: Axis) -> None:
    days = axis.span.dates.astype(np.int64)
    group["time"].resize(days.shape)
    group["time"][:] = days


def write_ground(group: zarr.Group, grid: Grid) -> None:
    """Write into a group where the pixels of a grid lie: y, x and spatial_ref."""
    for name, values in (("y", grid.y), ("x", grid.x)):
        group.create_array(
            name,
            data=values,
            chunks=values.shape,
            dimension_names=(name,),
            attributes=coordinate_attributes(grid, name),
        )
    group.create_array(
        "spatial_ref", data=np.array(0, dtype="int32"), attributes=grid_mapping_attributes(grid)
    )


def _write_coordinates(group: zarr.Group, grid: Grid, axis: Axis) -> None:
    _write_time(group, axis)
    write_ground(group, grid)
    if axis.calendar is Calendar.DAY:
        group.create_array(
            "observed",
            shape=(len(axis.span),),
            chunks=(axis.window,),
            dtype="uint8",
            fill_value=0,
            dimension_names=("time",),
            attributes={"long_name": "number of scenes acquired on this day", "units": "1"},
        )
    auxiliary = ["spatial_ref", *(["observed"] if axis.calendar is Calendar.DAY else [])]
    group.attrs["coordinates"] = " ".join(auxiliary)


def _write_time(group: zarr.Group, axis: Axis) -> None:
    days = axis.span.dates.astype(np.int64)
    group.create_array(
        "time",
        shape=days.shape,
        dtype="int64",
        # Long enough that growing rarely rewrites more than one chunk.
        chunks=(4096,),
        dimension_names=("time",),
        attributes={
            "standard_name": "time",
            "long_name": f"first day of the {axis.calendar.value}",
            "units": "days since 1970-01-01",
            "calendar": "proleptic_gregorian",
            "axis": "T",
        },
    )
    group["time"][:] = days


def _create_layer(group: zarr.Group, layout: Layout, layer: Layer, axis: Axis) -> None:
    shape_tyx = (len(axis.span), *layout.grid.shape_yx)
    create_layer(group, layer.name, shape_tyx, layout.shard_shape(layer), layer_attributes(layer))


def _create_ledger(root: zarr.Group, layout: Layout, step: str, axis: Axis) -> None:
    group = root.require_group(f"ledger/{step}")
    rows, columns = ledger_tiles(layout, step)
    chunk = (1, min(rows, LEDGER_CHUNK), min(columns, LEDGER_CHUNK))

    def array(name: str, dtype: str, last: int) -> None:
        group.create_array(
            name,
            shape=(axis.n_blocks, rows, columns, last),
            chunks=(*chunk, last),
            dtype=dtype,
            fill_value=0,
            compressors=ZstdCodec(level=1),
        )

    array("fingerprint", "uint64", 2)
    array("cost", "float64", len(COSTS))
    if layers := step_layers(layout.product, step):
        array("statistics", "int64", len(layers) * len(STATISTICS))


def ledger_tiles(layout: Layout, step: str) -> tuple[int, int]:
    """Return rows and columns of a step's record: steps that add up all tiles have one."""
    for stage in layout.product.stages:
        if stage.name == step and not isinstance(stage, Gather):
            return layout.grid.tiles_yx
    return 1, 1


def zone_steps(product: Product) -> set[str]:
    """Return the steps whose record is void when the zones change."""
    steps: set[str] = set()
    for stage in product.stages:
        match stage:
            case Observe() if any(table.by_zone for table in stage.tables):
                steps.add(stage.name)
            case Gather() if stage.by_zone:
                steps.add(stage.name)
            case Summarise():
                steps |= {stage.name, f"{stage.name}_total"}
            case _:
                pass
    return steps


def step_layers(product: Product, step: str) -> tuple[Layer, ...]:
    """Return the layers that a step writes."""
    for stage in product.stages:
        if stage.name == step and not isinstance(stage, Gather | Summarise):
            return stage.layers
    return ()


def create_tables(root: zarr.Group, layout: Layout, *, by_zone: bool) -> None:
    """Create the arrays of partial tables, gathered tables and series."""
    n_tiles = layout.grid.tiles_yx[0] * layout.grid.tiles_yx[1]
    for stage in layout.product.stages:
        match stage:
            case Observe():
                for table in stage.tables:
                    if table.by_zone is by_zone:
                        _create_partial(root, layout, stage.name, table, n_tiles, Calendar.DAY)
            case Gather() if stage.by_zone is by_zone:
                zones = (layout.n_zones,) if by_zone else ()
                _create_result(root, layout, f"ledger/{stage.name}/result", stage.name, zones)
            case Summarise() if by_zone:
                calendar = layout.product.layer(stage.reads[0]).calendar
                table = Table(stage.name, stage.shape, by_zone=True)
                _create_partial(root, layout, stage.name, table, n_tiles, calendar)
                _create_series(root, layout, stage, layout.axes[calendar])
            case _:
                pass


def _create_partial(
    root: zarr.Group, layout: Layout, stage: str, table: Table, n_tiles: int, calendar: Calendar
) -> None:
    axis, row = layout.axes[calendar], layout.table_shapes[table.name]
    zones = (layout.n_zones,) if table.by_zone else ()
    zone_chunk = (min(layout.n_zones, LEDGER_CHUNK),) if table.by_zone else ()
    root.create_array(
        partial_path(stage, table.name),
        shape=(n_tiles, len(axis.span), *zones, *row),
        chunks=(1, axis.window, *zone_chunk, *row),
        dtype="int64",
        fill_value=0,
        compressors=ZstdCodec(level=1),
    )


def partial_path(stage: str, table: str) -> str:
    """Return where the partial tables of a stage lie."""
    return f"ledger/{stage}/{table}"


def table_rows(product: Product) -> Iterator[tuple[str, str, int]]:
    """Yield each table's name, where it lies, and how many dimensions come before a row's."""
    for stage in product.stages:
        match stage:
            case Observe():
                for table in stage.tables:
                    yield table.name, partial_path(stage.name, table.name), 2 + table.by_zone
            case Gather():
                yield stage.name, f"ledger/{stage.name}/result", 1 + stage.by_zone
            case Summarise():
                yield stage.name, partial_path(stage.name, stage.name), 3
            case _:
                pass


def _create_result(
    root: zarr.Group, layout: Layout, path: str, name: str, zones: tuple[int, ...]
) -> None:
    axis, row = layout.axes[Calendar.DAY], layout.table_shapes[name]
    root.create_array(
        path,
        shape=(len(axis.span), *zones, *row),
        chunks=(axis.window, *zones, *row),
        dtype="float64",
        fill_value=float("nan"),
        compressors=ZstdCodec(level=1),
    )


def _create_series(root: zarr.Group, layout: Layout, stage: Summarise, axis: Axis) -> None:
    group = root.require_group(f"zones/{axis.calendar.value}")
    if "time" not in group:
        _write_time(group, axis)
        _write_zones(group, layout.zones)
        group.attrs["coordinates"] = "zone_name zone_area"
    for series in stage.series:
        group.create_array(
            series.name,
            shape=(layout.n_zones, len(axis.span)),
            chunks=(layout.n_zones, axis.window),
            dtype="float64",
            fill_value=float("nan"),
            compressors=ZstdCodec(level=1),
            dimension_names=("zone", "time"),
            attributes={"units": series.units, "long_name": series.long_name},
        )


def _write_zones(group: zarr.Group, zones: tuple[Zone, ...]) -> None:
    text = np.dtypes.StringDType()
    columns = {
        "zone": (np.array([zone.id for zone in zones], dtype=text), "id of the zone"),
        "zone_name": (np.array([zone.name for zone in zones], dtype=text), "name of the zone"),
        "zone_area": (np.array([zone.area_m2 for zone in zones]), "area of the zone"),
    }
    for name, (values, meaning) in columns.items():
        group.create_array(
            name, data=values, dimension_names=("zone",), attributes={"long_name": meaning}
        )
    group["zone_area"].attrs["units"] = "m2"


def _table_paths(layout: Layout, *, by_zone: bool = False) -> list[tuple[str, Calendar, int]]:
    """Every table and series: its path, calendar, and which dimension is time."""
    paths: list[tuple[str, Calendar, int]] = []
    for stage in layout.product.stages:
        match stage:
            case Observe():
                paths += [
                    (partial_path(stage.name, table.name), Calendar.DAY, 1)
                    for table in stage.tables
                    if table.by_zone or not by_zone
                ]
            case Gather() if stage.by_zone or not by_zone:
                paths.append((f"ledger/{stage.name}/result", Calendar.DAY, 0))
            case Summarise():
                calendar = layout.product.layer(stage.reads[0]).calendar
                paths.append((partial_path(stage.name, stage.name), calendar, 1))
                paths += [
                    (f"zones/{calendar.value}/{series.name}", calendar, 1)
                    for series in stage.series
                ]
            case _:
                pass
    return paths
