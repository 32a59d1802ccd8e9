"""What a product is: layers, and the stages that make them. All functions are pure.

    observe    imagery of single days -> daily layers, and small integer tables per block
    gather     the tables of all tiles, added up -> a small table per day (or day and zone)
    derive     layers along time, and gathered tables -> layers
    summarise  layers within zones -> integer tables, added up -> series

A stage's function sees arrays and returns arrays. Reading, writing, order,
retries and records are the engine's. A new product needs one file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from alpage.errors import ProductError
from alpage.science.zones import ZoneIndex
from alpage.timeaxis import Calendar, Dates, nested_slots

Array = NDArray[Any]
Kernel = Literal["nearest", "average", "bilinear", "cubic"]


class Parameters(BaseModel):
    """Base of a product's own parameters: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Layer:
    """One variable of the cube.

    A stored integer v stands for v * scale in `units`; `fill` marks an empty
    pixel. A layer with `flags` holds codes, and its fill is one of them or none.
    `valid_range`, `minimum_coverage` and `maximum_drift` are its quality gate.
    """

    name: str
    calendar: Calendar
    dtype: str
    fill: int
    scale: float = 1.0
    units: str = "1"
    long_name: str = ""
    standard_name: str = ""
    cell_methods: str = ""
    flags: Mapping[str, int] = field(default_factory=dict)
    flags_are_bits: bool = False
    """Whether a pixel may carry several of the flags at once."""
    valid_range: tuple[int, int] | None = None
    """Stored values outside it refuse the cube; the fill is exempt."""
    minimum_coverage: float = 0.0
    """Least fraction of the pixels of the computed blocks' observed slots that must be filled."""
    maximum_drift: float | None = None
    """Largest change of the layer's mean, in units, against the cube that readers have now."""

    def __post_init__(self) -> None:
        """Refuse what no array can hold, and what readers could not tell."""
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = None
        if dtype is None or dtype.kind not in "iu":
            raise ProductError(
                f"layer {self.name}: expected a dtype of integers such as int16, got {self.dtype!r}"
            )
        limits = np.iinfo(dtype)
        held = {"fill": self.fill, **{f"flag {name}": code for name, code in self.flags.items()}}
        for name, value in held.items():
            if not limits.min <= value <= limits.max:
                raise ProductError(
                    f"layer {self.name}: expected a {name} that {self.dtype} holds, got {value}"
                )
        low, high = self.valid_range or (self.fill + 1, self.fill)
        if low <= self.fill <= high:
            raise ProductError(
                f"layer {self.name}: expected a fill outside its valid range {self.valid_range}, "
                f"got {self.fill}, which readers take for an empty pixel"
            )

    @property
    def path(self) -> str:
        """Where the layer lies in the cube: its calendar's group and its name."""
        return f"{self.calendar.value}/{self.name}"


@dataclass(frozen=True)
class Band:
    """A band of imagery that a product reads, by its common name, and how it is resampled.

    The kernel is used only where a scene does not lie on the cube's own pixels.
    """

    name: str
    kernel: Kernel = "cubic"

    def __post_init__(self) -> None:
        """Refuse kernels that there are not."""
        if self.kernel not in get_args(Kernel):
            raise ProductError(
                f"band {self.name}: expected a kernel of {', '.join(get_args(Kernel))}, "
                f"got {self.kernel!r}"
            )


@dataclass(frozen=True)
class Table:
    """Integers per day (and per zone) that add up over tiles: shape (days, [zones], *shape)."""

    name: str
    shape: "Callable[[Context], tuple[int, ...]]"
    by_zone: bool = False


@dataclass(frozen=True)
class Zone:
    """An area for series: its id in the user's file, name and projected area."""

    id: str
    name: str
    area_m2: float
    pixels: int
    """Pixels of the cube's grid, continued beyond it, whose centre lies in the zone."""


