"""Reflectance to spectral indices: one fused integer kernel, and formulas on floats."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FILL = -32768


def normalized_difference(
    a: NDArray[np.uint16],
    b: NDArray[np.uint16],
    quality: NDArray[np.uint8],
    *,
    gains: NDArray[np.floating[Any]],
    offsets: NDArray[np.floating[Any]],
    mask: int,
    fill: int = FILL,
) -> NDArray[np.int16]:
    """Return (a - b) / (a + b) of two bands × 10000, rounded: int16, shape (t, y, x).

    The bands are digital numbers, 0 = no data; `gains` and `offsets` of shape (2, t) turn
    them into reflectance × 1e4. `fill` stands where `quality` has a bit of `mask`, where a
    band has no data, and where the sum of the reflectances is not positive: below zero a
    ratio changes its sign and says nothing. Ties round to even; results are clipped to
    [-10000, 10000], which only negative reflectances exceed. Raises ValueError where
    shapes disagree.

    >>> nir = np.array([[[3000, 3000, 0]]], dtype="uint16")
    >>> red = np.array([[[1000, 1000, 500]]], dtype="uint16")
    >>> quality = np.array([[[0, 2, 0]]], dtype="uint8")
    >>> normalized_difference(
    ...     nir, red, quality, gains=np.ones((2, 1)), offsets=np.zeros((2, 1)), mask=2)
    array([[[  5000, -32768, -32768]]], dtype=int16)
    """
    for name, array in (("b", b), ("quality", quality)):
        if array.shape != a.shape:
            raise ValueError(f"{name} has shape {array.shape}, a {a.shape}: they must agree")
    if gains.shape != (2, a.shape[0]) or offsets.shape != gains.shape:
        raise ValueError(
            f"expected gains and offsets of shape (2, {a.shape[0]}), "
            f"got {gains.shape} and {offsets.shape}"
        )
    linear = np.stack([gains, offsets]).astype(np.float64)
    found = np.empty(a.shape, np.int16)
    _normalized_difference(a, b, quality, linear, np.uint8(mask), np.int16(fill), found)
    return found


# Without error_model numba tests every divisor for zero and the loop is not vectorised.
@njit(cache=True, nogil=True, error_model="numpy")
def _normalized_difference(
    a: Any, b: Any, quality: Any, linear: Any, mask: Any, fill: Any, found: Any
) -> None:
    for t in range(a.shape[0]):
        gain_a, gain_b = linear[0, 0, t], linear[0, 1, t]
        offset_a, offset_b = linear[1, 0, t], linear[1, 1, t]
        for y in range(a.shape[1]):
            for x in range(a.shape[2]):
                first = a[t, y, x] * gain_a + offset_a
                second = b[t, y, x] * gain_b + offset_b
                total = first + second
                seen = (quality[t, y, x] & mask == 0) & (a[t, y, x] != 0) & (b[t, y, x] != 0)
                seen &= total > 0.0
                ratio = 10000.0 * (first - second) / (total if seen else 1.0)
                ratio = min(max(np.rint(ratio), -10000.0), 10000.0)
                found[t, y, x] = np.int16(ratio) if seen else fill


def _ratio(numerator: Any, denominator: Any) -> Floats:
    """Quotient, NaN where the denominator is not positive."""
    over, under = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    return np.asarray(np.divide(over, under, out=np.full(under.shape, np.nan), where=under > 0))


def _difference(a: Floats, b: Floats) -> Floats:
    return _ratio(a - b, a + b)


def ndvi(nir: Floats, red: Floats) -> Floats:
    """Return the normalised difference vegetation index: float64, broadcast shape.

    Reflectances are fractions; NaN where their sum is not positive.

    >>> ndvi(np.array(0.30), np.array(0.05)).round(6)
    np.float64(0.714286)
    """
    return _difference(nir, red)


def ndwi(green: Floats, nir: Floats) -> Floats:
    """Return the normalised difference water index of open water (McFeeters): float64.

    Reflectances are fractions, broadcast; NaN where their sum is not positive.

    >>> ndwi(np.array(0.08), np.array(0.02)).round(6)
    np.float64(0.6)
    """
    return _difference(green, nir)


def mndwi(green: Floats, swir16: Floats) -> Floats:
    """Return the modified normalised difference water index (Xu): float64.

    Reflectances are fractions, broadcast; NaN where their sum is not positive. The same
    formula as `ndsi`: snow looks like water.

    >>> mndwi(np.array(0.08), np.array(0.01)).round(6)
    np.float64(0.777778)
    """
    return _difference(green, swir16)


def ndsi(green: Floats, swir16: Floats) -> Floats:
    """Return the normalised difference snow index: float64.

    Reflectances are fractions, broadcast; NaN where their sum is not positive.

    >>> ndsi(np.array(0.78), np.array(0.08)).round(6)
    np.float64(0.813953)
    """
    return _difference(green, swir16)


def ndmi(nir: Floats, swir16: Floats) -> Floats:
    """Return the normalised difference moisture index: float64.

    Reflectances are fractions, broadcast; NaN where their sum is not positive.

    >>> ndmi(np.array(0.30), np.array(0.18)).round(6)
    np.float64(0.25)
    """
    return _difference(nir, swir16)


def evi(nir: Floats, red: Floats, blue: Floats) -> Floats:
    """Return the enhanced vegetation index of MODIS: float64, broadcast shape.

    Reflectances are fractions; NaN where the denominator is not positive, as over snow
    that is brightest in the blue. Values near such a zero are large and mean nothing.

    >>> evi(np.array(0.30), np.array(0.05), np.array(0.04)).round(6)
    np.float64(0.480769)
    """
    return _ratio(2.5 * (nir - red), nir + 6 * red - 7.5 * blue + 1)


def evi2(nir: Floats, red: Floats) -> Floats:
    """Return the enhanced vegetation index of two bands: float64, broadcast shape.

    >>> evi2(np.array(0.30), np.array(0.05)).round(6)
    np.float64(0.440141)
    """
    return _ratio(2.5 * (nir - red), nir + 2.4 * red + 1)


def savi(nir: Floats, red: Floats) -> Floats:
    """Return the soil adjusted vegetation index with L = 0.5: float64, broadcast shape.

    >>> savi(np.array(0.30), np.array(0.05)).round(6)
    np.float64(0.441176)
    """
    return _ratio(1.5 * (nir - red), nir + red + 0.5)


def kndvi(nir: Floats, red: Floats) -> Floats:
    """Return the kernel NDVI whose length scale is the mean reflectance: float64.

    With that scale it is tanh(NDVI²). Reflectances are fractions, broadcast; NaN where
    their sum is not positive.

    >>> kndvi(np.array(0.30), np.array(0.05)).round(6)
    np.float64(0.470104)
    """
    return np.asarray(np.tanh(np.square(_difference(nir, red))))


def awei_sh(blue: Floats, green: Floats, nir: Floats, swir16: Floats, swir22: Floats) -> Floats:
    """Return the automated water extraction index for shadowed land: float64; water > 0.

    Source: Feyisa et al. 2014, 10.1016/j.rse.2013.08.029.

    >>> bands = (np.array(value) for value in (0.07, 0.08, 0.02, 0.01, 0.005))
    >>> awei_sh(*bands).round(6)
    np.float64(0.22375)
    """
    return np.asarray(blue + 2.5 * green - 1.5 * (nir + swir16) - 0.25 * swir22)


def awei_nsh(green: Floats, nir: Floats, swir16: Floats, swir22: Floats) -> Floats:
    """Return the automated water extraction index without shadow: float64; water > 0.

    Both infrared terms are subtracted, as in Feyisa et al. 2014,
    10.1016/j.rse.2013.08.029; some collections of indices print the last sign reversed.

    >>> bands = (np.array(value) for value in (0.08, 0.02, 0.01, 0.005))
    >>> awei_nsh(*bands).round(6)
    np.float64(0.26125)
    """
    return np.asarray(4 * (green - swir16) - (0.25 * nir + 2.75 * swir22))
