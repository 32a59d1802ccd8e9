"""Snow: the Let-It-Snow mask with its snow line from all tiles, seasons, and series per zone."""

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from alpage.product import (
    Array,
    Band,
    Context,
    Derive,
    Gather,
    Layer,
    Observation,
    Observe,
    Product,
    Segment,
    Series,
    Summarise,
    Table,
)
from alpage.science.snow import (
    CLOUD,
    NO_SNOW,
    NO_SNOW_LINE,
    NODATA,
    SNOW,
    LisParameters,
    SnowFlag,
    classify_snow,
    coarse_halo,
    coarse_red,
    snow_flags,
)
from alpage.science.snow_line import (
    elevation_bins,
    elevation_histogram,
    snow_line_elevation,
    snow_line_lis,
)
from alpage.science.snow_season import SEASON_FILL, drop_isolated_snow, season_synthesis
from alpage.science.zonal import elevation_counts
from alpage.timeaxis import ONE_DAY, Calendar

SEASON_MARGIN_DAYS = 15
SERIES_STEP_M = 50.0
COARSE_CELL_M = 240.0
CODES = (NO_SNOW, SNOW, CLOUD, NODATA)


class SnowParameters(LisParameters):
    """Let-It-Snow's thresholds, and what the season makes of single dates."""

    confirmation_days: int = Field(
        15,
        ge=0,
        description=(
            "Snow seen once between clear days without snow needs a second observation within "
            "this many days to count in the season; 0 takes every date as it is."
        ),
    )


FLAGS = Layer(
    "snow_flags",
    Calendar.DAY,
    "uint8",
    fill=0,
    long_name="what each date says before the snow line is known",
    flags={flag.name.lower(): int(flag) for flag in SnowFlag if flag.name},
    flags_are_bits=True,
)
SNOW_CODES = Layer(
    "snow",
    Calendar.DAY,
    "uint8",
    fill=NODATA,
    long_name="snow cover by Let-It-Snow",
    flags={"no_snow": NO_SNOW, "snow": SNOW, "cloud": CLOUD, "no_data": NODATA},
    valid_range=(0, CLOUD),
)


def _season_layer(name: str, long_name: str, units: str = "d") -> Layer:
    return Layer(
        name,
        Calendar.SEASON,
        "uint16",
        fill=SEASON_FILL,
        units=units,
        long_name=long_name,
        valid_range=(0, 366),
    )


SEASON_LAYERS = (
    _season_layer("scd", "days with snow in the season"),
    _season_layer("sod", "first day of the longest snow period, days since 1 September"),
    _season_layer("smod", "last day of the longest snow period, days since 1 September"),
    _season_layer("nsp", "snow periods that begin in the season", "1"),
    _season_layer("nobs", "clear observations in the season", "1"),
)


def _bins(context: Context) -> int:
    low, high = context.dem_range_m
    return elevation_bins(low, high, context.parameters.elevation_step_m)[0]


def _table_shape(context: Context) -> tuple[int, ...]:
    return max(_bins(context), 1), 3


def _halo(context: Context) -> int:
    return coarse_halo(_coarse_factor(context))


def _coarse_factor(context: Context) -> int:
    """The side of a coarse cell: what LIS has for Sentinel-2 and Landsat is 240 m of ground."""
    asked: int | None = context.parameters.coarse_factor
    return asked or max(1, round(COARSE_CELL_M / math.sqrt(context.pixel_area_m2)))


def observe(observation: Observation) -> Mapping[str, Array]:
    """Flags of each date, and clear and snowy pixels by elevation."""
    parameters = observation.context.parameters
    names = ("green", "red", "swir16")
    gains, offsets = observation.stacked(*names)
    coarse = coarse_red(
        observation.bands["red"],
        observation.gains["red"],
        observation.offsets["red"],
        factor=_coarse_factor(observation.context),
        origin_yx=observation.origin_yx,
    )
    green, red, swir16 = (observation.inner(observation.bands[name]) for name in names)
    flags = snow_flags(
        green,
        red,
        swir16,
        observation.inner(observation.quality),
        gains=gains,
        offsets=offsets,
        coarse=observation.inner(coarse),
        parameters=parameters,
    )
    assert observation.dem is not None
    low, high = observation.context.dem_range_m
    dem = np.where(observation.area, observation.inner(observation.dem), np.float32("nan"))
    n_bins = _bins(observation.context)
    table = np.zeros((len(flags), *_table_shape(observation.context)), dtype=np.int64)
    if n_bins:
        table[:] = elevation_histogram(flags, dem, z_min=low, z_max=high, n_bins=n_bins)
    return {"snow_flags": flags, "elevation": table}


def gather_snow_line(total: Array, context: Context) -> Array:
    """Elevation above which pass 2 runs, by day, from the whole area at once.

    The table's totals hold the tiles that were acquired that day; Let-It-Snow
    asks for all pixels, which the relief tells.
    """
    low, high = context.dem_range_m
    if _bins(context) == 0:
        # Too flat for a snow line: Let-It-Snow keeps its first pass.
        return np.full(len(total), NO_SNOW_LINE)
    histogram = total.copy()
    histogram[..., 0] = np.array(context.relief, dtype=np.int64)
    lines = np.full(len(total), NO_SNOW_LINE)
    for day in np.flatnonzero(total[..., 1].any(axis=1)):
        lines[day] = snow_line_lis(
            histogram[day], z_min=low, z_max=high, parameters=context.parameters
        )
    return lines