@dataclass(frozen=True)
class Context:
    """What holds for a whole run: parameters, the relief's range, zones, pixel area."""

    parameters: Any
    pixel_area_m2: float
    zones: tuple[Zone, ...] = ()
    dem_range_m: tuple[float, float] = (float("nan"), float("nan"))
    """Lowest and highest elevation within the area."""
    relief: tuple[int, ...] = ()
    """Pixels of the area in each of `Product.relief_bins` equal bins over that range."""
    period: tuple[np.datetime64, np.datetime64] | None = None
    """First and last day that the study asks for."""

    @property
    def zone_px(self) -> NDArray[np.int64]:
        """Pixels of each zone, those that the study's area leaves out too; at least 1."""
        return np.array([max(zone.pixels, 1) for zone in self.zones], dtype=np.int64)


@dataclass(frozen=True)
class Observation:
    """Imagery of some days over one tile, with the stage's halo around it.

    Days are independent of each other: the engine may pass any subset of them.
    Digital number 0 is an empty pixel; reflectance x 10^4 = dn * gain + offset.
    """

    days: Dates
    """Shape (t,), increasing."""
    bands: Mapping[str, NDArray[np.uint16]]
    """By common name, each (t, y, x) with the halo."""
    gains: Mapping[str, NDArray[np.float32]]
    """By common name, each (t,)."""
    offsets: Mapping[str, NDArray[np.float32]]
    quality: NDArray[np.uint8]
    """Bits of `alpage.science.masks.Quality`, (t, y, x) with the halo."""
    dem: NDArray[np.float32] | None
    """Elevation in metres (y, x) with the halo; NaN where unknown."""
    area: NDArray[np.bool_]
    """Pixels whose centre lies within the study's area, (y, x) without the halo."""
    zones: ZoneIndex
    """Pixels of each zone within the tile, without the halo; for stages that are `by_zone`."""
    halo_px: int
    origin_yx: tuple[int, int]
    """Row and column, in the whole grid, of the arrays' first pixel."""
    context: Context

    def stacked(self, *names: str) -> tuple[Array, Array]:
        """Return gains and offsets of some bands as two float32 arrays (band, t)."""
        return (
            np.stack([self.gains[name] for name in names]),
            np.stack([self.offsets[name] for name in names]),
        )

    def reflectance(self, band: str) -> NDArray[np.float32]:
        """Return a band as reflectance (t, y, x), NaN where empty."""
        dn = self.bands[band]
        gain, offset = self.gains[band][:, None, None], self.offsets[band][:, None, None]
        reflectance = ((dn * gain + offset) * np.float32(1e-4)).astype(np.float32)
        return np.where(dn == 0, np.float32("nan"), reflectance)

    def inner(self, array: Array) -> Array:
        """Return an array (..., y, x) without the halo."""
        h = self.halo_px
        return array[..., h : array.shape[-2] - h, h : array.shape[-1] - h] if h else array


@dataclass(frozen=True)
class Segment:
    """Layers of some rows over one segment of time, with the stage's margin of days around it.

    Each pixel is told by its own series, so the engine may pass any rows of a tile: a function that
    looked at neighbours would find edges.
    """

    days: Dates
    """First day of each slot of the layers read, margin included, shape (k,)."""
    inner: slice
    """The slots of `days` that lie in the segment itself."""
    layers: Mapping[str, Array]
    """By path ('day/ndvi'), each (k, y, x), as stored; not to be written to."""
    tables: Mapping[str, Array]
    """Gathered tables by name, each (k, ...), one row per slot."""
    dem: NDArray[np.float32] | None
    zones: ZoneIndex
    first_day: np.datetime64
    """First day of the segment itself."""
    last_day: np.datetime64
    context: Context


