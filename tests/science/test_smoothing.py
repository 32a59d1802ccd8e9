"""The Whittaker smoother: stored vectors, whittaker-eilers, dense algebra and statistics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from whittaker_eilers import WhittakerSmoother

from alpage.science.smoothing import (
    ERROR_FILL,
    SENSOR_NOISE,
    residual_variance,
    smooth_bins,
    whittaker,
    whittaker_envelope,
    whittaker_with_variance,
)
from alpage.science.v_curve import v_curve

FILL = -32768
Floats = NDArray[np.float64]


def vectors(shared: Path, name: str) -> dict[str, Any]:
    path = shared / "science" / name
    if not path.is_file():
        pytest.skip(f"needs {name} in the shared science folder")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def dense(y: Floats, weights: Floats, lam: float) -> tuple[Floats, Floats]:
    """Curve and unit variance by full matrices."""
    bend = np.diff(np.eye(y.size), 2, axis=0)
    inverse = np.linalg.inv(np.diag(weights) + lam * bend.T @ bend)
    return inverse @ (weights * y), np.diag(inverse)


@st.composite
def series(draw: st.DrawFn) -> tuple[Floats, Floats, float]:
    """Values, weights with gaps, lambda."""
    size = draw(st.integers(3, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, 4, size) * (rng.random(size) < draw(st.floats(0.2, 1)))
    weights[rng.choice(size, 2, replace=False)] = 1
    return rng.normal(0, 1, size), weights.astype(float), 10 ** draw(st.floats(-2, 3))


@pytest.mark.parametrize("lam", [1, 10, 100])
def test_curve_equals_the_stored_vectors(shared: Path, lam: int) -> None:
    known = vectors(shared, "vectors.json")["whit"]
    curve = whittaker(known["y"], known["w"], lam)
    np.testing.assert_allclose(curve, known[f"lam{lam}_d2"], rtol=0, atol=1e-6)


def test_envelope_and_v_curve_equal_the_stored_vectors(shared: Path) -> None:
    known = vectors(shared, "vectors.json")["whit"]
    answers = vectors(shared, "vectors2.json")
    y, weights, grid = known["y"], known["w"], np.arange(-2, 4.01, 0.2)
    envelope = whittaker_envelope(y, weights, 10, 0.9)
    np.testing.assert_allclose(envelope, answers["ws2dp_lam10_p0.9"], rtol=0, atol=1e-6)
    for p, name in ((None, "vcurve"), (0.9, "vcurve_p0.9")):
        lam, curve = v_curve(y, weights, grid, p)
        assert lam == pytest.approx(answers[name]["lopt"], rel=1e-9)
        np.testing.assert_allclose(curve, answers[name]["z"], rtol=0, atol=1e-6)


@given(series())
def test_curve_and_variance_equal_a_dense_solution(drawn: tuple[Floats, Floats, float]) -> None:
    y, weights, lam = drawn
    curve, variance = whittaker_with_variance(y, weights, lam)
    wanted_curve, wanted_variance = dense(y, weights, lam)
    np.testing.assert_allclose(curve, wanted_curve, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, wanted_variance, rtol=1e-6)


@given(series())
def test_curve_equals_whittaker_eilers(drawn: tuple[Floats, Floats, float]) -> None:
    y, weights, lam = drawn
    oracle = WhittakerSmoother(lam, 2, y.size, weights=list(weights))
    np.testing.assert_allclose(
        whittaker(y, weights, lam), oracle.smooth(list(y)), rtol=1e-6, atol=1e-6
    )


def test_a_straight_line_stays_and_gaps_may_hold_anything() -> None:
    line = np.linspace(3, -2, 17)
    weights = np.ones(17)
    weights[5:9] = 0
    gappy = line.copy()
    gappy[5:9] = np.nan
    np.testing.assert_allclose(whittaker(gappy, weights, 50), line, atol=1e-9)


def test_standard_error_covers_the_truth_of_a_simulated_process() -> None:
    # The prior that the variance reads: second differences of variance sigma2 / lam.
    rng = np.random.default_rng(5)
    lam, size, runs = 5.0, 40, 400
    weights = rng.integers(0, 3, size).astype(float)
    weights[15:25] = 0
    inside = covered = 0
    for _ in range(runs):
        truth = np.cumsum(np.cumsum(rng.normal(0, 0.1 / np.sqrt(lam), size)))
        noise = rng.normal(0, 0.1, size) / np.sqrt(np.maximum(weights, 1))
        curve, variance = whittaker_with_variance(truth + noise, weights, lam)
        sigma2 = residual_variance(truth + noise, weights, curve, variance)
        covered += np.count_nonzero(np.abs(curve - truth) < np.sqrt(sigma2 * variance))
        inside += size
    assert covered / inside == pytest.approx(0.683, abs=0.03)


def test_residual_variance_by_hand() -> None:
    # Residuals 1, -2, 1 with weights 1, 1, 2: squares 1 + 4 + 2 = 7; freedom 3 - 0.5 * 4 = 1.
    found = residual_variance([1.0, 0.0, 3.0], [1, 1, 2], [0.0, 2.0, 2.0], [0.5, 0.5, 0.5])
    assert found == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: whittaker([1, 2], [1, 1], 1), "3 or more"),
        (lambda: whittaker([1, 2, 3], [1, 1], 1), "as many weights"),
        (lambda: whittaker([1, 2, 3], [1, 1, 1], 0), "lam"),
        (lambda: whittaker([1, 2, 3], [1, 0, 0], 1), "two of them positive"),
        (lambda: whittaker([1, 2, 3], [1, -1, 1], 1), "weights >= 0"),
        (lambda: whittaker_envelope([1, 2, 3], [1, 1, 1], 1, 1.0), "p < 1"),
        (lambda: v_curve([1, 2, 4, 3], np.ones(4), [0.0]), "equally spaced"),
        (lambda: v_curve([0, 0, 0, 0], np.ones(4), [0.0, 1.0]), "straight line"),
    ],
)
def test_wrong_series_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def random_block(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    days = np.arange(shape[0])[:, None, None]
    clean = 5000 + 3000 * np.sin(days / 40) + rng.normal(0, 400, shape)
    return np.where(rng.random(shape) < 0.15, clean, FILL).astype(np.int16)


@pytest.mark.parametrize("envelope", [None, 0.9])
def test_blocks_equal_the_series_of_each_pixel(envelope: float | None) -> None:
    rng = np.random.default_rng(2)
    values = random_block(rng, (120, 4, 45))
    values[:, 0, 0] = FILL
    slots = (np.arange(120) // 8 - 1).astype(np.int32)
    found = smooth_bins(values, slots, 14, fill=FILL, lam=4.0, envelope=envelope)
    for y in range(4):
        for x in range(45):
            pixel = values[:, y, x]
            groups = [pixel[(slots == k) & (pixel != FILL)] for k in range(14)]
            counts = np.array([group.size for group in groups])
            assert list(found.observations[:, y, x]) == list(counts)
            seen = np.flatnonzero(counts)
            if seen.size < 3:
                assert np.all(found.values[:, y, x] == FILL)
                assert np.all(found.standard_error[:, y, x] == ERROR_FILL)
                continue
            means = np.array([group.mean() if group.size else 0.0 for group in groups])
            if envelope is None:
                curve, variance = dense(means, counts.astype(float), 4.0)
                sigma2 = residual_variance(means, counts, curve, variance)
                error = np.sqrt(max(sigma2, SENSOR_NOISE**2) * variance)
            else:
                curve, error = whittaker_envelope(means, counts, 4.0, envelope), None
            drawn = slice(seen[0], seen[-1] + 1)
            outside = np.ones(14, bool)
            outside[drawn] = False
            assert np.all(found.values[outside, y, x] == FILL)
            assert np.all(found.standard_error[outside, y, x] == ERROR_FILL)
            assert np.abs(found.values[drawn, y, x] - curve[drawn]).max() <= 0.5 + 1e-6
            if error is not None:
                difference = found.standard_error[drawn, y, x] - error[drawn]
                assert np.abs(difference).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("envelope", [None, 0.9])
def test_blocks_may_be_cut_anywhere(envelope: float | None) -> None:
    values = random_block(np.random.default_rng(3), (100, 11, 37))
    slots = (np.arange(100) // 10).astype(np.int32)
    options: dict[str, Any] = {"fill": FILL, "lam": 10.0, "envelope": envelope}
    whole = smooth_bins(values, slots, 10, **options)
    days = np.flatnonzero((values != FILL).any(axis=(1, 2)))
    for part in (np.s_[:, 3:4, :], np.s_[:, :, 5:6], np.s_[:, 2:9, 30:]):
        cut = smooth_bins(values[part][days], slots[days], 10, **options)
        for layer, wanted in zip(cut, whole, strict=True):
            np.testing.assert_array_equal(layer, wanted[part])


def test_standard_error_grows_in_gaps_and_keeps_its_floor() -> None:
    values = np.full((40, 1, 1), FILL, np.int16)
    straight = 1000 + 100 * np.arange(40)
    watched = np.r_[0:12, 28:40]
    values[watched, 0, 0] = straight[watched]
    slots = np.arange(40, dtype=np.int32)
    found = smooth_bins(values, slots, 40, fill=FILL, lam=10.0, envelope=None)
    np.testing.assert_array_equal(found.values[:, 0, 0], straight)
    error = found.standard_error[:, 0, 0].astype(int)
    assert np.all(np.diff(error[11:20]) > 0)
    assert np.all(np.diff(error[20:29]) < 0)
    # Residuals are 0: only the sensor's own noise is left.
    weights = np.zeros(40)
    weights[watched] = 1
    _, variance = dense(straight.astype(float), weights, 10.0)
    assert np.abs(error - SENSOR_NOISE * np.sqrt(variance)).max() <= 0.5 + 1e-6


def test_an_envelope_of_one_half_has_the_standard_error_of_half_the_weights() -> None:
    values = random_block(np.random.default_rng(8), (100, 3, 3))
    slots = (np.arange(100) // 10).astype(np.int32)
    found = smooth_bins(values, slots, 10, fill=FILL, lam=5.0, envelope=0.5)
    wanted = smooth_bins(values, slots, 10, fill=FILL, lam=10.0, envelope=None)
    for layer, expected in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(layer, expected)


def test_values_are_clipped_to_ndvi() -> None:
    values = np.array([-10000, 10000, 10000, 10000, -10000], np.int16)[:, None, None]
    slots = np.arange(5, dtype=np.int32)
    curve = smooth_bins(values, slots, 5, fill=FILL, lam=0.05, envelope=None).values[:, 0, 0]
    assert curve.max() == 10000
    assert curve.min() >= -10000


@pytest.mark.parametrize(
    ("slots", "n_slots", "lam", "envelope", "words"),
    [
        ([0, 1], 5, 1.0, None, "one slot per day"),
        ([0, 1, 5], 5, 1.0, None, "-1 to 4"),
        ([0, 1, -2], 5, 1.0, None, "-1 to 4"),
        ([0, 1, 1], 2, 1.0, None, "or more slots"),
        ([0, 1, 2], 5, 0.0, None, "lam > 0"),
        ([0, 1, 2], 5, 1.0, 1.5, "envelope"),
    ],
)
def test_wrong_blocks_are_refused(
    slots: list[int], n_slots: int, lam: float, envelope: float | None, words: str
) -> None:
    values = np.zeros((3, 1, 1), np.int16)
    with pytest.raises(ValueError, match=words):
        smooth_bins(
            values, np.array(slots, np.int32), n_slots, fill=FILL, lam=lam, envelope=envelope
        )


def test_no_days_make_an_empty_block() -> None:
    none = np.zeros((0, 2, 2), np.int16)
    found = smooth_bins(none, np.zeros(0, np.int32), 4, fill=FILL, lam=1.0, envelope=None)
    assert np.all(found.values == FILL)
    assert not found.observations.any()
