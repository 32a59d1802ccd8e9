"""Lakes: daily water with a threshold per lake and date, occurrence, and area series."""

from collections.abc import Mapping

import numpy as np

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
from alpage.science.lakes import lake_area, lake_histogram, lake_threshold
from alpage.science.masks import DEFAULT_MASK
from alpage.science.water import (
    CLEAR,
    FILL,
    LAND,
    MASKED,
    NEVER_WATER,
    NODATA,
    SNOW,
    WATER,
    WaterParameters,
    classify_water,
    occurrence,
    occurrence_percent,
    water_observation,
)
from alpage.science.zonal import count_codes
from alpage.timeaxis import Calendar, slot_of

# Bins of 0.02 over the range of a normalised difference.
LOW, HIGH, BINS = -10000, 10000, 100

MNDWI = Layer(
    "mndwi",
    Calendar.DAY,
    "int16",
    fill=FILL,
    scale=1e-4,
    long_name="modified normalised difference water index",
    valid_range=(-10000, 10000),
)
STATE = Layer(
    "water_state",
    Calendar.DAY,
    "uint8",
    fill=NODATA,
    long_name="whether a pixel can be water",
    flags={
        "clear": CLEAR,
        "clear_never_water": NEVER_WATER,
        "snow_or_ice": SNOW,
        "masked": MASKED,
        "no_data": NODATA,
    },
)
CODES = Layer(
    "water",
    Calendar.DAY,
    "uint8",
    fill=NODATA,
    long_name="surface water",
    flags={
        "land": LAND,
        "water": WATER,
        "snow_or_ice": SNOW,
        "masked": MASKED,
        "no_data": NODATA,
    },
    valid_range=(0, MASKED),
)


def _days(name: str, long_name: str) -> Layer:
    return Layer(
        name,
        Calendar.MONTH,
        "uint8",
        fill=255,
        units="d",
        long_name=long_name,
        valid_range=(0, 31),
    )


OCCURRENCE = Layer(
    "water_occurrence",
    Calendar.YEAR,
    "uint8",
    fill=255,
    units="percent",
    long_name="water in the clear days of a month, mean of the months observed",
    valid_range=(0, 100),
)


def observe(observation: Observation) -> Mapping[str, Array]:
    """MNDWI and state of each date, and a table of clear pixels for each lake."""
    bands = observation.bands
    gains, offsets = observation.stacked("green", "swir16", "nir")
    mndwi, state, brightness = water_observation(
        bands["green"],
        bands["swir16"],
        bands["nir"],
        observation.quality,
        gains=gains,
        offsets=offsets,
        mask=int(DEFAULT_MASK),
        parameters=observation.context.parameters,
    )
    table = lake_histogram(mndwi, brightness, observation.zones, low=LOW, high=HIGH, n_bins=BINS)
    return {"mndwi": mndwi, "water_state": state, "mndwi_histogram": table}


def gather_threshold(total: Array, context: Context) -> Array:
    """MNDWI above which a pixel is water, in units, by day and lake."""
    parameters: WaterParameters = context.parameters
    thresholds = np.full(total.shape[:2], parameters.default_threshold)
    for day, lake in zip(*np.nonzero(total.any(axis=(2, 3))), strict=True):
        thresholds[day, lake] = lake_threshold(
            total[day, lake], LOW * 1e-4, HIGH * 1e-4, parameters
        )
    return thresholds


def classify(segment: Segment) -> Mapping[str, Array]:
    """Land and water of each date."""
    zones = segment.zones
    zone_of_pixel = np.full(zones.shape_yx, -1, dtype=np.int32)
    # Where lakes overlap, the first in the file decides.
    for number in reversed(range(len(zones.zones))):
        pixels = zones.pixels[zones.starts[number] : zones.starts[number + 1]]
        zone_of_pixel.reshape(-1)[pixels] = number
    thresholds = segment.tables["threshold"][:, zones.zones]
    codes = classify_water(
        segment.layers["day/mndwi"],
        segment.layers["day/water_state"],
        thresholds=np.rint(thresholds * 1e4).astype(np.int16),
        zone_of_pixel=zone_of_pixel,
        default=round(segment.context.parameters.default_threshold * 1e4),
    )
    return {"water": codes}


