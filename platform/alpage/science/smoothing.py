"""Smooth curves through gappy series, with their uncertainty: the Whittaker smoother.

A curve z minimises ``sum w (y - z)² + lam * sum (second difference of z)²``. The system is
banded, so everything here takes time in proportion to the length of the series.
Source: Eilers 2003, 10.1021/ac034173t.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

ERROR_FILL = 65535
"""No standard error, where the curve is fill."""

MINIMUM_SLOTS = 3
"""Observed slots from which a curve is drawn: two always lie on a straight line."""

SENSOR_NOISE = 200
"""Least standard deviation believed of one NDVI observation, in 1e-4.

Clear Sentinel-2 observations of the same fields two or three days apart in quiet winter weather
differ by 0.01 to 0.02 per observation (Flanders 2018, `00002806639B424A` of WorldCereal): what
calibration, angles and thin haze leave, however well a curve fits.
"""

_ENVELOPE_ROUNDS = 10
_STRIP = 128  # pixels worked at once: their scratch stays in the second-level cache


class Smoothed(NamedTuple):
    """Curves of a block, each of shape (slot, y, x)."""

    values: NDArray[np.int16]
    """Smoothed values in 1e-4, fill outside a pixel's observed slots."""
    standard_error: NDArray[np.uint16]
    """Standard error of `values` in 1e-4, ERROR_FILL where these are fill."""
    observations: NDArray[np.uint16]
    """Observations in each slot; 0 where there is none, never fill."""


def whittaker(y: ArrayLike, weights: ArrayLike, lam: float) -> NDArray[np.float64]:
    """Return the smooth curve through one series: float64, shape (n,).

    `y` of shape (n,), n >= 3, in any unit; `weights` the same shape, 0 for a gap, where `y`
    is not looked at and may be NaN; `lam` the stiffness, per spacing of the samples. Raises
    ValueError where fewer than two weights are positive: no curve is determined then.

    >>> whittaker([1.0, np.nan, 5.0, 7.0], [1, 0, 1, 1], 10.0).round(3)
    array([1., 3., 5., 7.])
    """
    return whittaker_with_variance(y, weights, lam)[0]


