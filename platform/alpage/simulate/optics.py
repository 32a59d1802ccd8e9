"""Reflectance of the valley: from the state of the ground and the sky to the bands."""

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alpage.simulate import terrain
from alpage.simulate.clouds import SHADOW_DEPTH, Ground, Sky
from alpage.simulate.seasons import lake_level, snow_line, sun_position, unit_cover, unit_ndvi
from alpage.simulate.spec import Tile, ValleySpec
from alpage.simulate.terrain import F32, landscape

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
BANDS_20M = ("swir16", "swir22")

# Bare ground and full green cover of each land cover, reflectance in the order of BANDS.
_SOIL = (0.065, 0.095, 0.135, 0.205, 0.290, 0.240)
_LEAF = (0.022, 0.052, 0.021, 0.450, 0.190, 0.085)
_LITTER = (0.030, 0.048, 0.058, 0.120, 0.140, 0.090)
_NEEDLE = (0.016, 0.030, 0.015, 0.230, 0.090, 0.038)
_STONE = (0.135, 0.160, 0.180, 0.220, 0.250, 0.230)
_GRAVEL = (0.120, 0.150, 0.170, 0.215, 0.260, 0.220)
_PAIRS = {"forest": (_LITTER, _NEEDLE), "rock": (_STONE, _LEAF), "lake_bed": (_GRAVEL, _LEAF)}

WATER = (0.055, 0.068, 0.038, 0.018, 0.007, 0.005)
SNOW = (0.880, 0.875, 0.860, 0.780, 0.095, 0.075)
CLOUD = (0.580, 0.570, 0.570, 0.610, 0.440, 0.340)
CANOPY_ABOVE_SNOW = 0.3
RELIEF_SHADING = 0.4
DARK_SLOPE = 0.72


@dataclass(frozen=True)
class State:
    """The ground of a tile on one date, on its 10 m grid."""

    water: NDArray[np.bool_]
    snow: NDArray[np.bool_]
    ndvi: F32
    """NDVI of the land free of snow and water."""
    green: F32
    """Share of full green cover, from NDVI and the land cover."""
    light: F32
    """Factor on the brightness of every band."""


def state(spec: ValleySpec, tile: Tile, day: date) -> State:
    """Water, snow, vegetation and light of a tile on one date."""
    ground = landscape(spec, tile)
    water = ground.z < np.float32(lake_level(spec, day))
    snow = (ground.z > np.float32(snow_line(spec, day))) & ~water
    base, season = unit_ndvi(spec.seed, day)
    ndvi = base[ground.unit] + ground.vigour * season[ground.unit]
    light = np.where(water, np.float32(1), ground.texture * _shading(ground, day))
    green = _green_fraction(ground.unit, ndvi)
    return State(water=water, snow=snow, ndvi=ndvi, green=green, light=light)


def band_reflectance(spec: ValleySpec, tile: Tile, band: str, now: State) -> F32:
    """Reflectance of the ground in one band, without clouds or noise: float32 at 10 m, unitless.

    Light multiplies all bands alike, so the NDVI of red and nir is that of the state.
    """
    unit = landscape(spec, tile).unit
    index = BANDS.index(band)
    soil, leaf = _cover_spectra()
    bare, green = soil[:, index][unit], leaf[:, index][unit]
    land = bare + now.green * (green - bare)
    canopy = np.where(unit == terrain.FOREST, np.float32(CANOPY_ABOVE_SNOW), np.float32(0))
    snowy = canopy * land + (1 - canopy) * np.float32(SNOW[index])
    surface = np.where(now.snow, snowy, land)
    return np.where(now.water, np.float32(WATER[index]), surface * now.light)


def seen_reflectance(ground: F32, over: Sky, band: str) -> F32:
    """Reflectance of the ground (10 m) seen through a sky (20 m): float32 at 10 m."""
    opacity, shadow = _doubled(over.opacity), _doubled(over.shadow)
    cloud = np.float32(CLOUD[BANDS.index(band)])
    return ground * (1 - np.float32(SHADOW_DEPTH) * shadow) * (1 - opacity) + cloud * opacity


def ground_20m(now: State) -> Ground:
    """State of the ground on the 20 m grid: the majority of each four pixels, ties won."""
    return Ground(
        snow=mean_20m(now.snow) >= 0.5,
        water=mean_20m(now.water) >= 0.5,
        ndvi=mean_20m(now.ndvi),
        dark=mean_20m(now.light) < DARK_SLOPE,
    )


def mean_20m(field: NDArray[np.bool_] | F32) -> F32:
    """Mean of each two by two pixels: float32, half the height and width."""
    values = field.astype(np.float32, copy=False)
    upper, lower = values[0::2], values[1::2]
    sums = upper[:, 0::2] + upper[:, 1::2] + lower[:, 0::2] + lower[:, 1::2]
    return np.asarray(sums / np.float32(4), np.float32)


def _doubled(field: F32) -> F32:
    return field.repeat(2, 0).repeat(2, 1)


def _shading(ground: terrain.Landscape, day: date) -> F32:
    """Mild relief shading: the cosine of incidence relative to flat ground, damped."""
    azimuth, height = np.radians(sun_position(day))
    # The normal of the surface is (-rise east, rise south, 1) in (east, north, up).
    normal = np.sqrt(1 + ground.slope_east**2 + ground.slope_south**2)
    towards = np.cos(height) * (
        -ground.slope_east * np.sin(azimuth) + ground.slope_south * np.cos(azimuth)
    )
    cosine = (towards + np.sin(height)) / (normal * np.sin(height))
    return np.asarray(np.clip(1 + RELIEF_SHADING * (cosine - 1), 0.55, 1.25), np.float32)


def _green_fraction(unit: NDArray[np.uint8], ndvi: F32) -> F32:
    """Share of full green cover that gives this NDVI when mixed with bare ground."""
    soil, leaf = _cover_spectra()
    red, nir = BANDS.index("red"), BANDS.index("nir")
    bare_sum, bare_gap = soil[:, nir] + soil[:, red], soil[:, nir] - soil[:, red]
    rise_sum = leaf[:, nir] + leaf[:, red] - bare_sum
    rise_gap = leaf[:, nir] - leaf[:, red] - bare_gap
    above = ndvi * bare_sum[unit] - bare_gap[unit]
    return np.asarray(above / (rise_gap[unit] - ndvi * rise_sum[unit]), np.float32)


@lru_cache(maxsize=1)
def _cover_spectra() -> tuple[F32, F32]:
    """(bare, green) spectra of every unit, each of shape (UNIT_COUNT, bands); row 0 is unused."""
    pairs = [(_SOIL, _LEAF)]
    pairs += [_PAIRS.get(unit_cover(i), (_SOIL, _LEAF)) for i in range(1, terrain.UNIT_COUNT)]
    bare, green = zip(*pairs, strict=True)
    return np.array(bare, np.float32), np.array(green, np.float32)
