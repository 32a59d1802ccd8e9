"""Seasons of curves: stored vectors, analytic curves, hard shapes, and fields of Flanders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.optimize import brentq, minimize_scalar

from alpage.science.phenology import (
    Phenology,
    PhenologyParameters,
    phenology_block,
    season_metrics,
)
from alpage.science.smoothing import smooth_bins

FILL = -32768
DEKADS = np.arange(-120, 490, 10)
YEAR = {"first_day": 0, "last_day": 364}
Floats = NDArray[np.float64]


def block(curve: Any, day: Any = DEKADS, **parameters: float) -> Phenology:
    """Seasons of one curve in 1e-4, as a block of one pixel."""
    values = np.where(np.isnan(curve), FILL, np.rint(np.nan_to_num(curve) * 1e4)).astype(np.int16)
    return phenology_block(
        values[:, None, None],
        np.asarray(day),
        **YEAR,
        fill=FILL,
        parameters=PhenologyParameters(**parameters),
    )


def logistic(
    day: Any, rise: float = 120, fall: float = 270, rates: tuple[float, float] = (0.08, 0.06)
) -> Any:
    """A season of amplitude about 0.6 above 0.2."""
    up = 1 / (1 + np.exp(-rates[0] * (day - rise)))
    return 0.2 + 0.6 * up / (1 + np.exp(rates[1] * (day - fall)))


def truth(curve: Callable[[float], float], base: float) -> tuple[float, float, float]:
    """Start (25 %), peak and end (15 %) of a curve with one maximum."""
    peak = minimize_scalar(lambda day: -curve(day), bounds=(60, 300), method="bounded").x
    rise = curve(peak) - base
    start = brentq(lambda day: curve(day) - base - 0.25 * rise, -60, peak)
    end = brentq(lambda day: curve(day) - base - 0.15 * rise, peak, 450)
    return float(start), float(peak), float(end)


@pytest.mark.parametrize("fraction", ["0.15", "0.2", "0.25", "0.5"])
def test_triangle_equals_the_stored_vectors(shared: Path, fraction: str) -> None:
    path = shared / "science" / "vectors3.json"
    if not path.is_file():
        pytest.skip("needs vectors3.json in the shared science folder")
    start, end = json.loads(path.read_text())["pheno_triangle"][fraction]
    day = np.arange(0, 366.0)
    curve = np.interp(day, [90, 180, 300], [0.2, 0.8, 0.2])
    part = float(fraction)
    season = season_metrics(curve, day, **YEAR, fraction_start=part, fraction_end=part)
    # A parabola rounds the tip of a triangle: by 3e-5 in value, 0.07 days in time.
    assert season.start == pytest.approx(start, abs=0.01)
    assert season.end == pytest.approx(end, abs=0.01)
    assert season.peak == pytest.approx(180, abs=0.1)
    assert season.amplitude == pytest.approx(0.6, abs=1e-4)
    assert season.length == pytest.approx(end - start, abs=0.01)


@given(st.floats(-4, 4), st.floats(5, 20))
def test_peak_of_a_parabola_is_exact_between_uneven_slots(shift: float, width: float) -> None:
    day = np.array([0, 100, 190, 200 - width / 3, 200 + width, 240, 300, 364.0])
    day = np.unique(day)
    curve = 0.8 - ((day - 200 - shift) / 300) ** 2
    season = season_metrics(curve, day, **YEAR)
    assert season.peak == pytest.approx(200 + shift, abs=1e-6)
    assert season.peak_value == pytest.approx(0.8, abs=1e-9)


@example(148.0, 222.0, 0.0625, 0.0625)
@given(st.floats(60, 150), st.floats(220, 300), st.floats(0.04, 0.12), st.floats(0.04, 0.12))
def test_crossings_of_double_logistics(
    rise: float, fall: float, rise_rate: float, fall_rate: float
) -> None:
    def curve(day: Any) -> Any:
        return logistic(day, rise, fall, (rise_rate, fall_rate))

    season = season_metrics(curve(DEKADS), DEKADS, **YEAR)
    start, peak, end = truth(curve, 0.2)
    # Chords between slots of ten days, and the bases that tails of the curve have not reached.
    assert season.start == pytest.approx(start, abs=1.5)
    assert season.end == pytest.approx(end, abs=1.5)
    assert abs(curve(season.peak) - curve(peak)) < 1e-3
    # A parabola misses the third order of the steepest of these by two units in 1000.
    assert season.peak_value == pytest.approx(curve(peak), abs=3e-3)


def test_a_peak_amid_two_equal_slots_is_that_of_nearly_equal_ones() -> None:
    # Symmetric about day 185, so that slots 180 and 190 are equal; the peak is the analytic one.
    curve = logistic(DEKADS, 148, 222, (0.0625, 0.0625))
    after = int(np.argmax(curve)) + 1
    assert curve[after] == curve[after - 1]
    for change in (0, -1e-9, 1e-9):
        curve[after] += change
        season = season_metrics(curve, DEKADS, **YEAR)
        assert season.peak == pytest.approx(185, abs=1e-5)
        assert season.peak_value == pytest.approx(0.6967585, abs=2e-5)
        curve[after] -= change


def test_observations_to_season_through_the_smoother() -> None:
    rng = np.random.default_rng(4)
    day = np.sort(rng.choice(np.arange(-120, 485), 110, replace=False))
    clean = logistic(day)[:, None, None]
    noisy = np.rint((clean + rng.normal(0, 0.02, (day.size, 10, 10))) * 1e4).astype(np.int16)
    slots = ((day + 120) // 10).astype(np.int32)
    curve = smooth_bins(noisy, slots, 61, fill=FILL, lam=1.0, envelope=None).values
    season = phenology_block(
        curve, DEKADS + 4.5, **YEAR, fill=FILL, parameters=PhenologyParameters()
    )
    # Days of the year count from 1. Half a slot is what smoothing flattens steep flanks by.
    start, peak, end = (day + 1 for day in truth(logistic, 0.2))
    assert np.median(season.start_of_season) == pytest.approx(start, abs=5)
    assert np.median(season.peak_of_season) == pytest.approx(peak, abs=5)
    assert np.median(season.end_of_season) == pytest.approx(end, abs=5)
    assert np.median(season.amplitude) == pytest.approx(6000, abs=300)
    length = season.end_of_season - season.start_of_season
    np.testing.assert_array_equal(season.season_length, length)


@given(st.integers(-80, 60), st.floats(0.3, 1.2), st.floats(-0.1, 0.3))
def test_seasons_move_and_scale_with_their_curve(days: int, factor: float, offset: float) -> None:
    season = season_metrics(logistic(DEKADS), DEKADS, **YEAR)
    moved = season_metrics(
        offset + factor * logistic(DEKADS), DEKADS + days, first_day=days, last_day=364 + days
    )
    for name in ("start", "peak", "end"):
        assert getattr(moved, name) == pytest.approx(getattr(season, name) + days, abs=1e-6)
    assert moved.amplitude == pytest.approx(factor * season.amplitude, abs=1e-9)


def test_blocks_equal_series_and_may_be_cut_anywhere() -> None:
    rng = np.random.default_rng(6)
    rough = np.cumsum(rng.normal(0, 700, (61, 5, 30)), axis=0) + 3000
    values = np.clip(rough, -9000, 9900).astype(np.int16)
    values[:8, :, ::3] = FILL
    values[50:, 1::2] = FILL
    parameters = PhenologyParameters(minimum_amplitude=0.2)
    options: dict[str, Any] = {**YEAR, "fill": FILL, "parameters": parameters}
    whole = phenology_block(values, DEKADS, **options)
    cut = phenology_block(values[:, 2:4, 7:], DEKADS, **options)
    for layer, wanted in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(layer, wanted[2:4, 7:])
    for y, x in np.ndindex(5, 30):
        curve = np.where(values[:, y, x] == FILL, np.nan, values[:, y, x])
        season = season_metrics(curve, DEKADS, **YEAR)
        if not season.amplitude >= 2000:
            assert all(layer[y, x] == FILL for layer in whole)
            continue
        dates = (season.start, season.peak, season.end)
        for layer, day in zip(whole[:3], dates, strict=True):
            assert layer[y, x] == (FILL if np.isnan(day) else np.rint(day) + 1)
        assert whole.amplitude[y, x] == np.rint(season.amplitude)
        assert whole.peak_value[y, x] == min(np.rint(season.peak_value), 10000)


def test_no_maximum_no_season() -> None:
    rising = np.where(DEKADS <= 300, 0.2 + 0.001 * (DEKADS + 120), np.nan)
    level = np.full(DEKADS.size, 0.5)
    for curve in (rising, rising[::-1], level, np.full(DEKADS.size, np.nan)):
        assert all(layer[0, 0] == FILL for layer in block(curve))
        assert all(np.isnan(season_metrics(curve, DEKADS, **YEAR)))


def test_a_peak_outside_the_year_is_another_year_s() -> None:
    for days in (-220, 230):
        assert all(layer[0, 0] == FILL for layer in block(logistic(DEKADS - days)))


def test_low_amplitudes_are_no_season() -> None:
    flat = 0.5 + 0.15 * (logistic(DEKADS) - 0.2)
    assert block(flat).peak_of_season[0, 0] == FILL
    assert block(flat, minimum_amplitude=0.05).amplitude[0, 0] == pytest.approx(900, abs=15)


def test_a_season_may_begin_the_year_before_and_end_the_year_after() -> None:
    early = block(logistic(DEKADS, rise=-40, fall=90))
    late = block(logistic(DEKADS, rise=280, fall=410))
    start, _, _ = truth(lambda day: float(logistic(day, -40, 90)) if day > -90 else 0.2, 0.2)
    assert early.start_of_season[0, 0] == pytest.approx(start + 1, abs=2)
    assert early.start_of_season[0, 0] < 1
    assert late.end_of_season[0, 0] > 366


@pytest.mark.parametrize("side", ["start", "end"])
def test_a_side_that_was_not_seen_leaves_its_date_and_the_length_open(side: str) -> None:
    curve = logistic(DEKADS)
    # Cut where the curve is still half way up, resp. half way down.
    curve[DEKADS < 125 if side == "start" else DEKADS > 265] = np.nan
    season, whole = block(curve), block(logistic(DEKADS))
    names = ["start_of_season", "end_of_season"]
    missing, told = names if side == "start" else names[::-1]
    assert getattr(season, missing)[0, 0] == FILL
    assert season.season_length[0, 0] == FILL
    assert getattr(season, told)[0, 0] == getattr(whole, told)[0, 0]
    assert season.peak_of_season[0, 0] == whole.peak_of_season[0, 0]
    assert season.amplitude[0, 0] == pytest.approx(whole.amplitude[0, 0], abs=30)


def test_a_shallow_dip_before_the_data_end_is_not_the_end_of_the_season() -> None:
    curve = logistic(DEKADS)
    curve[(DEKADS >= 210) & (DEKADS < 230)] -= 0.15
    curve[DEKADS > 240] = np.nan
    season = season_metrics(curve, DEKADS, **YEAR)
    assert np.isnan(season.end)
    assert season.start == pytest.approx(106, abs=3)


def test_a_cut_meadow_is_one_season_and_two_crops_are_two() -> None:
    def with_dip(depth: float) -> Floats:
        return np.asarray(logistic(DEKADS) - depth * np.exp(-(((DEKADS - 190) / 12) ** 2)))

    whole = season_metrics(logistic(DEKADS), DEKADS, **YEAR)
    mown = season_metrics(with_dip(0.25), DEKADS, **YEAR)
    assert mown.start == pytest.approx(whole.start, abs=1)
    assert mown.end == pytest.approx(whole.end, abs=1)
    crops = season_metrics(with_dip(0.55), DEKADS, **YEAR)
    assert crops.length < 0.6 * whole.length
    assert crops.end < 190 < whole.end or crops.start > 190


def test_the_main_season_stands_out_most_not_highest() -> None:
    # A green winter that never falls below 0.65, then bare soil and a crop of 0.8.
    day = [-120, -60, 10, 100, 130, 200, 270, 300, 490]
    curve = np.interp(DEKADS, day, [0.65, 0.7, 0.85, 0.6, 0.2, 0.8, 0.2, 0.25, 0.3])
    season = season_metrics(curve, DEKADS, **YEAR)
    assert season.peak == pytest.approx(200, abs=2)
    assert (season.base_left, season.base_right) == pytest.approx((0.2, 0.2), abs=1e-9)


def test_a_shoulder_of_the_next_year_s_season_is_no_season() -> None:
    curve = np.interp(DEKADS, [-120, 0, 330, 340, 430, 490], [0.2, 0.2, 0.6, 0.58, 0.9, 0.2])
    assert np.isnan(season_metrics(curve, DEKADS, **YEAR).peak)


def test_the_peak_of_a_plateau_is_its_middle() -> None:
    curve = np.minimum(logistic(DEKADS), 0.7)
    season = season_metrics(curve, DEKADS, **YEAR)
    top = DEKADS[curve == 0.7]
    assert season.peak == (top[0] + top[-1]) / 2
    assert season.peak_value == 0.7


@pytest.mark.parametrize(
    ("curve", "day", "fraction", "words"),
    [
        (np.zeros(3), np.arange(4), 0.2, "ascending"),
        (np.zeros(3), np.array([0, 2, 1]), 0.2, "ascending"),
        (np.zeros(3), np.arange(3), 1.0, "fraction"),
    ],
)
def test_wrong_curves_are_refused(curve: Floats, day: Floats, fraction: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        season_metrics(curve, day, **YEAR, fraction_start=fraction)


def test_wrong_blocks_and_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="one ascending day per slot"):
        block(np.zeros(4), np.arange(5))
    with pytest.raises(ValidationError):
        PhenologyParameters(fraction_start=1.5)
    with pytest.raises(ValidationError):
        PhenologyParameters(fraction=0.5)  # type: ignore[call-arg]


def archive_ndvi(archive: Path) -> tuple[NDArray[Any], NDArray[np.int16]]:
    """Dates and NDVI in 1e-4 of a patch of 64 × 64 pixels of 10 m, masked by its SCL of 20 m."""
    dates, stack = [], []
    for item in sorted(archive.glob("S2_*.json")):
        bands = []
        for name in ("B04", "B08", "SCL"):
            with rasterio.open(item.with_suffix("") / f"{name}.tif") as file:
                bands.append(file.read(1))
        red, nir = (band.astype(float) for band in bands[:2])
        scl = bands[2].repeat(2, axis=0).repeat(2, axis=1)
        clear = (red > 0) & (nir > 0) & ~np.isin(scl, [0, 1, 3, 8, 9, 10, 11])
        ndvi = np.divide(nir - red, nir + red, out=np.zeros_like(red), where=clear)
        stack.append(np.where(clear, np.rint(ndvi * 1e4), FILL).astype(np.int16))
        dates.append(np.datetime64(json.loads(item.read_text())["properties"]["datetime"][:10]))
    return np.array(dates), np.stack(stack)


@pytest.mark.slow
def test_maize_of_flanders_peaks_in_july(shared: Path) -> None:
    patch = "00002806639B424A"
    labels = sorted((shared / "data" / "worldcereal-patches" / patch).glob("OUTPUT_POLY-110*.nc"))
    if not labels or not (shared / "archive" / patch).is_dir():
        pytest.skip(f"needs the archive and the labels of patch {patch} in the shared folder")
    with xr.open_dataset(labels[0], mask_and_scale=False) as found:
        maize = found["CT"].to_numpy() == 1200
    dates, ndvi = archive_ndvi(shared / "archive" / patch)
    days = (dates - np.datetime64("2018-01-01")).astype(int)
    slots = np.floor_divide(days + 120, 10)
    slots[(slots < 0) | (slots >= 61)] = -1
    curve = smooth_bins(
        ndvi[:, maize][:, None], slots.astype(np.int32), 61, fill=FILL, lam=3.0, envelope=None
    ).values
    season = phenology_block(
        curve, DEKADS + 4.5, **YEAR, fill=FILL, parameters=PhenologyParameters()
    )
    summer = season.peak_of_season > 100  # the others are fields greener in winter
    assert summer.mean() > 0.5
    # The register's fields: greatest mean NDVI on 8 July, sown in April or May, harvested
    # between 1 and 21 September, when NDVI falls from 0.77 to 0.28.
    july = (np.datetime64("2018-07-08") - np.datetime64("2018-01-01")).astype(int) + 1
    assert np.median(season.peak_of_season[summer]) == pytest.approx(july, abs=10)
    assert 130 < np.median(season.start_of_season[summer]) < 170
    assert 245 < np.median(season.end_of_season[summer]) < 285