def whittaker_with_variance(
    y: ArrayLike, weights: ArrayLike, lam: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smooth curve and its unit variance: two float64 of shape (n,).

    The unit variance is the diagonal of ``inv(W + lam D'D)``. Times the variance of an
    observation of weight 1 (`residual_variance`) it is the variance of the curve, as the
    Bayesian reading of the smoother has it (Wahba 1983): it grows in gaps and towards the
    ends. Arguments and errors as in `whittaker`.

    >>> whittaker_with_variance([0.0, 9.9, 4.0, 6.0], [1, 0, 1, 1], 10.0)[1].round(3)
    array([0.931, 0.463, 0.379, 0.724])
    """
    values, weight = _checked(y, weights, lam)
    curve, variance = _columns(values[:, None], weight[:, None], lam, 0.0)
    return curve[:, 0], variance[:, 0]


def residual_variance(
    y: ArrayLike, weights: ArrayLike, curve: ArrayLike, unit_variance: ArrayLike
) -> float:
    """Return the estimated variance of an observation of weight 1, in units of y squared.

    Weighted squared residuals over the degrees of freedom that the curve leaves, which is
    the number of observed samples less the trace of the smoother, and at least 1.

    >>> y, w = [0.0, 2.0, 3.0, 6.0, 8.0], np.ones(5)
    >>> round(residual_variance(y, w, *whittaker_with_variance(y, w, 10.0)), 4)
    0.2531
    """
    weight = np.asarray(weights, np.float64)
    seen = weight > 0
    left = np.count_nonzero(seen) - float(np.sum(weight * np.asarray(unit_variance)))
    residuals = np.asarray(y, np.float64)[seen] - np.asarray(curve, np.float64)[seen]
    return float(np.sum(weight[seen] * residuals**2) / max(left, 1.0))


def whittaker_envelope(
    y: ArrayLike, weights: ArrayLike, lam: float, p: float
) -> NDArray[np.float64]:
    """Return the asymmetric curve through one series: float64, shape (n,).

    Samples above the curve weigh `p`, those on or below it 1 - p, in at most ten rounds; `p`
    near 1 follows the upper envelope, as clouds that were missed only lower NDVI. Arguments
    and errors otherwise as in `whittaker`.

    >>> whittaker_envelope([5.0, 5.0, 1.0, 5.0, 5.0], np.ones(5), 1.0, 0.95).round(1)
    array([5. , 4.9, 4.9, 4.9, 5. ])
    """
    values, weight = _checked(y, weights, lam)
    if not 0 < p < 1:
        raise ValueError(f"expected 0 < p < 1, got {p}: 0.9 is usual for an upper envelope")
    return np.asarray(_columns(values[:, None], weight[:, None], lam, p)[0])[:, 0]


def _checked(
    y: ArrayLike, weights: ArrayLike, lam: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values with gaps set to 0, and weights."""
    values, weight = np.array(y, np.float64), np.asarray(weights, np.float64)
    if values.ndim != 1 or values.size < 3 or weight.shape != values.shape:
        raise ValueError(
            f"expected a series of 3 or more values and as many weights, "
            f"got shapes {values.shape} and {weight.shape}"
        )
    if not lam > 0:
        raise ValueError(f"lam must be positive, got {lam}")
    if not np.all(weight >= 0) or np.count_nonzero(weight) < 2:
        raise ValueError("expected weights >= 0, two of them positive: no curve is determined")
    values[weight == 0] = 0
    return values, weight


def smooth_bins(
    values: NDArray[np.int16],
    slots: NDArray[np.int32],
    n_slots: int,
    *,
    fill: int,
    lam: float,
    envelope: float | None,
) -> Smoothed:
    """Return the smoothed curve of each pixel on a coarser axis, its error and its observations.

    `values` (day, y, x) in 1e-4 with `fill`; ``slots[d]`` is the slot of day d on a regular
    axis of `n_slots`, -1 for none. A slot's sample is the mean of its observations, weighted
    by their number; `lam` is per slot. `envelope`: None for a symmetric curve, else `p` of
    `whittaker_envelope`. Curves are rounded and clipped to ±10000. Slots before a pixel's
    first and after its last observed slot are fill, and so are pixels with fewer than
    MINIMUM_SLOTS observed slots: gaps are interpolated, nothing is extrapolated.

    The standard error is that of `whittaker_with_variance` and `residual_variance`, where an
    observation is never believed to be better than SENSOR_NOISE: short series leave few
    degrees of freedom and may fit by chance. Under an envelope it is that of the last round's
    weights.

    >>> values = np.full((40, 1, 1), -32768, dtype="int16")
    >>> values[[3, 12, 38], 0, 0] = 2000, 3000, 5000
    >>> curve = smooth_bins(
    ...     values, np.arange(40, dtype="int32") // 10, 5, fill=-32768, lam=10.0, envelope=None)
    >>> curve.values[:, 0, 0]
    array([  2000,   3000,   4000,   5000, -32768], dtype=int16)
    """
    if values.ndim != 3 or slots.shape != values.shape[:1]:
        raise ValueError(
            f"expected values (day, y, x) and one slot per day, "
            f"got shapes {values.shape} and {slots.shape}"
        )
    if n_slots < MINIMUM_SLOTS or (slots.size and not -1 <= slots.min() <= slots.max() < n_slots):
        raise ValueError(
            f"expected {MINIMUM_SLOTS} or more slots and every day in -1 to {n_slots - 1}, "
            f"got {n_slots} slots and days in {np.unique(slots)}"
        )
    if not lam > 0 or (envelope is not None and not 0 < envelope < 1):
        raise ValueError(f"expected lam > 0 and 0 < envelope < 1, got {lam} and {envelope}")
    shape = (n_slots, *values.shape[1:])
    flat = values.reshape(values.shape[0], values.shape[1] * values.shape[2])
    curve, error, counts = _smooth_bins(flat, slots, n_slots, fill, lam, envelope or 0.0)
    return Smoothed(curve.reshape(shape), error.reshape(shape), counts.reshape(shape))


@njit(cache=True, nogil=True)
def _factor(weight: Any, lam: float, factors: Any) -> None:
    """W + lam D'D = L diag(pivot) L': the pivots and the two bands of L below its ones."""
    pivot, first, second = factors[0], factors[1], factors[2]
    n, m = weight.shape
    for i in range(n):
        starts, passes, ends = i <= n - 3, 1 <= i <= n - 2, i >= 2  # second differences at i
        diagonal = lam * (1.0 * starts + 4.0 * passes + 1.0 * ends)
        beside = lam * (-2.0 * starts - 2.0 * passes)
        beyond = lam if starts else 0.0
        for x in range(m):
            p, b = weight[i, x] + diagonal, beside
            if i > 0:
                p -= first[i - 1, x] * first[i - 1, x] * pivot[i - 1, x]
                b -= first[i - 1, x] * second[i - 1, x] * pivot[i - 1, x]
            if i > 1:
                p -= second[i - 2, x] * second[i - 2, x] * pivot[i - 2, x]
            pivot[i, x] = p
            first[i, x] = b / p if i < n - 1 else 0.0
            second[i, x] = beyond / p


@njit(cache=True, nogil=True)
def _substitute(y: Any, weight: Any, factors: Any, curve: Any) -> None:
    pivot, first, second = factors[0], factors[1], factors[2]
    n, m = weight.shape
    for i in range(n):
        for x in range(m):
            value = weight[i, x] * y[i, x]
            if i > 0:
                value -= first[i - 1, x] * curve[i - 1, x]
            if i > 1:
                value -= second[i - 2, x] * curve[i - 2, x]
            curve[i, x] = value
    for i in range(n - 1, -1, -1):
        for x in range(m):
            value = curve[i, x] / pivot[i, x]
            if i < n - 1:
                value -= first[i, x] * curve[i + 1, x]
            if i < n - 2:
                value -= second[i, x] * curve[i + 2, x]
            curve[i, x] = value


@njit(cache=True, nogil=True)
def _diagonal_of_inverse(factors: Any, variance: Any) -> None:
    """The recursion of Hutchinson and de Hoog 1985, 10.1007/BF01389878, from the last row up."""
    pivot, first, second = factors[0], factors[1], factors[2]
    n, m = pivot.shape
    beside = np.zeros(m)  # of the row below: the element right of its diagonal
    for i in range(n - 1, -1, -1):
        for x in range(m):
            below = variance[i + 1, x] if i < n - 1 else 0.0
            next_below = variance[i + 2, x] if i < n - 2 else 0.0
            near = -first[i, x] * below - second[i, x] * beside[x]
            far = -first[i, x] * beside[x] - second[i, x] * next_below
            variance[i, x] = 1.0 / pivot[i, x] - first[i, x] * near - second[i, x] * far
            beside[x] = near


@njit(cache=True, nogil=True)
def _fit(
    y: Any, weight: Any, lam: float, p: float, effective: Any, factors: Any, curve: Any
) -> None:
    """Smooth the columns of `y`; p = 0 is symmetric. Leaves the last weights and factors."""
    n, m = y.shape
    rounds = _ENVELOPE_ROUNDS if p > 0.0 else 1
    for turn in range(rounds):
        changed = False
        for i in range(n):
            for x in range(m):
                new = weight[i, x]
                if p > 0.0:
                    new *= p if turn == 0 or y[i, x] > curve[i, x] else 1.0 - p
                changed = changed or new != effective[i, x]
                effective[i, x] = new
        if turn > 0 and not changed:
            break
        _factor(effective, lam, factors)
        _substitute(y, effective, factors, curve)


@njit(cache=True, nogil=True)
def _columns(y: Any, weight: Any, lam: float, p: float) -> Any:
    effective, factors, curve = np.zeros(y.shape), np.empty((3, *y.shape)), np.empty(y.shape)
    variance = np.empty(y.shape)
    _fit(y, weight, lam, p, effective, factors, curve)
    _diagonal_of_inverse(factors, variance)
    return curve, variance


@njit(cache=True, nogil=True)
def _bin(values: Any, slots: Any, fill: int, y: Any, counts: Any) -> None:
    """Mean and number of the observations of each slot; 0 and 0 where there is none."""
    y[:] = 0.0
    counts[:] = 0
    for d in range(values.shape[0]):
        slot = slots[d]
        if slot < 0:
            continue
        for x in range(values.shape[1]):
            if values[d, x] != fill:
                y[slot, x] += values[d, x]
                counts[slot, x] += 1
    for slot in range(y.shape[0]):
        for x in range(y.shape[1]):
            if counts[slot, x] > 0:
                y[slot, x] /= counts[slot, x]


@njit(cache=True, nogil=True)
def _weigh(counts: Any, weight: Any, seen: Any) -> None:
    """Weights, and the number of observed slots; pixels without a curve weigh 1 throughout."""
    seen[:] = 0
    for slot in range(counts.shape[0]):
        for x in range(counts.shape[1]):
            seen[x] += 1 if counts[slot, x] > 0 else 0
    for slot in range(counts.shape[0]):
        for x in range(counts.shape[1]):
            weight[slot, x] = counts[slot, x] if seen[x] >= MINIMUM_SLOTS else 1.0


@njit(cache=True, nogil=True)
def _sigma(
    y: Any, weight: Any, effective: Any, curve: Any, variance: Any, seen: Any, sigma: Any
) -> None:
    """Standard deviation of an observation of effective weight 1, never below SENSOR_NOISE.

    An envelope's weights are smaller than the counts: the floor shrinks as they do.
    """
    n, m = y.shape
    for x in range(m):
        squares = trace = total = effective_total = 0.0
        for i in range(n):
            residual = y[i, x] - curve[i, x]
            squares += effective[i, x] * residual * residual
            trace += effective[i, x] * variance[i, x]
            total += weight[i, x]
            effective_total += effective[i, x]
        estimate = squares / max(seen[x] - trace, 1.0)
        floor = SENSOR_NOISE * SENSOR_NOISE * effective_total / total
        sigma[x] = np.sqrt(max(estimate, floor))


@njit(cache=True, nogil=True)
def _smooth_bins(values: Any, slots: Any, n_slots: int, fill: int, lam: float, p: float) -> Any:
    n_pixels = values.shape[1]
    smoothed = np.full((n_slots, n_pixels), fill, np.int16)
    errors = np.full((n_slots, n_pixels), ERROR_FILL, np.uint16)
    observations = np.empty((n_slots, n_pixels), np.uint16)
    for begin in range(0, n_pixels, _STRIP):
        end = min(begin + _STRIP, n_pixels)
        shape = (n_slots, end - begin)
        y, weight, curve = np.empty(shape), np.empty(shape), np.empty(shape)
        effective, variance, factors = np.zeros(shape), np.empty(shape), np.empty((3, *shape))
        seen, sigma = np.empty(end - begin, np.int64), np.empty(end - begin)
        counts = observations[:, begin:end]
        _bin(values[:, begin:end], slots, fill, y, counts)
        _weigh(counts, weight, seen)
        _fit(y, weight, lam, p, effective, factors, curve)
        _diagonal_of_inverse(factors, variance)
        _sigma(y, weight, effective, curve, variance, seen, sigma)
        for x in range(end - begin):
            if seen[x] < MINIMUM_SLOTS:
                continue
            first, last = 0, n_slots - 1
            while counts[first, x] == 0:
                first += 1
            while counts[last, x] == 0:
                last -= 1
            for i in range(first, last + 1):
                value = min(max(np.rint(curve[i, x]), -10000.0), 10000.0)
                error = np.rint(sigma[x] * np.sqrt(variance[i, x]))
                smoothed[i, begin + x] = np.int16(value)
                errors[i, begin + x] = np.uint16(min(error, ERROR_FILL - 1.0))
    return smoothed, errors, observations