@dataclass(frozen=True)
class Observe:
    """Imagery to daily layers and tables. Sees each day alone, so days come in any batches."""

    name: str
    bands: tuple[Band, ...]
    layers: tuple[Layer, ...]
    function: Callable[[Observation], Mapping[str, Array]]
    """Returns each layer (t, y, x) without halo and each table (t, ...), by name."""
    tables: tuple[Table, ...] = ()
    halo_px: Callable[[Context], int] = lambda context: 0
    by_zone: bool = False
    """Whether layers depend on zones; told by itself where a table is by zone."""


@dataclass(frozen=True)
class Gather:
    """A table of all tiles, added up, to one small table per day."""

    name: str
    table: str
    """The table that is added up."""
    shape: Callable[[Context], tuple[int, ...]]
    """Of a row of the result, which takes the stage's name."""
    function: Callable[[Array, Context], Array]
    """From (days, ...) int64 to (days, *shape) float64."""
    by_zone: bool = False


@dataclass(frozen=True)
class Derive:
    """Layers along time, and gathered tables, to layers.

    The function is called once for each slot of `segment`, whatever the cube's
    windows are, for some rows of a tile at a time; with `Calendar.DAY` it sees any
    number of days at once and must treat them independently.
    """

    name: str
    reads: tuple[str, ...]
    """Paths of layers, all of one calendar."""
    layers: tuple[Layer, ...]
    segment: Calendar
    function: Callable[[Segment], Mapping[str, Array]]
    """Returns each layer (slots in the segment, y, x), by name."""
    tables: tuple[str, ...] = ()
    """Names of gathered tables, of which it gets the rows of its days; it must read daily layers
    then."""
    margin_days: int = 0
    by_zone: bool = False
    """Whether layers depend on zones; told by itself where a table that it takes is by zone."""


@dataclass(frozen=True)
class Series:
    """One series per zone."""

    name: str
    units: str = "1"
    long_name: str = ""


@dataclass(frozen=True)
class Summarise:
    """Layers within zones to integer tables, added up over tiles, to series per zone."""

    name: str
    reads: tuple[str, ...]
    """Paths of layers, all of one calendar, which is the series' calendar too."""
    series: tuple[Series, ...]
    shape: Callable[[Context], tuple[int, ...]]
    """Of one zone's row of the table."""
    count: Callable[[Segment], Array]
    """From layers to int64 (k, zones of the tile, *shape)."""
    finish: Callable[[Array, Context], Mapping[str, Array]]
    """From the sum (k, all zones, *shape) to each series (k, all zones) float64, by name."""


Stage = Observe | Gather | Derive | Summarise