def year(segment: Segment) -> Mapping[str, Array]:
    """Days of water and clear days of each month, and the year's occurrence."""
    january = int(slot_of(Calendar.MONTH, segment.first_day))
    months = (slot_of(Calendar.MONTH, segment.days) - january).astype(np.int32)
    water, clear = occurrence(segment.layers["day/water"], months, 12)
    never = clear == 0
    return {
        "water_days": np.where(never, 255, water).astype(np.uint8),
        "clear_days": clear.astype(np.uint8),
        "water_occurrence": occurrence_percent(water, clear)[None],
    }


def count(segment: Segment) -> Array:
    """Wet, dry, masked and snowy pixels of each lake; one outside the swath is in none."""
    wanted = (WATER, LAND, MASKED, SNOW)
    return count_codes(segment.layers["day/water"], segment.zones, wanted=wanted)


def finish(total: Array, context: Context) -> Mapping[str, Array]:
    """Area of each lake and day, with what was not seen and its uncertainty."""
    wet, dry, _, snow = np.moveaxis(total, -1, 0)
    acquired = total.sum(axis=2) > 0
    # Whatever of the lake is not seen is invalid, outside the swath as well as under cloud.
    invalid = np.maximum(context.zone_px - wet - dry - snow, 0)
    found = lake_area(
        np.stack([wet, dry, np.where(acquired, invalid, 0), snow], axis=-1),
        pixel_area_m2=context.pixel_area_m2,
        parameters=context.parameters,
    )
    return {
        "water_area": found.area_m2,
        "water_area_uncertainty": found.area_uncertainty_m2,
        "water_area_seen": found.area_wet_m2,
        "water_percent": found.percent_wet,
        "invalid_fraction": found.invalid_fraction,
        "snow_fraction": found.snow_fraction,
    }


lakes = Product(
    name="lakes",
    version="1",
    title="Lakes and surface water",
    parameters=WaterParameters,
    needs_zones=True,
    resolution="coarsest",
    preview="year/water_occurrence",
    stages=(
        Observe(
            "observe",
            bands=(Band("green"), Band("swir16"), Band("nir")),
            layers=(MNDWI, STATE),
            function=observe,
            tables=(Table("mndwi_histogram", lambda context: (BINS, 2), by_zone=True),),
        ),
        Gather(
            "threshold",
            "mndwi_histogram",
            shape=lambda context: (),
            function=gather_threshold,
            by_zone=True,
        ),
        Derive(
            "classify",
            reads=("day/mndwi", "day/water_state"),
            tables=("threshold",),
            layers=(CODES,),
            segment=Calendar.DAY,
            function=classify,
        ),
        Derive(
            "year",
            reads=("day/water",),
            layers=(
                _days("water_days", "days with water in the month"),
                _days("clear_days", "clear days in the month"),
                OCCURRENCE,
            ),
            segment=Calendar.YEAR,
            function=year,
        ),
        Summarise(
            "series",
            reads=("day/water",),
            series=(
                Series(
                    "water_area", "m2", "open water of the lake, corrected for what was not seen"
                ),
                Series("water_area_uncertainty", "m2", "standard uncertainty of the area"),
                Series("water_area_seen", "m2", "water of the lake that was seen"),
                Series("water_percent", "percent", "water in all pixels of the lake"),
                Series("invalid_fraction", "1", "part of the lake that was not seen"),
                Series("snow_fraction", "1", "part of the lake under snow or ice"),
            ),
            shape=lambda context: (4,),
            count=count,
            finish=finish,
        ),
    ),
)
