"""Single lakes: the MNDWI at which a pixel is half water, and area with its uncertainty.

Sources: Otsu 1979, 10.1109/TSMC.1979.4310076; Krause et al. 2021, 10.3390/rs13081437
(series of lakes).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alpage.science.water import WaterParameters
from alpage.science.zones import ZoneIndex


def lake_histogram(
    mndwi: NDArray[np.int16],
    brightness: NDArray[np.int32],
    index: ZoneIndex,
    *,
    low: int,
    high: int,
    n_bins: int,
) -> NDArray[np.int64]:
    """Return clear lit pixels and their brightness by MNDWI: int64 (t, lakes, n_bins, 2).

    `mndwi` and `brightness`, both (t, y, x), are those of `water_observation`; pixels
    without brightness are left out. `n_bins` equal bins over [low, high], the last one
    closed. Pixels and brightnesses of blocks add up.

    >>> from alpage.science.zones import zone_index_from_labels
    >>> index = zone_index_from_labels(np.array([[1, 1, 1]], dtype="int32"))
    >>> lake_histogram(
    ...     np.array([[[-5000, 7000, 7000]]], dtype="int16"),
    ...     np.array([[[4000, 800, 0]]], dtype="int32"), index, low=-10000, high=10000, n_bins=2
    ... ).tolist()
    [[[[1, 4000], [1, 800]]]]
    """
    for name, array in (("mndwi", mndwi), ("brightness", brightness)):
        if array.ndim != 3 or array.shape[1:] != index.shape_yx:
            raise ValueError(
                f"expected {name} of shape (t, {index.shape_yx[0]}, {index.shape_yx[1]}) as the "
                f"zones have, got {array.shape}"
            )
    flat = (mndwi.reshape(len(mndwi), -1), brightness.reshape(len(mndwi), -1))
    return np.asarray(_lake_histogram(*flat, index.starts, index.pixels, (low, high, n_bins)))


@njit(cache=True, nogil=True)
def _lake_histogram(mndwi: Any, brightness: Any, starts: Any, pixels: Any, bins: Any) -> Any:
    low, high, n_bins = bins
    table = np.zeros((mndwi.shape[0], starts.size - 1, n_bins, 2), np.int64)
    for t in range(mndwi.shape[0]):
        for lake in range(starts.size - 1):
            for k in range(starts[lake], starts[lake + 1]):
                pixel = pixels[k]
                value = np.int64(mndwi[t, pixel])
                if brightness[t, pixel] == 0 or value < low or value > high:
                    continue
                position = min((value - low) * n_bins // (high - low), n_bins - 1)
                table[t, lake, position, 0] += 1
                table[t, lake, position, 1] += brightness[t, pixel]
    return table


def otsu(histogram: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the threshold that best parts a histogram in two, and how well it does: floats.

    `histogram` counts values in equal bins over [low, high]. The threshold lies on an edge
    between bins; where empty bins give a range of equally good ones, it is their middle.
    Separability is the variance between the classes over the total variance, 0 to 1. Both
    are NaN with fewer than two bins that hold anything.

    >>> otsu(np.array([3, 5, 0, 0, 4, 2]), 0.0, 6.0)
    (3.0, 0.9362...)
    """
    counts = histogram.astype(np.float64)
    if np.count_nonzero(counts) < 2:
        return float("nan"), float("nan")
    # In bins, counted from the first one: the sums of small integers are exact.
    bins = np.arange(counts.size, dtype=np.float64)
    below, total = np.cumsum(counts), counts.sum()
    moment_below, moment = np.cumsum(counts * bins), float(counts @ bins)
    parted = (below > 0) & (below < total)
    between = np.zeros(counts.size)
    gap = (total * moment_below - moment * below)[parted]
    between[parted] = gap**2 / (below * (total - below))[parted]
    first = int(np.argmax(between))
    last = int(np.flatnonzero(below == below[first])[-1])
    threshold = low + (1 + (first + last) / 2) * (high - low) / counts.size
    scatter = total * float(counts @ bins**2) - moment**2
    return threshold, min(float(between[first] / scatter), 1.0)


