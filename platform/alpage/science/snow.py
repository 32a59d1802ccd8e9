"""Snow masks in two passes around a snow line: the Let-It-Snow algorithm.

Source: Gascoin et al. 2019, 10.5194/essd-11-493-2019, and the defaults of Let-It-Snow
1.5. A date is worked in three steps, so that areas of any size can be cut in blocks:
`snow_flags` per block, `snow_line.elevation_histogram` summed over blocks and
read by `snow_line.snow_line_lis`, `classify_snow` per block again.
"""

from enum import IntFlag
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from alpage.science.masks import Quality

NO_SNOW = 0
SNOW = 100
CLOUD = 205
NODATA = 254

NO_SNOW_LINE = -1.0
"""Elevation that `snow_line_lis` answers where pass 2 must not run."""


class LisParameters(BaseModel):
    """Thresholds of Let-It-Snow; every comparison is strictly greater."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ndsi_pass1: float = Field(0.40, ge=-1, le=1, description="NDSI of sure snow, unitless")
    red_pass1: float = Field(0.200, ge=0, le=1, description="red reflectance of sure snow")
    ndsi_pass2: float = Field(0.15, ge=-1, le=1, description="NDSI above the snow line, unitless")
    red_pass2: float = Field(0.040, ge=0, le=1, description="red reflectance above the snow line")
    elevation_step_m: float = Field(100.0, gt=0, description="height of an elevation band, m (dz)")
    snow_fraction_limit: float = Field(
        0.10, ge=0, le=1, description="snow in the clear pixels of the lowest snowy band, fraction"
    )
    clear_fraction_limit: float = Field(
        0.10, ge=0, le=1, description="clear pixels of a band that may be judged, fraction"
    )
    snow_fraction_total_limit: float = Field(
        0.001, ge=0, le=1, description="sure snow in all pixels below which pass 2 is left out"
    )
    red_dark_cloud: float = Field(
        0.300, ge=0, le=1, description="coarse red reflectance above which a cloud stays a cloud"
    )
    red_back_to_cloud: float = Field(
        0.100, ge=0, le=1, description="red reflectance above which cloud without snow is cloud"
    )
    coarse_factor: int | None = Field(
        None,
        ge=1,
        le=64,
        description="side of a coarse red cell in pixels; none: 240 m, 12 at 20 m and 8 at 30 m",
    )


class SnowFlag(IntFlag):
    """What one date says of a pixel before the snow line is known. 0: not observed."""

    PASS1 = 1
    PASS2 = 2
    """All of pass 2 but the elevation test."""
    ALL_CLOUD = 4
    CLOUD_REFINED = 8
    BACK_TO_CLOUD = 16
    OBSERVED = 32


# Kernels see plain integers: numba takes no enum members.
_FILL = int(Quality.FILL)
_ANY_CLOUD = int(Quality.CLOUD | Quality.CIRRUS | Quality.SHADOW)
_SURE_CLOUD = int(Quality.CIRRUS | Quality.SHADOW)
_PASS1 = int(SnowFlag.PASS1)
_PASS2 = int(SnowFlag.PASS2)
_ALL_CLOUD = int(SnowFlag.ALL_CLOUD)
_REFINED = int(SnowFlag.CLOUD_REFINED)
_BACK = int(SnowFlag.BACK_TO_CLOUD)
_OBSERVED = int(SnowFlag.OBSERVED)


def snow_flags(
    green: NDArray[np.uint16],
    red: NDArray[np.uint16],
    swir16: NDArray[np.uint16],
    quality: NDArray[np.uint8],
    *,
    gains: NDArray[np.floating[Any]],
    offsets: NDArray[np.floating[Any]],
    coarse: NDArray[np.float32],
    parameters: LisParameters,
) -> NDArray[np.uint8]:
    """Return the `SnowFlag` bits of each pixel: uint8, shape (t, y, x).

    The bands are digital numbers, 0 = no data; `gains` and `offsets` of shape (3, t) turn
    green, red and SWIR into reflectance × 1e4. `quality` holds `Quality` bits, `coarse`
    the answer of `coarse_red`. Snow and saturated pixels of `quality` stay observed:
    bright snow saturates.

    >>> dn = np.array([[[5000, 0]]], dtype="uint16")
    >>> flags = snow_flags(
    ...     dn, dn, dn // 5, np.zeros((1, 1, 2), "uint8"),
    ...     gains=np.ones((3, 1)), offsets=np.zeros((3, 1)),
    ...     coarse=dn.astype("float32"), parameters=LisParameters())
    >>> SnowFlag(int(flags[0, 0, 0])), int(flags[0, 0, 1])
    (<SnowFlag.PASS1|PASS2|OBSERVED: 35>, 0)
    """
    shape = green.shape
    for name, array in (("red", red), ("swir16", swir16), ("quality", quality), ("coarse", coarse)):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, green {shape}: they must agree")
    if gains.shape != (3, shape[0]) or offsets.shape != gains.shape:
        raise ValueError(
            f"expected gains and offsets of shape (3, {shape[0]}), "
            f"got {gains.shape} and {offsets.shape}"
        )
    limits = (
        parameters.ndsi_pass1,
        _scaled(parameters.red_pass1),
        parameters.ndsi_pass2,
        _scaled(parameters.red_pass2),
        _scaled(parameters.red_dark_cloud),
        _scaled(parameters.red_back_to_cloud),
    )
    linear = np.stack([gains, offsets]).astype(np.float64)
    return np.asarray(_snow_flags(green, red, swir16, quality, linear, coarse, limits))


def _scaled(reflectance: float) -> float:
    """A threshold in units of 1e-4, free of the product's rounding error."""
    return round(reflectance * 1e4, 6)


