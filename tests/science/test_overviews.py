"""Halved maps: against GDAL's overviews and plain definitions."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio.enums import Resampling
from rasterio.io import MemoryFile

from alpage.science.overviews import halve_mean, halve_mode


def gdal(values: np.ndarray, fill: int, method: Resampling) -> np.ndarray:
    """One map at half its resolution, as GDAL resamples it."""
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "nodata": fill}
    with MemoryFile() as memory:
        with memory.open(
            dtype=values.dtype, transform=Affine(10, 0, 0, 0, -10, 0), **profile
        ) as file:
            file.write(values, 1)
        with memory.open() as file:
            return file.read(1, out_shape=(height // 2, width // 2), resampling=method)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16"])
def test_means_are_those_of_gdal(dtype: str) -> None:
    random = np.random.default_rng(7)
    values = random.integers(-9000 if dtype == "int16" else 1, 250, (80, 60)).astype(dtype)
    fill = np.iinfo(dtype).min if dtype == "int16" else 255
    values[random.random(values.shape) < 0.4] = fill
    expected = gdal(values, fill, Resampling.average).astype(int)
    got = halve_mean(values, fill).astype(int)
    np.testing.assert_array_equal(got == fill, expected == fill)
    # Below zero GDAL rounds halves down.
    assert np.abs(got - expected).max() <= 1
    np.testing.assert_array_equal(got[expected > 0], expected[expected > 0])


def test_modes_are_those_of_gdal_where_one_code_wins() -> None:
    random = np.random.default_rng(8)
    codes = random.choice(np.array([0, 100, 205, 254], dtype="uint8"), (80, 60))
    four = codes.reshape(40, 2, 30, 2).swapaxes(1, 2).reshape(40, 30, 4)
    votes = np.stack([((four == code) & (code != 254)).sum(-1) for code in (0, 100, 205, 254)], -1)
    ranked = np.sort(votes, axis=-1)
    clear = ranked[..., -1] > ranked[..., -2]
    got, expected = halve_mode(codes, 254), gdal(codes, 254, Resampling.mode)
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(got[clear], expected[clear])
    np.testing.assert_array_equal(got == 254, votes.sum(-1) == 0)


# Below all values, so that no mean is taken for it.
FILL = -3
maps = arrays.arrays(
    np.int16,
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    elements=st.integers(-3, 3),
)


@given(maps)
def test_every_pixel_counts_once(values: np.ndarray) -> None:
    means, modes = halve_mean(values, FILL), halve_mode(values, FILL)
    for y, x in np.ndindex(means.shape):
        four = values[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        seen = four[four != FILL].astype(float)
        if seen.size == 0:
            assert means[y, x] == modes[y, x] == FILL
            continue
        assert means[y, x] == np.floor(seen.mean() + 0.5)
        found, counts = np.unique(seen, return_counts=True)
        assert modes[y, x] in found[counts == counts.max()]


def test_extremes_do_not_overflow() -> None:
    values = np.full((2, 2), np.iinfo("int32").max, dtype="int32")
    assert halve_mean(values, -1).item() == np.iinfo("int32").max
