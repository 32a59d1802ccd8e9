"""Surface water from MNDWI: what can be water, land and water, and how often.

Sources: Xu 2006, 10.1080/01431160600589179 (MNDWI); Pekel et al. 2016, 10.1038/nature20584
(occurrence). Thresholds and areas of single lakes are in `science.lakes`.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from alpage.science.masks import Quality

FILL = -32768
LAND, WATER, SNOW, MASKED, NODATA = 0, 1, 2, 205, 254
CLEAR, NEVER_WATER = 0, 1
"""States of `water_observation`, besides SNOW, MASKED and NODATA."""

_FILL_BIT = int(Quality.FILL)
_DOUBTFUL = int(Quality.DARK | Quality.SNOW)


class WaterParameters(BaseModel):
    """Limits of the water rules; reflectances and indices as fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_threshold: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="MNDWI above which a pixel is water where a lake gives no threshold of its "
        "own: green brighter than SWIR (Xu 2006)",
    )
    minimum_separability: float = Field(
        0.75,
        ge=0,
        le=1,
        description="between-class over total variance that a histogram must pass to be called "
        "bimodal: a flat one reaches 3/4, a normal one 2/pi",
    )
    minimum_class: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="part of a lake's clear pixels that water and land must each hold: below it "
        "Otsu's threshold splits the larger class; and part of open water and snow that must be "
        "water for a lake not to be called frozen",
    )
    minimum_threshold: float = Field(
        -0.3,
        ge=-1,
        le=1,
        description="lowest threshold of a lake: a pixel half of clear water, half of meadow "
        "(green 0.05, SWIR 0.19) is at -0.24",
    )
    maximum_threshold: float = Field(
        0.4,
        ge=-1,
        le=1,
        description="highest threshold of a lake: a pixel half of turbid water (green 0.20, SWIR "
        "0.03), half of dark wood (0.02, 0.06) is at 0.42",
    )
    maximum_invalid: float = Field(
        0.10,
        ge=0,
        le=1,
        description="part of a lake that may be unseen before its area is unknown (DE Africa)",
    )
    snow_ndsi: float = Field(
        0.4, ge=-1, le=1, description="NDSI of snow, which has the formula of MNDWI (Let-It-Snow)"
    )
    snow_nir: float = Field(
        0.11, ge=0, le=1, description="NIR reflectance of snow, which water does not reach (Fmask)"
    )
    bright_nir: float = Field(
        0.25,
        ge=0,
        le=1,
        description="NIR reflectance that a pixel half of water does not reach, for the densest "
        "meadow has 0.5: above it, MNDWI beyond 0 is thin cloud or patches of snow",
    )
    dark_ndwi: float = Field(
        0.4,
        ge=-1,
        le=1,
        description="NDWI of water in a pixel called dark or snow: skylight alone is up to 2.8 "
        "times stronger in green than in NIR (clean air at 2000 m), which lifts pale rock in "
        "shadow from -0.1 to 0.4",
    )
    dark_green: float = Field(
        0.015,
        ge=0,
        le=1,
        description="reflectance that tells a signal from noise in such a pixel: three times the "
        "0.005 by which atmospheric correction may err over black ground (10.3390/rs10020352)",
    )