@njit(cache=True, nogil=True, error_model="numpy")
def _snow_flags(
    green: Any, red: Any, swir: Any, quality: Any, linear: Any, coarse: Any, limits: Any
) -> Any:
    n1, r1, n2, r2, dark_cloud, back_to_cloud = limits
    flags = np.empty(green.shape, np.uint8)
    for t in range(green.shape[0]):
        g_gain, r_gain, s_gain = linear[0, 0, t], linear[0, 1, t], linear[0, 2, t]
        g_offset, r_offset, s_offset = linear[1, 0, t], linear[1, 1, t], linear[1, 2, t]
        for y in range(green.shape[1]):
            # Without branches, which the compiler turns into vectors.
            for x in range(green.shape[2]):
                g_dn, r_dn, s_dn = green[t, y, x], red[t, y, x], swir[t, y, x]
                bits = quality[t, y, x]
                g = g_dn * g_gain + g_offset
                r = r_dn * r_gain + r_offset
                s = s_dn * s_gain + s_offset
                ndsi = (g - s) / (g + s)
                has_ndsi = g + s > 0.0
                cloud = (bits & _ANY_CLOUD) != 0
                refined = cloud & (((bits & _SURE_CLOUD) != 0) | (coarse[t, y, x] > dark_cloud))
                found = (
                    _OBSERVED
                    | cloud * _ALL_CLOUD
                    | (cloud & (r > back_to_cloud)) * _BACK
                    | (has_ndsi & (not cloud) & (ndsi > n1) & (r > r1)) * _PASS1
                    | refined * _REFINED
                    | (has_ndsi & (not refined) & (ndsi > n2) & (r > r2)) * _PASS2
                )
                seen = ((bits & _FILL) == 0) & (g_dn != 0) & (r_dn != 0) & (s_dn != 0)
                flags[t, y, x] = found * seen
    return flags


def classify_snow(
    flags: NDArray[np.uint8], dem: NDArray[np.float32], snow_line_m: NDArray[np.floating[Any]]
) -> NDArray[np.uint8]:
    """Return the snow code of each pixel: uint8 (t, y, x), NO_SNOW, SNOW, CLOUD or NODATA.

    `flags` from `snow_flags`; `dem` in metres, shape (y, x); `snow_line_m` one elevation
    per date from `snow_line_lis`. Dates at NO_SNOW_LINE and pixels without a finite
    elevation keep pass 1.

    >>> flags = np.array([[[34, 34, 44, 0]]], dtype="uint8")
    >>> dem = np.array([[1500, 1400, 1500, 1500]], dtype="float32")
    >>> classify_snow(flags, dem, np.array([1400.0]))
    array([[[100,   0, 205, 254]]], dtype=uint8)
    """
    if flags.shape[1:] != dem.shape or snow_line_m.shape != flags.shape[:1]:
        raise ValueError(
            f"flags have shape {flags.shape}: expected an elevation of shape {flags.shape[1:]} "
            f"and {flags.shape[0]} snow lines, got {dem.shape} and {snow_line_m.shape}"
        )
    return np.asarray(_classify_snow(flags, dem, snow_line_m.astype(np.float64)))


@njit(cache=True, nogil=True)
def _classify_snow(flags: Any, dem: Any, snow_line_m: Any) -> Any:
    codes = np.empty(flags.shape, np.uint8)
    for t in range(flags.shape[0]):
        line = snow_line_m[t]
        second_pass = line != NO_SNOW_LINE
        for y in range(flags.shape[1]):
            for x in range(flags.shape[2]):
                found = flags[t, y, x]
                above = second_pass and dem[y, x] > line
                if found & _OBSERVED == 0:
                    code = NODATA
                elif found & _PASS1 != 0 or (above and found & _PASS2 != 0):
                    code = SNOW
                elif found & (_REFINED | _BACK) != 0:
                    code = CLOUD
                else:
                    code = NO_SNOW
                codes[t, y, x] = code
    return codes


