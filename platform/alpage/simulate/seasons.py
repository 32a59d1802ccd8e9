"""The year in the valley: lake level, snow line, plant growth and sun, day by day."""

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alpage.simulate import terrain
from alpage.simulate.spec import ValleySpec

YEAR_DAYS = 365.25
LATITUDE_DEG = 45.8

LAND_COVER = {
    "lake_bed": 1,
    "forest": 2,
    "maize": 3,
    "wheat": 4,
    "grassland": 5,
    "pasture": 6,
    "alp_meadow": 7,
    "rock": 8,
}


@dataclass(frozen=True)
class Growth:
    """Double logistic of NDVI over the year; days count from 1 January as day 1."""

    base: float
    peak: float
    rise_day: float
    rise_rate: float
    fall_day: float
    fall_rate: float

    def ndvi(self, day: float) -> float:
        """NDVI on a day of the year."""
        rise = 1 / (1 + np.exp(-self.rise_rate * (day - self.rise_day)))
        fall = 1 / (1 + np.exp(self.fall_rate * (day - self.fall_day)))
        return float(self.base + (self.peak - self.base) * rise * fall)


GROWTH = {
    "lake_bed": Growth(0.13, 0.13, 120, 0.1, 280, 0.1),
    "forest": Growth(0.52, 0.83, 122, 0.10, 288, 0.07),
    "maize": Growth(0.18, 0.80, 164, 0.11, 268, 0.12),
    "wheat": Growth(0.22, 0.79, 96, 0.08, 186, 0.13),
    "grassland": Growth(0.40, 0.81, 102, 0.07, 296, 0.07),
    "pasture": Growth(0.38, 0.75, 108, 0.07, 290, 0.07),
    "alp_meadow": Growth(0.22, 0.68, 170, 0.10, 266, 0.08),
    "rock": Growth(0.11, 0.11, 120, 0.1, 280, 0.1),
}
_UNIT_COVERS = ("lake_bed", "forest", "pasture", "alp_meadow", "rock")
_FIELD_COVERS = ("maize", "wheat", "grassland")


def unit_cover(unit: int) -> str:
    """Name of the land cover of a unit.

    >>> unit_cover(2), unit_cover(6), unit_cover(7)
    ('forest', 'maize', 'wheat')
    """
    if unit < terrain.FIRST_FIELD:
        return _UNIT_COVERS[unit - 1]
    field = unit - terrain.FIRST_FIELD
    return _FIELD_COVERS[(field + field // 3) % 3]


@lru_cache(maxsize=8192)
def unit_ndvi(seed: int, day: date) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Base and seasonal part of NDVI of every unit on a day.

    Returns (base, season), each float32 of shape (UNIT_COUNT,); NDVI of a pixel is
    ``base[unit] + vigour * season[unit]``. Entry 0 is unused.
    """
    shift_year = float(np.random.default_rng([seed, day.year, 1]).normal(0, 4))
    shift_unit = np.random.default_rng([seed, 2]).uniform(-7, 7, terrain.UNIT_COUNT)
    shift_unit[: terrain.FIRST_FIELD] = 0
    base = np.zeros(terrain.UNIT_COUNT, np.float32)
    season = np.zeros(terrain.UNIT_COUNT, np.float32)
    for unit in range(1, terrain.UNIT_COUNT):
        growth = GROWTH[unit_cover(unit)]
        base[unit] = growth.base
        ndvi = growth.ndvi(day.timetuple().tm_yday - shift_year - shift_unit[unit])
        season[unit] = ndvi - growth.base
    return base, season


def lake_level(spec: ValleySpec, day: date) -> float:
    """Level of the lake in metres: highest in late summer, lowest in spring, slowly falling.

    >>> spec = ValleySpec()
    >>> lake_level(spec, date(2022, 9, 1)) > lake_level(spec, date(2022, 4, 1)) + 10
    True
    """
    year = 2 * np.pi * (_day_of_epoch(day) / YEAR_DAYS)
    season = np.cos(year - 2 * np.pi * 238 / YEAR_DAYS)
    wobble = _wobble(spec.seed, day, purpose=3, period_days=47.0)
    fall = 2.4 * np.tanh((day - spec.start).days / (4 * YEAR_DAYS))
    return float(terrain.FLOOR_M - 14.0 + 7.5 * season + 1.2 * wobble - fall)


def snow_line(spec: ValleySpec, day: date) -> float:
    """Elevation of the snow line in metres: snow lies above it, down to the floor in winter.

    >>> spec = ValleySpec()
    >>> snow_line(spec, date(2022, 2, 10)) < 640 < 2700 < snow_line(spec, date(2022, 8, 14))
    True
    """
    year = 2 * np.pi * (_day_of_epoch(day) - 225) / YEAR_DAYS
    wobble = _wobble(spec.seed, day, purpose=4, period_days=83.0)
    return float(1680 + 1260 * np.cos(year) + 50 * wobble - _fresh_snow(spec.seed, day))


def sun_position(day: date) -> tuple[float, float]:
    """(azimuth, elevation) of the sun in degrees at the overpass, 24 degrees before noon.

    Declination by the usual cosine approximation, good to a degree.
    """
    declination = np.radians(
        -23.44 * np.cos(2 * np.pi * (day.timetuple().tm_yday + 10) / YEAR_DAYS)
    )
    latitude, hour = np.radians(LATITUDE_DEG), np.radians(-24.0)
    east = -np.cos(declination) * np.sin(hour)
    north = np.sin(declination) * np.cos(latitude) - np.cos(declination) * np.cos(hour) * np.sin(
        latitude
    )
    up = np.sin(declination) * np.sin(latitude) + np.cos(declination) * np.cos(hour) * np.cos(
        latitude
    )
    return float(np.degrees(np.arctan2(east, north)) % 360), float(np.degrees(np.arcsin(up)))


def _fresh_snow(seed: int, day: date) -> float:
    """Metres by which recent snowfalls push the snow line down; each fades within two weeks."""
    drop = 0.0
    for winter in (day.year - 1, day.year):
        rng = np.random.default_rng([seed, winter, 5])
        first = date(winter, 10, 1).toordinal()
        falls = zip(rng.integers(0, 230, 5), rng.uniform(120, 260, 5), strict=True)
        for start, metres in falls:
            age = day.toordinal() - first - int(start)
            if age >= 0:
                drop += float(metres) * float(np.exp(-age / 6))
    return drop


def _wobble(seed: int, day: date, *, purpose: int, period_days: float) -> float:
    phases = np.random.default_rng([seed, purpose]).uniform(0, 2 * np.pi, 3)
    turns = 2 * np.pi * _day_of_epoch(day) / (period_days * np.array([1.0, 1.7, 2.9]))
    return float(np.mean(np.sin(turns + phases)))


def _day_of_epoch(day: date) -> int:
    return (day - date(2000, 1, 1)).days + 1
