"""Vegetation: daily NDVI, smoothed dekads with their uncertainty, phenology, series per zone."""

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from alpage.product import (
    Array,
    Band,
    Context,
    Derive,
    Layer,
    Observation,
    Observe,
    Parameters,
    Product,
    Segment,
    Series,
    Summarise,
)
from alpage.science.dips import drop_dips
from alpage.science.indices import normalized_difference
from alpage.science.masks import DEFAULT_MASK, Quality
from alpage.science.phenology import PhenologyParameters, phenology_block
from alpage.science.smoothing import smooth_bins
from alpage.science.zonal import sum_values
from alpage.timeaxis import ONE_DAY, Calendar, covering, slot_of, start_of

FILL = -32768
ERROR_FILL = 65535
SCALE = 1e-4
# Long enough that a curve's ends do not bend what lies within the year.
SMOOTHING_MARGIN_DAYS = 120
# A season that peaks on a year's first or last day has its bases half a year beyond.
SEASON_MARGIN_DAYS = 240


class VegetationParameters(Parameters):
    """How NDVI is masked and smoothed, and how seasons are read from the curve."""

    smoothing: float = Field(
        3.0,
        gt=0,
        description=(
            "Whittaker's lambda on the axis of dekads, second differences. 3 predicts left-out "
            "observations of real crop and grass series best, of a flat optimum from 2 to 5."
        ),
    )
    dip_ndvi: float = Field(
        0.1,
        gt=0,
        description=(
            "Depth below its neighbours at which a single date is taken for missed cloud, for "
            "the smoothed curve only: twice what clear pairs of dates differ by."
        ),
    )
    dip_days: int = Field(
        30, ge=0, description="Days between the neighbours that judge a dip; 0 judges none."
    )
    envelope: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="Weight of values above the curve, for an upper envelope; none: symmetric.",
    )
    mask_snow: bool = Field(True, description="Leave out pixels that the scene calls snow.")
    phenology: PhenologyParameters = PhenologyParameters()


def _ndvi_layer(name: str, calendar: Calendar, long_name: str, **more: object) -> Layer:
    return Layer(
        name,
        calendar,
        "int16",
        fill=FILL,
        scale=SCALE,
        long_name=long_name,
        standard_name="normalized_difference_vegetation_index",
        valid_range=(-10000, 10000),
        **more,  # type: ignore[arg-type]
    )


def _day_of_year(name: str, long_name: str) -> Layer:
    return Layer(
        name,
        Calendar.YEAR,
        "int16",
        fill=FILL,
        units="d",
        long_name=f"{long_name}, day of the year from 1, less in the year before",
        valid_range=(-366, 732),
    )


def observe(observation: Observation) -> Mapping[str, Array]:
    """NDVI of each date."""
    mask = DEFAULT_MASK
    if observation.context.parameters.mask_snow:
        mask |= Quality.SNOW
    gains, offsets = observation.stacked("nir", "red")
    ndvi = normalized_difference(
        observation.bands["nir"],
        observation.bands["red"],
        observation.quality,
        gains=gains,
        offsets=offsets,
        mask=int(mask),
        fill=FILL,
    )
    return {"ndvi": ndvi}


def smooth(segment: Segment) -> Mapping[str, Array]:
    """Smoothed dekads of one year, from the year and its margins."""
    parameters = segment.context.parameters
    margin = SMOOTHING_MARGIN_DAYS * ONE_DAY
    dekads = covering(Calendar.DEKAD, segment.first_day - margin, segment.last_day + margin)
    year = covering(Calendar.DEKAD, segment.first_day, segment.last_day)
    inner = slice(year.start - dekads.start, year.stop - dekads.start)
    clear = drop_dips(
        segment.layers["day/ndvi"],
        segment.days.astype(np.int64),
        fill=FILL,
        depth=round(parameters.dip_ndvi * 1e4),
        span_days=parameters.dip_days,
    )
    values, error, _ = smooth_bins(
        clear,
        (slot_of(Calendar.DEKAD, segment.days) - dekads.start).astype(np.int32),
        len(dekads),
        fill=FILL,
        lam=parameters.smoothing,
        envelope=parameters.envelope,
    )
    return {"ndvi": values[inner], "ndvi_standard_error": error[inner]}


def phenology(segment: Segment) -> Mapping[str, Array]:
    """The main season of one year."""
    year_start = segment.first_day
    last = start_of(Calendar.DEKAD, slot_of(Calendar.DEKAD, segment.days) + 1) - ONE_DAY
    # A dekad's value stands for its middle.
    middle = ((segment.days - year_start) + (last - year_start)) / ONE_DAY / 2
    found = phenology_block(
        segment.layers["dekad/ndvi"],
        middle,
        first_day=0,
        last_day=int((segment.last_day - year_start) / ONE_DAY),
        fill=FILL,
        parameters=segment.context.parameters.phenology,
    )
    layers = {
        "start_of_season": found.start_of_season,
        "peak_of_season": found.peak_of_season,
        "end_of_season": found.end_of_season,
        "season_length": found.season_length,
        "season_amplitude": found.amplitude,
        "season_peak_ndvi": found.peak_value,
    }
    return {name: values[None] for name, values in layers.items()}