def coarse_halo(factor: int) -> int:
    """Return the pixels that a block needs on every side before `coarse_red` is exact in it.

    A pixel may be the last one of its coarse cell, and the cell looks half a cell further.

    >>> coarse_halo(12), coarse_halo(1)
    (17, 0)
    """
    return factor - 1 + factor // 2


def coarse_red(
    red_dn: NDArray[np.uint16],
    gain: NDArray[np.floating[Any]],
    offset: NDArray[np.floating[Any]],
    *,
    factor: int,
    origin_yx: tuple[int, int],
) -> NDArray[np.float32]:
    """Return the red reflectance × 1e4 of coarse cells at each of their pixels: float32 (t, y, x).

    Cells of `factor` × `factor` pixels lie on the global pixel grid: `origin_yx` is the
    global row and column of element [0, 0], so the answer does not depend on the cut in
    blocks once these carry `coarse_halo(factor)` more pixels. A cell is the bilinear
    downsampling of GDAL where it reads into fewer pixels (its warper has another): weights
    fall linearly to 0 at `factor` pixels from its centre, and are normalised over the pixels
    that have data. `red_dn` (t, y, x) with 0 = no data, `gain` and `offset` one per date. NaN
    where no pixel has data.

    >>> dn = np.array([[[10, 10, 0, 0, 0, 0]]], dtype="uint16")
    >>> coarse_red(dn, np.ones(1), np.zeros(1), factor=2, origin_yx=(0, 0))
    array([[[10., 10., 10., 10., nan, nan]]], dtype=float32)
    """
    linear = np.stack([gain, offset]).astype(np.float64)
    if factor == 1:
        return np.asarray(_red(red_dn, linear))
    return np.asarray(_coarse_red(red_dn, linear, factor, *origin_yx))


@njit(cache=True, nogil=True)
def _red(dn: Any, linear: Any) -> Any:
    """Where each pixel is a cell, of which no other is in reach."""
    out = np.empty(dn.shape, np.float32)
    for t in range(dn.shape[0]):
        for y in range(dn.shape[1]):
            for x in range(dn.shape[2]):
                value = dn[t, y, x] * linear[0, t] + linear[1, t]
                out[t, y, x] = value if dn[t, y, x] != 0 else np.nan
    return out


@njit(cache=True, nogil=True)
def _coarse_red(dn: Any, linear: Any, factor: int, row_0: int, column_0: int) -> Any:
    """Distances in half pixels are integers, so sums of weights are exact in any order."""
    n_dates, height, width = dn.shape
    out = np.empty(dn.shape, np.float32)
    # Of the pixel rows in reach: weighted digital numbers, and the weights of those with data.
    sums, weights = np.empty(width, np.int64), np.empty(width, np.int64)
    for t in range(n_dates):
        for row in range(row_0 // factor, (row_0 + height - 1) // factor + 1):
            sums[:] = 0
            weights[:] = 0
            # Along rows of pixels, which the compiler turns into vectors.
            for y in range(*_reach(row, factor, row_0, height)):
                weight = _cell_weight(row, factor, row_0 + y)
                for x in range(width):
                    value = np.int64(dn[t, y, x])
                    sums[x] += weight * value
                    weights[x] += weight * (value != 0)
            top, bottom = _own(row, factor, row_0, height)
            for column in range(column_0 // factor, (column_0 + width - 1) // factor + 1):
                total = weighed = 0
                for x in range(*_reach(column, factor, column_0, width)):
                    weight = _cell_weight(column, factor, column_0 + x)
                    total += weight * sums[x]
                    weighed += weight * weights[x]
                mean = np.nan
                if weighed > 0:
                    mean = total / weighed * linear[0, t] + linear[1, t]
                left, right = _own(column, factor, column_0, width)
                for y in range(top, bottom):
                    for x in range(left, right):
                        out[t, y, x] = mean
    return out


@njit(cache=True, nogil=True)
def _cell_weight(cell: int, factor: int, pixel: int) -> Any:
    """The weight of a pixel in a cell, twice over: 2 * `factor` at its centre."""
    return 2 * factor - abs(2 * pixel + 1 - (2 * cell + 1) * factor)


@njit(cache=True, nogil=True)
def _reach(cell: int, factor: int, origin: int, size: int) -> Any:
    """First of an array's pixels, and first after, that have a weight in a cell."""
    first, stop = ((2 * cell - 1) * factor + 1) // 2, (2 * cell + 3) * factor // 2
    return max(first - origin, 0), min(stop - origin, size)


@njit(cache=True, nogil=True)
def _own(cell: int, factor: int, origin: int, size: int) -> Any:
    """First of an array's pixels, and first after, that lie in a cell."""
    return max(cell * factor - origin, 0), min((cell + 1) * factor - origin, size)