def lake_threshold(
    table: NDArray[np.int64], low: float, high: float, parameters: WaterParameters
) -> float:
    """Return the MNDWI above which a lake's pixels are water on one date.

    `table` of shape (bins, 2) is a row of `lake_histogram`, of indices over [low, high].
    Otsu's method parts the clear pixels in water and land. A threshold between the two
    classes would miss shore: a shore pixel shows the mean of green and of SWIR, so its
    MNDWI is the mean of both weighted by brightness, and land is the brighter. The
    threshold is that of half and half, (B₁M₁ + B₂M₂) / (B₁ + B₂), with the median MNDWI M
    of each class and the brightness B there, for medians leave mixed pixels out; kept
    within its physical range.

    That holds if there are two classes in earnest: separable, neither of them small, and
    their means on either side of the default threshold. All water, all land, and water
    beside hazy water fail one of the three and take the default.

    >>> table = np.zeros((10, 2), dtype="int64")
    >>> table[2], table[8] = (60, 60 * 4100), (50, 50 * 820)  # -0.5 bright, 0.7 dark
    >>> round(lake_threshold(table, -1.0, 1.0, WaterParameters()), 6)  # 5/6 of -0.5, 1/6 of 0.7
    -0.3
    >>> table[2] = 0
    >>> lake_threshold(table, -1.0, 1.0, WaterParameters())
    0.0
    """
    counts, brightness = table.astype(np.float64).T
    split, separability = otsu(table[:, 0], low, high)
    if not separability > parameters.minimum_separability:
        return parameters.default_threshold
    centres = low + (high - low) / len(table) * (np.arange(len(table)) + 0.5)
    wet = centres > split
    n_wet, n_dry = counts[wet].sum(), counts[~wet].sum()
    mean_wet = counts[wet] @ centres[wet] / n_wet
    mean_dry = counts[~wet] @ centres[~wet] / n_dry
    small = min(n_wet, n_dry) < parameters.minimum_class * (n_wet + n_dry)
    if small or not mean_dry < parameters.default_threshold < mean_wet:
        return parameters.default_threshold
    medians = [_median_bin(np.where(side, counts, 0)) for side in (wet, ~wet)]
    weights = brightness[medians] / counts[medians]
    half = float(weights @ centres[medians] / weights.sum())
    return min(max(half, parameters.minimum_threshold), parameters.maximum_threshold)


def _median_bin(counts: NDArray[np.float64]) -> int:
    below = np.cumsum(counts)
    return int(np.searchsorted(below, below[-1] / 2))


class LakeArea(NamedTuple):
    """Open water of lakes by date, each float64 (t, lakes)."""

    area_wet_m2: NDArray[np.float64]
    """Water that was seen."""
    percent_wet: NDArray[np.float64]
    """Water in percent of all pixels: too low by what was not seen."""
    invalid_fraction: NDArray[np.float64]
    """Part of the lake that was not seen."""
    snow_fraction: NDArray[np.float64]
    """Part of the lake under snow or ice."""
    area_m2: NDArray[np.float64]
    """Water, with as much in the unseen part as in the seen one."""
    area_uncertainty_m2: NDArray[np.float64]
    """Standard uncertainty of `area_m2`."""


def lake_area(
    counts: NDArray[np.int64], *, pixel_area_m2: float, parameters: WaterParameters
) -> LakeArea:
    """Return area, percentage and uncertainty of each lake and date: float64 (t, lakes).

    `counts` of shape (t, lakes, 4) holds wet, dry, invalid and snowy pixels. Areas and
    percentages are NaN where more than `maximum_invalid` of the lake is invalid, and where
    it is frozen: more snow than that share, and next to no water beside it. Else snow
    counts as dry: a lake that is open has it on its shore.

    The uncertainty of `area_m2` adds two independent parts in squares:

    - of k unseen pixels any number may be wet: uniform over 0 to k, about the share p that
      the seen part has, k √(1/12 + (p - 1/2)²);
    - a shore pixel is called all water or all land, an error of 1/√12, and since one
      threshold decides all of them, these errors add up. A circle, the shortest shore
      that holds the area, passes through 4/π pixels per pixel of its length. This is half
      a pixel along the shore, as Hanshaw and Bookhagen 2014 take it, 10.5194/tc-8-359-2014.

    >>> found = lake_area(
    ...     np.array([[[60, 30, 10, 0], [59, 30, 11, 0]]]),
    ...     pixel_area_m2=400, parameters=WaterParameters())
    >>> found.percent_wet, found.area_m2.round(), found.area_uncertainty_m2.round()
    (array([[60., nan]]), array([[26667., nan]]), array([[4459., nan]]))
    """
    wet, dry, invalid, snow = np.moveaxis(counts.astype(np.float64), -1, 0)
    total = wet + dry + invalid + snow
    share_invalid, share_snow = _share(invalid, total), _share(snow, total)
    limit = parameters.maximum_invalid
    frozen = (share_snow > limit) & (wet < parameters.minimum_class * (wet + snow))
    known = (share_invalid <= limit) & ~frozen
    wet_of_seen = _share(wet, total - invalid)
    area = wet_of_seen * total
    unseen = invalid * np.sqrt(1 / 12 + (wet_of_seen - 0.5) ** 2)
    shore = 4 / np.pi * 2 * np.sqrt(np.pi * area) / np.sqrt(12)
    return LakeArea(
        area_wet_m2=np.where(total > 0, wet * pixel_area_m2, np.nan),
        percent_wet=np.where(known, 100 * _share(wet, total), np.nan),
        invalid_fraction=share_invalid,
        snow_fraction=share_snow,
        area_m2=np.where(known, area * pixel_area_m2, np.nan),
        area_uncertainty_m2=np.where(known, np.hypot(unseen, shore) * pixel_area_m2, np.nan),
    )


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0))