def count_days(segment: Segment) -> Array:
    """Clear pixels of each zone, their sum and sum of squares."""
    return sum_values(segment.layers["day/ndvi"], segment.zones, fill=FILL)


def count_dekads(segment: Segment) -> Array:
    """Filled pixels of each zone, their sum and sum of squares."""
    return sum_values(segment.layers["dekad/ndvi"], segment.zones, fill=FILL)


def _moments(total: Array) -> tuple[Array, Array, Array]:
    """Count, mean and standard deviation in NDVI, NaN where nothing was counted."""
    count, total_sum, squares = np.moveaxis(total.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total_sum / count, np.nan)
        variance = np.where(count > 0, squares / count - mean**2, np.nan)
    return count, mean * SCALE, np.sqrt(np.maximum(variance, 0)) * SCALE


def finish_days(total: Array, context: Context) -> Mapping[str, Array]:
    """Mean NDVI of the clear pixels of each zone and day."""
    count, mean, deviation = _moments(total)
    clear = np.where(count > 0, np.clip(count / context.zone_px, 0, 1), np.nan)
    return {"ndvi_mean": mean, "ndvi_std": deviation, "clear_fraction": clear}


def finish_dekads(total: Array, context: Context) -> Mapping[str, Array]:
    """Mean smoothed NDVI of each zone and dekad."""
    _, mean, deviation = _moments(total)
    return {"ndvi_mean": mean, "ndvi_std": deviation}


NDVI = _ndvi_layer("ndvi", Calendar.DAY, "NDVI of clear pixels")

vegetation = Product(
    name="vegetation",
    version="2",
    title="Vegetation",
    parameters=VegetationParameters,
    resolution="finest",
    preview="dekad/ndvi",
    stages=(
        Observe("observe", (Band("red"), Band("nir")), layers=(NDVI,), function=observe),
        Derive(
            "smooth",
            reads=("day/ndvi",),
            layers=(
                _ndvi_layer(
                    "ndvi",
                    Calendar.DEKAD,
                    "NDVI smoothed by Whittaker",
                    cell_methods="time: mean (of clear days, smoothed)",
                ),
                Layer(
                    "ndvi_standard_error",
                    Calendar.DEKAD,
                    "uint16",
                    fill=ERROR_FILL,
                    scale=SCALE,
                    long_name="standard error of the smoothed NDVI",
                ),
            ),
            segment=Calendar.YEAR,
            margin_days=SMOOTHING_MARGIN_DAYS,
            function=smooth,
        ),
        Derive(
            "phenology",
            reads=("dekad/ndvi",),
            layers=(
                _day_of_year("start_of_season", "start of the main season"),
                _day_of_year("peak_of_season", "peak of the main season"),
                _day_of_year("end_of_season", "end of the main season"),
                Layer(
                    "season_length",
                    Calendar.YEAR,
                    "int16",
                    fill=FILL,
                    units="d",
                    long_name="days from start to end of the main season",
                    valid_range=(0, 732),
                ),
                Layer(
                    "season_amplitude",
                    Calendar.YEAR,
                    "int16",
                    fill=FILL,
                    scale=SCALE,
                    long_name="NDVI at the peak above the mean of the bases",
                    # A shore is water in one month, grass in another.
                    valid_range=(0, 20000),
                ),
                _ndvi_layer("season_peak_ndvi", Calendar.YEAR, "NDVI at the peak"),
            ),
            segment=Calendar.YEAR,
            margin_days=SEASON_MARGIN_DAYS,
            function=phenology,
        ),
        Summarise(
            "day_series",
            reads=("day/ndvi",),
            series=(
                Series("ndvi_mean", "1", "mean NDVI of the clear pixels of the zone"),
                Series("ndvi_std", "1", "standard deviation of NDVI within the zone"),
                Series("clear_fraction", "1", "clear part of the zone, empty where none is"),
            ),
            shape=lambda context: (3,),
            count=count_days,
            finish=finish_days,
        ),
        Summarise(
            "dekad_series",
            reads=("dekad/ndvi",),
            series=(
                Series("ndvi_mean", "1", "mean smoothed NDVI of the zone"),
                Series("ndvi_std", "1", "standard deviation of smoothed NDVI within the zone"),
            ),
            shape=lambda context: (3,),
            count=count_dekads,
            finish=finish_dekads,
        ),
    ),
)
