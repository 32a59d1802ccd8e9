"""Areas to counts: exact integers per zone, so that the counts of blocks add up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alpage.science.zones import ZoneIndex

LIS_CODES = (0, 100, 205, 254)
"""No snow, snow, cloud, no data: the codes of a snow layer."""


def count_codes(
    codes: NDArray[np.uint8], index: ZoneIndex, wanted: Sequence[int] = LIS_CODES
) -> NDArray[np.int64]:
    """Return how many pixels of each zone carry each wanted code: int64 (t, zones, codes).

    `codes` has shape (t, y, x). Codes that are not wanted are not counted.

    >>> from alpage.science.zones import zone_index_from_labels
    >>> index = zone_index_from_labels(np.array([[1, 1], [1, 2]], dtype="int32"))
    >>> count_codes(np.array([[[0, 100], [100, 205]]], dtype="uint8"), index)
    array([[[1, 2, 0, 0],
            [0, 0, 1, 0]]])
    """
    _check_shape(codes, index)
    column = _column_table(wanted)
    flat = codes.reshape(codes.shape[0], -1)
    return np.asarray(_count_codes(flat, index.starts, index.pixels, column, len(wanted)))


def sum_values(values: NDArray[np.int16], index: ZoneIndex, *, fill: int) -> NDArray[np.int64]:
    """Return count, sum and sum of squares of each zone's values: int64 (t, zones, 3).

    `values` has shape (t, y, x); pixels equal to `fill` are left out.

    >>> from alpage.science.zones import zone_index_from_labels
    >>> index = zone_index_from_labels(np.array([[1, 1], [1, 2]], dtype="int32"))
    >>> sum_values(np.array([[[2, 3], [-1, 9]]], dtype="int16"), index, fill=-1)
    array([[[ 2,  5, 13],
            [ 1,  9, 81]]])
    """
    _check_shape(values, index)
    flat = values.reshape(values.shape[0], -1)
    return np.asarray(_sum_values(flat, index.starts, index.pixels, fill))


def histogram(
    values: NDArray[np.int16],
    index: ZoneIndex,
    *,
    fill: int,
    low: int,
    high: int,
    n_bins: int,
    where: NDArray[np.uint8] | None = None,
) -> NDArray[np.int64]:
    """Return the histogram of each zone's values: int64 (t, zones, n_bins).

    `n_bins` equal bins over [low, high], the last one closed, as in `numpy.histogram` but
    in integer arithmetic. `values` has shape (t, y, x); pixels equal to `fill`, outside
    [low, high], or 0 in `where` (same shape) are left out.

    >>> from alpage.science.zones import zone_index_from_labels
    >>> index = zone_index_from_labels(np.array([[1, 1], [1, 2]], dtype="int32"))
    >>> values = np.array([[[0, 3], [10, -1]]], dtype="int16")
    >>> histogram(values, index, fill=-1, low=0, high=10, n_bins=5)
    array([[[1, 1, 0, 0, 1],
            [0, 0, 0, 0, 0]]])
    """
    _check_shape(values, index)
    if high <= low or n_bins < 1:
        raise ValueError(f"expected low < high and n_bins >= 1, got {low}, {high} and {n_bins}")
    if where is not None and where.shape != values.shape:
        raise ValueError(f"where has shape {where.shape}, values {values.shape}: they must agree")
    flat = values.reshape(values.shape[0], -1)
    allowed = np.ones((1, 1), np.uint8) if where is None else where.reshape(flat.shape)
    bins = (low, high, n_bins)
    return np.asarray(
        _histogram(flat, index.starts, index.pixels, fill, bins, allowed, where is not None)
    )


def elevation_counts(
    codes: NDArray[np.uint8],
    dem: NDArray[np.float32],
    index: ZoneIndex,
    *,
    z_min: float,
    step_m: float,
    n_bins: int,
    wanted: Sequence[int] = LIS_CODES,
) -> NDArray[np.int64]:
    """Return the pixels of each zone by elevation band and code: int64 (t, zones, bands, codes).

    Band k holds ``z_min + k * step_m <= z < z_min + (k + 1) * step_m`` metres. Pixels
    without a finite elevation or outside the bands are left out. `codes` has shape
    (t, y, x), `dem` (y, x).

    >>> from alpage.science.zones import zone_index_from_labels
    >>> index = zone_index_from_labels(np.array([[1, 1, 1]], dtype="int32"))
    >>> codes = np.array([[[0, 100, 100]]], dtype="uint8")
    >>> dem = np.array([[950.0, 1050.0, np.nan]], dtype="float32")
    >>> elevation_counts(
    ...     codes, dem, index, z_min=900, step_m=100, n_bins=2, wanted=(0, 100)
    ... ).tolist()
    [[[[1, 0], [0, 1]]]]
    """
    _check_shape(codes, index)
    if dem.shape != index.shape_yx:
        raise ValueError(f"the elevation has shape {dem.shape}, the block {index.shape_yx}")
    position = (dem.reshape(-1).astype(np.float64) - z_min) / step_m
    inside = (position >= 0) & (position < n_bins)
    band = np.where(inside, position, -1).astype(np.int32)
    column = _column_table(wanted)
    flat = codes.reshape(codes.shape[0], -1)
    shape = (n_bins, len(wanted))
    return np.asarray(_elevation_counts(flat, band, index.starts, index.pixels, column, shape))


def _check_shape(values: NDArray[Any], index: ZoneIndex) -> None:
    if values.ndim != 3 or values.shape[1:] != index.shape_yx:
        raise ValueError(
            f"expected shape (t, {index.shape_yx[0]}, {index.shape_yx[1]}) as the zones have, "
            f"got {values.shape}"
        )


def _column_table(wanted: Sequence[int]) -> NDArray[np.int16]:
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"wanted codes must differ, got {tuple(wanted)}")
    table = np.full(256, -1, np.int16)
    for column, code in enumerate(wanted):
        table[code] = column
    return table


@njit(cache=True, nogil=True)
def _count_codes(codes: Any, starts: Any, pixels: Any, column: Any, n_columns: int) -> Any:
    counts = np.zeros((codes.shape[0], starts.size - 1, n_columns), np.int64)
    for t in range(codes.shape[0]):
        for zone in range(starts.size - 1):
            for k in range(starts[zone], starts[zone + 1]):
                wanted = column[codes[t, pixels[k]]]
                if wanted >= 0:
                    counts[t, zone, wanted] += 1
    return counts


@njit(cache=True, nogil=True)
def _sum_values(values: Any, starts: Any, pixels: Any, fill: int) -> Any:
    sums = np.zeros((values.shape[0], starts.size - 1, 3), np.int64)
    for t in range(values.shape[0]):
        for zone in range(starts.size - 1):
            for k in range(starts[zone], starts[zone + 1]):
                value = np.int64(values[t, pixels[k]])
                if value != fill:
                    sums[t, zone, 0] += 1
                    sums[t, zone, 1] += value
                    sums[t, zone, 2] += value * value
    return sums


@njit(cache=True, nogil=True)
def _histogram(
    values: Any, starts: Any, pixels: Any, fill: int, bins: Any, allowed: Any, masked: bool
) -> Any:
    low, high, n_bins = bins
    counts = np.zeros((values.shape[0], starts.size - 1, n_bins), np.int64)
    for t in range(values.shape[0]):
        for zone in range(starts.size - 1):
            for k in range(starts[zone], starts[zone + 1]):
                value = np.int64(values[t, pixels[k]])
                if value == fill or value < low or value > high:
                    continue
                if masked and allowed[t, pixels[k]] == 0:
                    continue
                position = (value - low) * n_bins // (high - low)
                counts[t, zone, min(position, n_bins - 1)] += 1
    return counts


@njit(cache=True, nogil=True)
def _elevation_counts(
    codes: Any, band: Any, starts: Any, pixels: Any, column: Any, shape: Any
) -> Any:
    counts = np.zeros((codes.shape[0], starts.size - 1, shape[0], shape[1]), np.int64)
    for t in range(codes.shape[0]):
        for zone in range(starts.size - 1):
            for k in range(starts[zone], starts[zone + 1]):
                pixel = pixels[k]
                wanted = column[codes[t, pixel]]
                if wanted >= 0 and band[pixel] >= 0:
                    counts[t, zone, band[pixel], wanted] += 1
    return counts