def classify(segment: Segment) -> Mapping[str, Array]:
    """Snow codes of each date."""
    assert segment.dem is not None
    flags = segment.layers["day/snow_flags"]
    return {"snow": classify_snow(flags, segment.dem, segment.tables["snow_line"])}


def season(segment: Segment) -> Mapping[str, Array]:
    """Indicators of one season, counted within the study's period only."""
    context = segment.context
    codes = segment.layers["day/snow"]
    first_day, last_day = segment.first_day, segment.last_day
    if context.period is not None:
        first_day, last_day = max(first_day, context.period[0]), min(last_day, context.period[1])
    margin = SEASON_MARGIN_DAYS * ONE_DAY
    inside = (segment.days >= first_day - margin) & (segment.days <= last_day + margin)
    codes, days = codes[inside], (segment.days[inside] - first_day) // ONE_DAY
    if context.parameters.confirmation_days:
        codes = drop_isolated_snow(
            codes, days, confirmation_days=context.parameters.confirmation_days
        )
    found = season_synthesis(codes, days, first=0, last=int((last_day - first_day) / ONE_DAY))
    shift = int((first_day - segment.first_day) / ONE_DAY)
    layers = {
        "scd": found.scd,
        "sod": _later(found.sod, shift),
        "smod": _later(found.smod, shift),
        "nsp": found.nsp,
        "nobs": found.nobs,
    }
    return {name: values[None] for name, values in layers.items()}


def _later(days: Array, shift: int) -> Array:
    return np.where(days == SEASON_FILL, SEASON_FILL, days + shift).astype(np.uint16)


def _series_bins(context: Context) -> int:
    low, high = context.dem_range_m
    return int((high - low) // SERIES_STEP_M) + 1


def _series_shape(context: Context) -> tuple[int, ...]:
    return (_series_bins(context), len(CODES))


def count(segment: Segment) -> Array:
    """Pixels of each zone by elevation and code."""
    assert segment.dem is not None
    return elevation_counts(
        segment.layers["day/snow"],
        segment.dem,
        segment.zones,
        z_min=segment.context.dem_range_m[0],
        step_m=SERIES_STEP_M,
        n_bins=_series_bins(segment.context),
        wanted=CODES,
    )


def finish(total: Array, context: Context) -> Mapping[str, Array]:
    """Snow-covered area, what was not seen, and the snow line of each zone and day."""
    by_code = total.sum(axis=2).astype(np.float64)
    bare, snow, cloud, _ = np.moveaxis(by_code, -1, 0)
    zone_px = context.zone_px
    seen = bare + snow
    acquired = (seen + cloud) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = np.where(seen > 0, snow / seen, np.nan)
        unseen = np.where(acquired, np.clip(1 - seen / zone_px, 0, 1), np.nan)
    low = context.dem_range_m[0]
    edges = low + SERIES_STEP_M * np.arange(_series_bins(context) + 1)
    lines = np.full(acquired.shape, np.nan)
    for day, zone in zip(*np.nonzero((bare > 0) & (snow > 0)), strict=True):
        counts = total[day, zone]
        lines[day, zone] = snow_line_elevation(
            counts[:, 1], counts[:, 0], edges, total=int(zone_px[zone])
        )
    return {
        "snow_cover_fraction": fraction,
        "snow_cover_area": fraction * np.array([zone.area_m2 for zone in context.zones]),
        "invalid_fraction": unseen,
        "snow_line": lines,
    }


snow = Product(
    name="snow",
    version="2",
    title="Snow cover",
    parameters=SnowParameters,
    needs_dem=True,
    relief_bins=_bins,
    resolution="coarsest",
    preview="season/scd",
    stages=(
        Observe(
            "observe",
            bands=(Band("green"), Band("red"), Band("swir16")),
            layers=(FLAGS,),
            function=observe,
            tables=(Table("elevation", _table_shape),),
            halo_px=_halo,
        ),
        Gather("snow_line", "elevation", shape=lambda context: (), function=gather_snow_line),
        Derive(
            "classify",
            reads=("day/snow_flags",),
            tables=("snow_line",),
            layers=(SNOW_CODES,),
            segment=Calendar.DAY,
            function=classify,
        ),
        Derive(
            "season",
            reads=("day/snow",),
            layers=SEASON_LAYERS,
            segment=Calendar.SEASON,
            margin_days=SEASON_MARGIN_DAYS,
            function=season,
        ),
        Summarise(
            "series",
            reads=("day/snow",),
            series=(
                Series("snow_cover_fraction", "1", "snow in the clear pixels of the zone"),
                Series("snow_cover_area", "m2", "snow cover of the zone, as its clear pixels say"),
                Series("invalid_fraction", "1", "part of the zone that was not seen"),
                Series("snow_line", "m", "elevation that parts snow from land best"),
            ),
            shape=_series_shape,
            count=count,
            finish=finish,
        ),
    ),
)