def water_observation(
    green: NDArray[np.uint16],
    swir16: NDArray[np.uint16],
    nir: NDArray[np.uint16],
    quality: NDArray[np.uint8],
    *,
    gains: NDArray[np.floating[Any]],
    offsets: NDArray[np.floating[Any]],
    mask: int,
    parameters: WaterParameters,
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.int32]]:
    """Return MNDWI × 10000 (int16), state (uint8) and brightness (int32), each (t, y, x).

    The bands are digital numbers, 0 = no data; `gains` and `offsets` of shape (3, t) turn
    green, SWIR and NIR into reflectance × 1e4. The state is

    - NODATA where `quality` says FILL or a band is empty;
    - MASKED where `quality` has another bit of `mask`, or nothing can be decided;
    - SNOW where NDSI and NIR exceed their limits;
    - MASKED where NIR is too bright for water and green too bright for land, as under thin
      cloud, NEVER_WATER where only NIR is too bright;
    - NEVER_WATER or MASKED for a pixel called dark or snow that does not prove to be water;
    - CLEAR else: MNDWI decides.

    In shadow only skylight falls, which is so poor in SWIR that any ground has the MNDWI
    of water; NIR fails less. Such a pixel is water only if NDWI is beyond what skylight
    makes of rock and green is above noise; it is land where NIR exceeds green by more than
    noise; else it stays undecided. MNDWI is FILL where the state is MASKED or NODATA.
    Brightness is (green + SWIR) × 1e4, at least 1, where MNDWI is that of lit land or of
    water, and 0 elsewhere.

    >>> dn = np.array([[[800, 7800, 300]]], dtype="uint16")
    >>> swir, nir = (np.array([[v]], dtype="uint16") for v in ([100, 800, 100], [200, 7000, 280]))
    >>> index, state, brightness = water_observation(
    ...     dn, swir, nir, np.array([[[0, 0, 128]]], dtype="uint8"),
    ...     gains=np.ones((3, 1)), offsets=np.zeros((3, 1)), mask=2, parameters=WaterParameters())
    >>> index.tolist(), state.tolist(), brightness.tolist()
    ([[[7778, 8140, -32768]]], [[[0, 2, 205]]], [[[900, 0, 0]]])
    """
    shape = green.shape
    for name, array in (("swir16", swir16), ("nir", nir), ("quality", quality)):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, green {shape}: they must agree")
    if gains.shape != (3, shape[0]) or offsets.shape != gains.shape:
        raise ValueError(
            f"expected gains and offsets of shape (3, {shape[0]}), "
            f"got {gains.shape} and {offsets.shape}"
        )
    linear = np.stack([gains, offsets]).astype(np.float64)
    limits = (
        parameters.snow_ndsi,
        round(parameters.snow_nir * 1e4, 6),
        parameters.dark_ndwi,
        round(parameters.dark_green * 1e4, 6),
        round(parameters.bright_nir * 1e4, 6),
    )
    mndwi, state, brightness = _water_observation(
        green, swir16, nir, quality, linear, np.uint8(mask), limits
    )
    return mndwi, state, brightness


@njit(cache=True, nogil=True)
def _water_observation(
    green: Any, swir: Any, nir: Any, quality: Any, linear: Any, mask: Any, limits: Any
) -> Any:
    mndwi = np.full(green.shape, FILL, np.int16)
    state = np.empty(green.shape, np.uint8)
    brightness = np.zeros(green.shape, np.int32)
    for t in range(green.shape[0]):
        for y in range(green.shape[1]):
            for x in range(green.shape[2]):
                g_dn, s_dn, n_dn = green[t, y, x], swir[t, y, x], nir[t, y, x]
                bits = quality[t, y, x]
                if bits & _FILL_BIT != 0 or g_dn == 0 or s_dn == 0 or n_dn == 0:
                    state[t, y, x] = NODATA
                    continue
                g = g_dn * linear[0, 0, t] + linear[1, 0, t]
                s = s_dn * linear[0, 1, t] + linear[1, 1, t]
                n = n_dn * linear[0, 2, t] + linear[1, 2, t]
                if bits & mask != 0 or g + s <= 0.0:
                    state[t, y, x] = MASKED
                    continue
                doubtful = bits & _DOUBTFUL != 0
                found = _state(g, s, n, doubtful, limits)
                state[t, y, x] = found
                if found != MASKED:
                    value = np.rint(10000.0 * (g - s) / (g + s))
                    mndwi[t, y, x] = np.int16(min(max(value, -10000.0), 10000.0))
                if found == CLEAR or (found == NEVER_WATER and not doubtful):
                    brightness[t, y, x] = max(np.int32(np.rint(g + s)), 1)
    return mndwi, state, brightness


@njit(cache=True, nogil=True)
def _state(g: float, s: float, n: float, doubtful: bool, limits: Any) -> int:
    snow_ndsi, snow_nir, dark_ndwi, noise, bright_nir = limits
    if g - s > snow_ndsi * (g + s) and n > snow_nir:
        return SNOW
    if n > bright_nir:
        return MASKED if g > s else NEVER_WATER
    if not doubtful:
        return CLEAR
    if g > noise and g - n >= dark_ndwi * (g + n):
        return CLEAR
    return NEVER_WATER if n - g > noise else MASKED


