"""Elevations that part snow from land, found in counts that add up over blocks."""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alpage.science.snow import NO_SNOW_LINE, LisParameters, SnowFlag

MINIMUM_CLEAR_FRACTION = 0.30
"""Share of clear pixels below which a regional snow line is not told (Krajčí 2014)."""

_PASS1 = int(SnowFlag.PASS1)
_ALL_CLOUD = int(SnowFlag.ALL_CLOUD)
_OBSERVED = int(SnowFlag.OBSERVED)


def elevation_bins(z_min: float, z_max: float, step_m: float) -> tuple[int, float]:
    """Return the number and the width in metres of the equal bins of Let-It-Snow.

    As many bins as whole steps fit in, stretched to fill [z_min, z_max]; (0, 0.0) where
    not one step fits in.

    >>> elevation_bins(500, 2550, 100)
    (20, 102.5)
    """
    if not (math.isfinite(z_min) and math.isfinite(z_max) and z_min <= z_max and step_m > 0):
        raise ValueError(
            f"expected finite z_min <= z_max, step > 0: got {z_min}, {z_max}, {step_m}"
        )
    n_bins = math.floor((z_max - z_min) / step_m)
    return (n_bins, (z_max - z_min) / n_bins) if n_bins else (0, 0.0)


def elevation_histogram(
    flags: NDArray[np.uint8],
    dem: NDArray[np.float32],
    *,
    z_min: float,
    z_max: float,
    n_bins: int,
) -> NDArray[np.int64]:
    """Return total, clear and pass 1 snow pixels by elevation: int64 (t, n_bins, 3).

    `flags` from `snow_flags`, shape (t, y, x); `dem` in metres, shape (y, x). The total
    counts every pixel with a finite elevation, observed or not; clear ones are observed
    and under no cloud or shadow. A pixel at z_max, or beyond the range, falls in the
    nearest bin. Histograms of disjoint blocks of one area add up to that of the area.

    >>> flags = np.array([[[35, 34, 0]]], dtype="uint8")
    >>> dem = np.array([[1900, 1100, 1150]], dtype="float32")
    >>> elevation_histogram(flags, dem, z_min=1000, z_max=2000, n_bins=2)
    array([[[2, 1, 0],
            [1, 1, 1]]])
    """
    if flags.shape[1:] != dem.shape:
        raise ValueError(f"flags have shape {flags.shape}, the elevation {dem.shape}")
    if n_bins > 0 and not z_min < z_max:
        raise ValueError(f"expected z_min < z_max for {n_bins} bins, got {z_min} and {z_max}")
    if n_bins == 0:
        return np.zeros((flags.shape[0], 0, 3), np.int64)
    return np.asarray(_elevation_histogram(flags, dem, float(z_min), float(z_max), n_bins))


@njit(cache=True, nogil=True)
def _elevation_histogram(flags: Any, dem: Any, z_min: float, z_max: float, n_bins: int) -> Any:
    n_dates, height, width = flags.shape
    bins = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            bin_of = np.floor((np.float64(dem[y, x]) - z_min) * n_bins / (z_max - z_min))
            # Pixels without elevation are counted beside the last bin.
            bins[y, x] = min(max(bin_of, 0.0), n_bins - 1.0) if np.isfinite(dem[y, x]) else n_bins
    counts = np.empty((n_dates, n_bins, 3), np.int64)
    kinds = np.empty((n_bins + 1, 4), np.int64)
    for t in range(n_dates):
        kinds[:] = 0
        for y in range(height):
            for x in range(width):
                found = flags[t, y, x]
                is_clear = (found & (_OBSERVED | _ALL_CLOUD)) == _OBSERVED
                is_snow = (found & _PASS1) != 0
                # One count a pixel, and no branch that a processor could guess wrongly.
                kinds[bins[y, x], is_clear + 2 * is_snow] += 1
        counts[t, :, 0] = kinds[:n_bins].sum(axis=1)
        counts[t, :, 1] = kinds[:n_bins, 1] + kinds[:n_bins, 3]
        counts[t, :, 2] = kinds[:n_bins, 2] + kinds[:n_bins, 3]
    return counts


