"""What is true in the valley: maps of any day and the tables and maps of the whole period."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize

from alpage.files import replacing
from alpage.simulate.clouds import sky
from alpage.simulate.files import write_cog
from alpage.simulate.optics import state
from alpage.simulate.seasons import LAND_COVER, lake_level, snow_line, unit_cover, unit_ndvi
from alpage.simulate.spec import PIXEL_M, ValleySpec, days_between, main_tile
from alpage.simulate.terrain import F32, UNIT_COUNT, landscape
from alpage.simulate.zones import Zone

if TYPE_CHECKING:
    import pandas as pd

START_FRACTION, END_FRACTION = 0.25, 0.15
VEGETATED = ("field", "forest", "alp_meadow")


def true_water(spec: ValleySpec, day: date) -> NDArray[np.bool_]:
    """Lake water on the main 10 m grid: the ground lies below the level of the lake.

    >>> spec = ValleySpec(size_px=128)
    >>> bool(true_water(spec, date(2022, 9, 1)).sum() > true_water(spec, date(2022, 4, 1)).sum())
    True
    """
    return state(spec, main_tile(spec), day).water


def true_snow(spec: ValleySpec, day: date) -> NDArray[np.bool_]:
    """Snow on the main 10 m grid: land above the snow line. The lake never freezes."""
    return state(spec, main_tile(spec), day).snow


def true_ndvi(spec: ValleySpec, day: date) -> F32:
    """NDVI of the land on the main 10 m grid, as if no snow lay on it; NaN on water."""
    now = state(spec, main_tile(spec), day)
    return np.where(now.water, np.float32(np.nan), now.ndvi)


def true_cloud(spec: ValleySpec, day: date) -> NDArray[np.bool_]:
    """Pixels of the main 10 m grid whose view a cloud or cirrus spoils by a tenth or more."""
    return sky(spec, main_tile(spec), day).is_cloud.repeat(2, 0).repeat(2, 1)


def true_shadow(spec: ValleySpec, day: date) -> NDArray[np.bool_]:
    """Pixels of the main 10 m grid in the shadow of a cloud and not under one."""
    return sky(spec, main_tile(spec), day).is_shadow.repeat(2, 0).repeat(2, 1)


def true_land_cover(spec: ValleySpec) -> NDArray[np.uint8]:
    """Land cover of the main 10 m grid, codes of `seasons.LAND_COVER`."""
    codes = [0] + [LAND_COVER[unit_cover(unit)] for unit in range(1, UNIT_COUNT)]
    return np.array(codes, np.uint8)[landscape(spec, main_tile(spec)).unit]


def true_snow_days(spec: ValleySpec, first: date, last: date) -> NDArray[np.int16]:
    """Days with snow from first to last, both included, on the main 10 m grid."""
    days = days_between(first, last)
    # Snow lies where z > line and z >= level, so above the higher of the line and the last
    # number below the level.
    level = np.nextafter(_levels(spec, days), np.float32(-np.inf))
    limits = np.sort(np.maximum(_snow_lines(spec, days), level))
    z = landscape(spec, main_tile(spec)).z
    return np.searchsorted(limits, z, side="left").astype(np.int16)


def true_occurrence(spec: ValleySpec, first: date, last: date) -> F32:
    """Fraction of the days from first to last on which a pixel of the main grid is water."""
    levels = np.sort(_levels(spec, days_between(first, last)))
    z = landscape(spec, main_tile(spec)).z
    dry = np.searchsorted(levels, z, side="right")
    return ((levels.size - dry) / levels.size).astype(np.float32)


def daily_tables(spec: ValleySpec) -> dict[str, "pd.DataFrame"]:
    """Lake area, snow line and snow cover fraction of every day of the period.

    Keys are file names without suffix: ``lake_area`` (date, area_m2), ``snow_line``
    (date, elevation_m), ``snow_cover_fraction`` (date, fraction of the whole main grid).
    """
    import pandas as pd

    z = np.sort(landscape(spec, main_tile(spec)).z, axis=None)
    levels, lines = _levels(spec, spec.days), _snow_lines(spec, spec.days)
    wet = np.searchsorted(z, levels, side="left")
    above = z.size - np.searchsorted(z, lines, side="right")
    snowy = np.minimum(above, z.size - wet)
    dates = pd.Series([day.isoformat() for day in spec.days], name="date")
    return {
        "lake_area": pd.DataFrame({"date": dates, "area_m2": wet * PIXEL_M**2}),
        "snow_line": pd.DataFrame({"date": dates, "elevation_m": lines.round(2)}),
        "snow_cover_fraction": pd.DataFrame(
            {"date": dates, "snow_fraction": (snowy / z.size).round(6)}
        ),
    }


def zone_ndvi(spec: ValleySpec, zone: Zone, days: Sequence[date]) -> NDArray[np.float64]:
    """Mean NDVI of the ground of a zone on each day, noise and snow apart; shape (days,)."""
    tile = main_tile(spec)
    ground = landscape(spec, tile)
    inside = rasterize(
        [zone.polygon], out_shape=tile.shape, transform=tile.transform(), dtype=np.uint8
    ).astype(bool)
    pixels = np.bincount(ground.unit[inside], minlength=UNIT_COUNT)
    vigour = np.bincount(ground.unit[inside], ground.vigour[inside], minlength=UNIT_COUNT)
    curves = [unit_ndvi(spec.seed, day) for day in days]
    return np.array([base @ pixels + season @ vigour for base, season in curves]) / pixels.sum()


def season_of(ndvi: NDArray[np.float64]) -> tuple[float, int, float]:
    """(start, peak, end) of the growing season of one year of daily values.

    Days of the year, 1 being the first value. The start is where the curve last rises through a
    quarter of the amplitude above the lowest value before the peak, the end where it first falls
    through 15 % of the amplitude above the lowest value after it, both interpolated linearly.

    A triangle from 0.2 on day 90 through 0.8 on day 180 to 0.2 on day 300:

    >>> curve = np.interp(np.arange(1, 366), [90, 180, 300], [0.2, 0.8, 0.2])
    >>> [round(float(day), 6) for day in season_of(curve)]
    [112.5, 180.0, 282.0]
    """
    peak = int(np.argmax(ndvi))
    left, right = ndvi[: peak + 1], ndvi[peak:]
    low, high = left.min(), right.min()
    rise = low + START_FRACTION * (ndvi[peak] - low)
    fall = high + END_FRACTION * (ndvi[peak] - high)
    before = int(np.flatnonzero(left < rise)[-1])
    after = peak + int(np.flatnonzero(right < fall)[0])
    start = before + (rise - ndvi[before]) / (ndvi[before + 1] - ndvi[before])
    end = after - (fall - ndvi[after]) / (ndvi[after - 1] - ndvi[after])
    return float(start) + 1, peak + 1, float(end) + 1


def vegetation_tables(spec: ValleySpec, zones: Sequence[Zone]) -> dict[str, "pd.DataFrame"]:
    """Season dates per vegetated zone and calendar year, and NDVI per zone and day.

    Keys: ``phenology`` (zone, year, start, peak, end; days of the year) for every calendar year
    that the period touches, and ``ndvi`` (zone, date, ndvi).
    """
    import pandas as pd

    seasons, curves = [], []
    for zone in zones:
        if zone.kind not in VEGETATED:
            continue
        for year in range(spec.start.year, spec.end.year + 1):
            whole = days_between(date(year, 1, 1), date(year, 12, 31))
            start, peak, end = season_of(zone_ndvi(spec, zone, whole))
            seasons.append((zone.id, year, round(start, 2), peak, round(end, 2)))
        values = zone_ndvi(spec, zone, spec.days).round(5)
        curves += [(zone.id, d.isoformat(), n) for d, n in zip(spec.days, values, strict=True)]
    return {
        "phenology": pd.DataFrame(seasons, columns=["zone", "year", "start", "peak", "end"]),
        "ndvi": pd.DataFrame(curves, columns=["zone", "date", "ndvi"]),
    }


def snow_seasons(spec: ValleySpec) -> tuple[tuple[date, date], ...]:
    """(first, last) day of each snow year, 1 September to 31 August, cut to the period.

    >>> [(str(a), str(b)) for a, b in snow_seasons(ValleySpec())]
    [('2021-09-01', '2022-08-31'), ('2022-09-01', '2022-12-31')]
    """
    seasons = [
        (max(spec.start, date(year, 9, 1)), min(spec.end, date(year + 1, 8, 31)))
        for year in range(spec.start.year - 1, spec.end.year + 1)
    ]
    return tuple((first, last) for first, last in seasons if first <= last)


def write_truth(folder: Path, spec: ValleySpec, zones: Sequence[Zone]) -> None:
    """Write every table and map of the truth into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (daily_tables(spec) | vegetation_tables(spec, zones)).items():
        with replacing(folder / f"{name}.csv") as path:
            table.to_csv(path, index=False)
    tile = main_tile(spec)
    maps: dict[str, tuple[NDArray[np.generic], float | None]] = {
        "landcover": (true_land_cover(spec), 0),
        "occurrence": (true_occurrence(spec, spec.start, spec.end), None),
    }
    for first, last in snow_seasons(spec):
        autumn = first.year if first.month >= 9 else first.year - 1
        maps[f"scd_{autumn}-{autumn + 1}"] = (true_snow_days(spec, first, last), None)
    for name, (array, nodata) in maps.items():
        write_cog(folder / f"{name}.tif", array, tile, spec.block_px, nodata=nodata)


def _levels(spec: ValleySpec, days: Sequence[date]) -> F32:
    return np.array([lake_level(spec, day) for day in days], np.float32)


def _snow_lines(spec: ValleySpec, days: Sequence[date]) -> F32:
    return np.array([snow_line(spec, day) for day in days], np.float32)
