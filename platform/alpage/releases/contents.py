"""What there is to publish in a cube: its groups, layers, series and grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from alpage.grid import Grid
from alpage.timeaxis import Calendar, Span, covering


@dataclass(frozen=True)
class Variable:
    """One array of a group, as its metadata tell."""

    name: str
    dtype: str
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any]
    nodata: int | None
    """The stored value of an empty pixel; None for floats, where it is NaN."""


@dataclass(frozen=True)
class Group:
    """One calendar's layers, or series."""

    path: str
    calendar: Calendar
    span: Span
    variables: tuple[Variable, ...]


@dataclass(frozen=True)
class Contents:
    """The whole of a cube but its ledger."""

    identity: Mapping[str, Any]
    grid: Grid
    layers: tuple[Group, ...]
    series: tuple[Group, ...]
    zones: tuple[str, ...]
    """Ids of the zones that series are told of."""

    @property
    def layer_paths(self) -> tuple[str, ...]:
        """Path of every layer, such as day/ndvi."""
        return tuple(f"{group.path}/{one.name}" for group in self.layers for one in group.variables)

    @property
    def top_groups(self) -> tuple[str, ...]:
        """Names of the root's groups that a release holds."""
        names = [group.path for group in self.layers]
        return (*names, "zones") if self.series else tuple(names)


def read_contents(root: zarr.Group) -> Contents:
    """Return the contents of a cube from its metadata and time axes."""
    identity = dict(root.attrs["alpage"])
    calendars = [calendar for calendar in Calendar if calendar.value in root]
    layers = [_read_group(root, calendar.value, calendar, 3) for calendar in calendars]
    told = [c for c in Calendar if f"zones/{c.value}" in root]
    series = [_read_group(root, f"zones/{c.value}", c, 2) for c in told]
    zones = [str(zone) for zone in root[f"{series[0].path}/zone"][:]] if series else []
    return Contents(
        identity, Grid.from_json(identity["grid"]), tuple(layers), tuple(series), tuple(zones)
    )


def _read_group(root: zarr.Group, path: str, calendar: Calendar, dimensions: int) -> Group:
    group = root[path]
    days = np.asarray(group["time"][:]).astype("datetime64[D]")
    variables = tuple(
        _read_variable(name, array)
        for name, array in sorted(group.arrays())
        if array.ndim == dimensions
    )
    return Group(path, calendar, covering(calendar, days[0], days[-1]), variables)


def _read_variable(name: str, array: zarr.Array) -> Variable:
    fill = array.fill_value.item()
    nodata = fill if array.dtype.kind in "iu" else None
    dimensions = tuple(array.metadata.dimension_names)
    return Variable(name, str(array.dtype), dimensions, dict(array.attrs), nodata)