def classify_water(
    mndwi: NDArray[np.int16],
    state: NDArray[np.uint8],
    *,
    thresholds: NDArray[np.int16],
    zone_of_pixel: NDArray[np.int32],
    default: int,
) -> NDArray[np.uint8]:
    """Return LAND, WATER, SNOW, MASKED or NODATA of each pixel: uint8, shape (t, y, x).

    `mndwi` and `state` are those of `water_observation`. A clear pixel is water where its
    MNDWI exceeds the threshold × 10000 of its date and lake, `thresholds` of shape
    (t, lakes); `zone_of_pixel` of shape (y, x) numbers the lake, and pixels of none (-1)
    take `default`.

    >>> classify_water(
    ...     np.array([[[100, 100, 100, -32768]]], dtype="int16"),
    ...     np.array([[[0, 0, 2, 205]]], dtype="uint8"),
    ...     thresholds=np.array([[200]], dtype="int16"),
    ...     zone_of_pixel=np.array([[-1, 0, 0, 0]], dtype="int32"), default=0)
    array([[[  1,   0,   2, 205]]], dtype=uint8)
    """
    t, *yx = mndwi.shape
    if state.shape != mndwi.shape or zone_of_pixel.shape != tuple(yx):
        raise ValueError(
            f"mndwi has shape {mndwi.shape}: expected a state of the same and zones of shape "
            f"{tuple(yx)}, got {state.shape} and {zone_of_pixel.shape}"
        )
    if thresholds.shape[0] != t or zone_of_pixel.max(initial=-1) >= thresholds.shape[1]:
        raise ValueError(
            f"thresholds have shape {thresholds.shape}: expected {t} dates and at least "
            f"{zone_of_pixel.max(initial=-1) + 1} lakes"
        )
    return np.asarray(_classify_water(mndwi, state, thresholds, zone_of_pixel, default))


@njit(cache=True, nogil=True)
def _classify_water(mndwi: Any, state: Any, thresholds: Any, zones: Any, default: int) -> Any:
    codes = np.empty(state.shape, np.uint8)
    for t in range(state.shape[0]):
        for y in range(state.shape[1]):
            for x in range(state.shape[2]):
                found = state[t, y, x]
                if found == CLEAR:
                    zone = zones[y, x]
                    limit = np.int64(thresholds[t, zone]) if zone >= 0 else default
                    codes[t, y, x] = WATER if mndwi[t, y, x] > limit else LAND
                else:
                    codes[t, y, x] = LAND if found == NEVER_WATER else found
    return codes


def occurrence(
    codes: NDArray[np.uint8], month_of_day: NDArray[np.int32], n_months: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return days of water and clear days by month: two uint16 (n_months, y, x).

    `codes` are those of `classify_water`, (d, y, x); `month_of_day` numbers the month of
    each day, -1 for a day that does not count. A clear day shows land or water: snow and
    ice hide which, as in Pekel et al.

    >>> codes = np.array([1, 0, 2, 1], dtype="uint8").reshape(4, 1, 1)
    >>> water, clear = occurrence(codes, np.array([0, 0, 0, 1], dtype="int32"), 2)
    >>> water.ravel(), clear.ravel()
    (array([1, 1], dtype=uint16), array([2, 1], dtype=uint16))
    """
    water = np.zeros((n_months, *codes.shape[1:]), np.uint16)
    clear = np.zeros_like(water)
    for code_map, month in zip(codes, month_of_day, strict=True):
        if 0 <= month < n_months:
            water[month] += code_map == WATER
            clear[month] += code_map <= WATER
    return water, clear


def occurrence_percent(
    water_days: NDArray[np.uint16], clear_days: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """Return water in percent of clear days, mean of the months observed: uint8 (y, x).

    Months count alike however often they were seen, so that clear summers do not outweigh
    cloudy winters. 255 where no month was observed.

    >>> days = np.array([[1, 9, 0], [2, 9, 0]], dtype="uint16").reshape(2, 3, 1, 1)
    >>> occurrence_percent(*days)
    array([[75]], dtype=uint8)
    """
    seen = clear_days > 0
    share = np.divide(water_days, clear_days, out=np.zeros(seen.shape), where=seen)
    months = seen.sum(axis=0)
    percent = np.rint(100 * share.sum(axis=0) / np.maximum(months, 1))
    return np.where(months > 0, percent, 255).astype(np.uint8)