def first_snow_bin(histogram: NDArray[np.int64], parameters: LisParameters) -> int:
    """Return the first bin with enough clear pixels and enough snow in these, or -1.

    `histogram` is one date of `elevation_histogram`, shape (n_bins, 3).

    >>> first_snow_bin(np.array([[90, 90, 0], [5, 0, 0], [5, 5, 5]]), LisParameters())
    2
    """
    total, clear, snow = histogram.T
    clear_fraction = clear / np.maximum(total, 1)
    snow_fraction = snow / np.maximum(clear, 1)
    snowy = (clear_fraction > parameters.clear_fraction_limit) & (
        snow_fraction > parameters.snow_fraction_limit
    )
    return int(np.argmax(snowy)) if snowy.any() else -1


def snow_line_lis(
    histogram: NDArray[np.int64], *, z_min: float, z_max: float, parameters: LisParameters
) -> float:
    """Return the elevation in metres above which pass 2 runs, or NO_SNOW_LINE (-1).

    `histogram` is one date of `elevation_histogram`, shape (n_bins, 3), over
    [z_min, z_max]. The answer lies at the lower edge of the second band below the first
    snowy one, rounded down: it is a safe place to start from, not the snow line itself
    (that is `snow_line_elevation`). None where pass 1 found next to no snow, or no band is
    snowy. A line at -1 m is told as -2, since -1 says none.

    >>> counts = np.array([[50, 50, 0], [50, 50, 0], [50, 50, 0], [50, 50, 20]])
    >>> snow_line_lis(counts, z_min=1000, z_max=1400, parameters=LisParameters())
    1100.0
    """
    n_bins = histogram.shape[0]
    total, _, snow = (int(count) for count in histogram.sum(axis=0))
    if total == 0 or snow / total <= parameters.snow_fraction_total_limit:
        return NO_SNOW_LINE
    found = first_snow_bin(histogram, parameters)
    if found < 0:
        return NO_SNOW_LINE
    width = (z_max - z_min) / n_bins
    centre = z_min + (max(found - 2, 0) + 0.5) * width
    line = float(math.floor(centre - parameters.elevation_step_m / 2))
    return line - 1 if line == NO_SNOW_LINE else line


def snow_line_elevation(
    snow: NDArray[np.int64], land: NDArray[np.int64], edges: NDArray[np.floating[Any]], total: int
) -> float:
    """Return the regional snow line elevation in metres, NaN where it cannot be told.

    The elevation among `edges` that misplaces the fewest clear pixels: snow below it and
    land at or above it. `snow` and `land` count the clear pixels between consecutive
    edges, shapes (n,) and (n,) for n + 1 edges; among several best edges the middle one
    (upper of two) is told. `total` counts all pixels of the area: less than 30 % clear, or
    one class alone, tell nothing. Source: Krajčí et al. 2014, Journal of Hydrology 519,
    1769-1778.

    >>> edges = np.array([1000.0, 1100.0, 1200.0, 1300.0])
    >>> snow_line_elevation(np.array([0, 1, 9]), np.array([9, 8, 0]), edges, total=30)
    1200.0
    """
    if edges.size != snow.size + 1 or land.size != snow.size:
        raise ValueError(
            f"expected n snow and land counts for n + 1 edges, "
            f"got {snow.size}, {land.size} and {edges.size}"
        )
    n_snow, n_land = int(snow.sum()), int(land.sum())
    if n_snow == 0 or n_land == 0 or n_snow + n_land < MINIMUM_CLEAR_FRACTION * total:
        return math.nan
    snow_below = np.concatenate([[0], np.cumsum(snow)])
    land_above = n_land - np.concatenate([[0], np.cumsum(land)])
    misplaced = snow_below + land_above
    best = np.flatnonzero(misplaced == misplaced.min())
    return float(edges[best[best.size // 2]])
