"""Snow by Let-It-Snow as one would write it with xarray and dask: daily codes and a season.

Thresholds are those of the paper (Gascoin et al. 2019); pass 2 runs above an elevation that the
whole area tells, so every date's counts come together before any of its codes can be written.
"""

from collections.abc import Hashable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from zarr.codecs import ZstdCodec

BANDS = ("green", "red", "swir16", "scl")
NO_SNOW, SNOW, CLOUD, NO_DATA = 0, 100, 205, 254
STEP_M = 100.0
Array = np.ndarray[Any, Any]


def write_snow(bands: xr.Dataset, dem: xr.DataArray, season: tuple[str, str], out: str) -> None:
    """Write daily snow codes, snow days and clear observations of a season to a Zarr store."""
    green, red, swir = (bands[name].astype("float32") for name in BANDS[:3])
    classes = bands["scl"]
    seen = (classes > 0) & (green > 0) & (red > 0) & (swir > 0)
    cloudy, sure = seen & classes.isin([3, 8, 9, 10]), classes.isin([3, 10])
    ndsi = (green - swir) / (green + swir)
    first = seen & ~cloudy & (ndsi > 0.4) & (red > 2000)
    refined = cloudy & (sure | (red > 3000))
    second = seen & ~refined & (ndsi > 0.15) & (red > 400)
    line = snow_lines(seen & ~cloudy, first, dem)
    dem = dem.assign_coords(y=bands["y"], x=bands["x"])
    snow = first | (second & (line >= 0) & (dem > line))
    codes = xr.full_like(classes, NO_SNOW)
    codes = codes.where(~(refined | (cloudy & (red > 1000))), CLOUD)
    codes = codes.where(~snow, SNOW).where(seen, NO_DATA).astype("uint8")
    origin, end = (np.datetime64(day) for day in season)
    days = (bands["time"].to_numpy().astype("datetime64[D]") - origin).astype(int)
    found = xr.apply_ufunc(
        season_of,
        codes.chunk(time=-1),
        input_core_dims=[["time"]],
        output_core_dims=[["indicator"]],
        dask="parallelized",
        output_dtypes=["uint16"],
        dask_gufunc_kwargs={"output_sizes": {"indicator": 2}},
        kwargs={"days": days, "n_days": int((end - origin).astype(int)) + 1},
    )
    cube = xr.Dataset(
        {"snow": codes, "scd": found.isel(indicator=0), "nobs": found.isel(indicator=1)}
    )
    cube = cube.drop_vars(set(cube.coords) - {"time", "y", "x"}).drop_attrs()
    encoding: dict[Hashable, dict[str, Any]] = {
        name: {"compressors": (ZstdCodec(level=1),)} for name in cube.data_vars
    }
    cube.to_zarr(out, mode="w", encoding=encoding, consolidated=False)


def snow_lines(clear: xr.DataArray, snow: xr.DataArray, dem: xr.DataArray) -> xr.DataArray:
    """Elevation of each date above which pass 2 runs, -1 where it does not."""
    low, high = (float(one) for one in da.compute(dem.min().data, dem.max().data))
    n_bins = int((high - low) // STEP_M)
    position = (dem.data.astype("float64") - low) * n_bins / (high - low)
    bins = da.clip(da.floor(position), 0, n_bins - 1).astype("int64")
    total = np.asarray(da.bincount(bins.ravel(), minlength=n_bins))
    counts = da.map_blocks(
        count_by_bin,
        clear.data,
        snow.data,
        bins[None],
        n_bins,
        dtype="int64",
        chunks=(clear.data.chunks[0], *((1,) * n for n in clear.data.numblocks[1:]), (2 * n_bins,)),
        new_axis=3,
    ).sum(axis=(1, 2))
    lines = counts.rechunk({1: -1}).map_blocks(
        lines_of, total, low, high, drop_axis=1, dtype="float64"
    )
    return xr.DataArray(lines, dims="time", coords={"time": clear["time"]})


def count_by_bin(clear: Array, snow: Array, bins: Array, n_bins: int) -> Array:
    """Clear and snowy pixels of one chunk by elevation, shape (time, 1, 1, 2 x bins)."""
    found = [
        np.concatenate([np.bincount(bins[0][one[t]], minlength=n_bins) for one in (clear, snow)])
        for t in range(len(clear))
    ]
    return np.array(found)[:, None, None]


def lines_of(counts: Array, total: Array, low: float, high: float) -> Array:
    """The snow line of each date from its counts (time, 2 x bins) and all pixels by elevation."""
    n_bins = len(total)
    lines = np.full(len(counts), -1.0)
    for date, row in enumerate(counts):
        clear, snow = row[:n_bins], row[n_bins:]
        if snow.sum() / total.sum() <= 0.001:
            continue
        judged = clear / np.maximum(total, 1) > 0.1
        snowy = np.flatnonzero(judged & (snow / np.maximum(clear, 1) > 0.1))
        if snowy.size:
            centre = low + (max(snowy[0] - 2, 0) + 0.5) * (high - low) / n_bins
            lines[date] = np.floor(centre - STEP_M / 2)
    return lines


def season_of(codes: Array, days: Array, n_days: int) -> Array:
    """Snow days and clear observations of codes (..., time): gaps are halved between both ends."""
    shape = codes.shape[:-1]
    snow_days, clear_days = np.zeros(shape, "int32"), np.zeros(shape, "int32")
    last, was_snow = np.full(shape, -1, "int32"), np.zeros(shape, bool)
    for at, day in enumerate(days):
        code = codes[..., at]
        clear, snow = code <= SNOW, code == SNOW
        gap = day - last
        half = (gap + 1) // 2
        between = np.where(snow, np.where(was_snow, gap, gap - half + 1), (gap - half) * was_snow)
        from_start = np.where(snow, day + 1, 0)
        snow_days += np.where(clear, np.where(last < 0, from_start, between), 0)
        clear_days += clear
        last, was_snow = np.where(clear, day, last), np.where(clear, snow, was_snow)
    snow_days += np.where(was_snow, n_days - 1 - last, 0)
    snow_days[clear_days == 0] = 65535
    return np.stack([snow_days, clear_days], axis=-1).astype("uint16")