@dataclass(frozen=True)
class Product:
    """Layers and stages, under a version. Two cubes of one version hold the same numbers."""

    name: str
    version: str
    stages: tuple[Stage, ...]
    parameters: type[BaseModel] = Parameters
    title: str = ""
    needs_dem: bool = False
    relief_bins: Callable[[Context], int] | None = None
    """Number of equal bins over the elevation range for which `Context.relief` is counted."""
    needs_zones: bool = False
    resolution: Literal["finest", "coarsest"] = "finest"
    """Which of its bands' native resolutions the cube takes when the study names none."""
    preview: str = ""
    """Path of the layer that a preview shows."""

    def __post_init__(self) -> None:
        """Refuse stages that read what no earlier stage makes, or layers that do not fit."""
        made: dict[str, Layer] = {}
        tables: set[str] = set()
        for stage in self.stages:
            self._check_inputs(stage, made, tables)
            for layer in stage_layers(stage):
                if layer.path in made:
                    raise ProductError(f"{self.name}: layer {layer.path} is made twice")
                made[layer.path] = layer
            if isinstance(stage, Observe):
                tables |= {table.name for table in stage.tables}
            if isinstance(stage, Gather):
                tables.add(stage.name)
        self._check_groups()
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ProductError(f"{self.name}: stage names must differ, got {names}")

    def _check_groups(self) -> None:
        for calendar, segments in self._segments().items():
            if len(segments) > 1:
                raise ProductError(
                    f"{self.name}: layers of {calendar}/ must come from stages of one segment, "
                    f"got {sorted(segments)}"
                )

    def _segments(self) -> dict[Calendar, set[Calendar]]:
        segments: dict[Calendar, set[Calendar]] = {}
        for stage in self.stages:
            segment = stage.segment if isinstance(stage, Derive) else Calendar.DAY
            for layer in stage_layers(stage):
                segments.setdefault(layer.calendar, set()).add(segment)
        return segments

    @property
    def segments(self) -> dict[Calendar, Calendar]:
        """The calendars of the product's layers, each with the segment its blocks are made of."""
        return {calendar: next(iter(segments)) for calendar, segments in self._segments().items()}

    def _check_inputs(self, stage: Stage, made: dict[str, Layer], tables: set[str]) -> None:
        where = f"{self.name}, stage {stage.name}"
        wanted_tables: tuple[str, ...] = ()
        match stage:
            case Gather():
                wanted_tables = (stage.table,)
            case Derive() | Summarise():
                if unknown := [path for path in stage.reads if path not in made]:
                    raise ProductError(
                        f"{where} reads {unknown[0]!r}, which no earlier stage makes; "
                        f"there are {sorted(made)}"
                    )
                if len({made[path].calendar for path in stage.reads}) != 1:
                    raise ProductError(f"{where} must read layers of one calendar: {stage.reads}")
                if isinstance(stage, Derive):
                    wanted_tables = stage.tables
                    calendar = made[stage.reads[0]].calendar
                    if stage.tables and calendar is not Calendar.DAY:
                        raise ProductError(
                            f"{where}: tables have a row for each day, so a stage that takes them "
                            f"must read daily layers, got {stage.reads}"
                        )
                    if stage.segment is Calendar.DAY and stage.margin_days:
                        raise ProductError(
                            f"{where}: days are derived each alone, so margin_days must be 0, "
                            f"got {stage.margin_days}; take a longer segment"
                        )
                    for layer in stage.layers:
                        _check_segment(where, layer, stage.segment)
            case Observe():
                if off := [layer.path for layer in stage.layers if layer.calendar != Calendar.DAY]:
                    raise ProductError(f"{where} observes days, so {off[0]!r} must be daily")
        if missing := [name for name in wanted_tables if name not in tables]:
            raise ProductError(f"{where} needs table {missing[0]!r}, which no earlier stage makes")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer of every stage, in order."""
        return tuple(layer for stage in self.stages for layer in stage_layers(stage))

    @property
    def bands(self) -> tuple[Band, ...]:
        """Every band that any stage reads, once each."""
        bands = (b for stage in self.stages if isinstance(stage, Observe) for b in stage.bands)
        return tuple({band.name: band for band in bands}.values())

    def layer(self, path: str) -> Layer:
        """Return the layer at a path."""
        return next(layer for layer in self.layers if layer.path == path)

    def stage(self, name: str) -> Stage:
        """Return the stage of a name."""
        return next(stage for stage in self.stages if stage.name == name)

    def uses_zones(self, stage: Stage) -> bool:
        """Return whether a stage's function sees zones: what it makes then depends on them."""
        match stage:
            case Summarise():
                return True
            case Gather():
                return stage.by_zone
            case Observe():
                return stage.by_zone or any(table.by_zone for table in stage.tables)
        tables = set(stage.tables)
        return stage.by_zone or any(
            one.by_zone for one in self.stages if isinstance(one, Gather) and one.name in tables
        )


def stage_layers(stage: Stage) -> tuple[Layer, ...]:
    """Return the layers that a stage writes."""
    return stage.layers if isinstance(stage, Observe | Derive) else ()


def _check_segment(where: str, layer: Layer, segment: Calendar) -> None:
    try:
        nested_slots(layer.calendar, segment)
    except ValueError as error:
        raise ProductError(f"{where}, layer {layer.path}: {error}") from error
