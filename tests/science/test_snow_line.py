"""Snow lines against Let-It-Snow's unit tests, the vectors of V3 and exhaustive search."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alpage.science.snow import LisParameters, SnowFlag, classify_snow
from alpage.science.snow_line import (
    elevation_bins,
    elevation_histogram,
    first_snow_bin,
    snow_line_elevation,
    snow_line_lis,
)

CLEAR = int(SnowFlag.OBSERVED)
SNOWY = int(SnowFlag.OBSERVED | SnowFlag.PASS1 | SnowFlag.PASS2)
THIN = int(SnowFlag.OBSERVED | SnowFlag.PASS2)
CLOUDY = int(SnowFlag.OBSERVED | SnowFlag.ALL_CLOUD)


@pytest.fixture
def vectors(shared):
    return json.loads((shared / "science/vectors3.json").read_text())


def line_of(flags, dem, *, z_min, z_max, parameters):
    n_bins, _ = elevation_bins(z_min, z_max, parameters.elevation_step_m)
    histogram = elevation_histogram(
        flags[None, None], dem[None].astype(np.float32), z_min=z_min, z_max=z_max, n_bins=n_bins
    )
    return snow_line_lis(histogram[0], z_min=z_min, z_max=z_max, parameters=parameters)


def lis_unit_test():
    """5 px at 70 m snow under cloud, 5 at 81 m clear snow, 90 at 0 m bare; dz 20, no limits."""
    flags = np.array([CLOUDY] * 5 + [SNOWY] * 5 + [CLEAR] * 90, np.uint8)
    dem = np.array([70] * 5 + [81] * 5 + [0] * 90)
    parameters = LisParameters(
        elevation_step_m=20, snow_fraction_limit=0, clear_fraction_limit=0,
        snow_fraction_total_limit=0,
    )  # fmt: skip
    return flags, dem, parameters


def test_unit_test_of_let_it_snow_upward(vectors):
    flags, dem, parameters = lis_unit_test()
    found = line_of(flags, dem, z_min=0, z_max=100, parameters=parameters)
    assert found == vectors["lis_unit_forward(expect 40)"] == 40


@pytest.mark.parametrize(("lowest", "line"), [(-0.4, -2), (-5, -5), (0, 0)])
def test_a_line_at_the_shore_is_a_line(lowest, line):
    """Snow down to the lowest band: its lower edge, which -1 would not tell from no line."""
    dem = np.linspace(lowest, 2000, 500)
    flags = np.full(500, SNOWY, np.uint8)
    found = line_of(flags, dem, z_min=lowest, z_max=2000, parameters=LisParameters())
    assert found == line


def test_unit_test_of_let_it_snow_downward(vectors):
    flags, dem, parameters = lis_unit_test()
    histogram = elevation_histogram(
        flags[None, None], dem[None].astype(np.float32), z_min=0, z_max=100, n_bins=5
    )[0]
    from_above = first_snow_bin(histogram[::-1], parameters)
    centre = 100 - 20 * (from_above + 0.5)
    assert centre == vectors["lis_unit_reverse(expect 90)"] == 90


def test_line_lies_two_bands_below_the_first_snowy_one(vectors):
    z = np.arange(500, 2501, 10)
    flags = np.full(z.shape, CLEAR, np.uint8)
    flags[(z >= 1800) | ((z >= 1650) & (z < 1700))] = SNOWY
    flags[(z >= 2000) & (z < 2100)] = CLOUDY
    found = line_of(flags, z, z_min=500, z_max=2500, parameters=LisParameters())
    assert found == vectors["zs_vec"]["zs"] == 1400


@pytest.mark.parametrize(
    ("flags", "z_max"),
    [
        pytest.param([CLEAR] * 1999 + [SNOWY], 3000, id="next-to-no-snow"),
        pytest.param([CLEAR] * 999 + [SNOWY], 3000, id="snow-fraction-at-its-limit"),
        pytest.param([SNOWY] * 10, 1099, id="range-below-one-band"),
        pytest.param([CLOUDY] * 10, 3000, id="overcast"),
        pytest.param([0] * 10, 3000, id="nothing-observed"),
        pytest.param([0] * 91 + [SNOWY] * 9, 1150, id="too-few-clear-pixels"),
    ],
)
def test_no_line(flags, z_max):
    flags = np.array(flags, np.uint8)
    dem = np.full(flags.shape, 1050.0)
    assert line_of(flags, dem, z_min=1000, z_max=z_max, parameters=LisParameters()) == -1


def test_low_snow_starts_pass_2_at_the_bottom_and_rounds_down():
    flags = np.array([SNOWY] * 10, np.uint8)
    dem = np.full(10, 812.0)
    # 4 bins of 112.625 m over [800.5, 1251]: centre 856.8125, minus 50 m, rounded down.
    assert line_of(flags, dem, z_min=800.5, z_max=1251, parameters=LisParameters()) == 806


def test_bins_are_stretched_to_the_range():
    assert elevation_bins(500, 2500, 100) == (20, 100.0)
    assert elevation_bins(0, 99.9, 100) == (0, 0.0)
    assert elevation_bins(100, 100, 100) == (0, 0.0)
    with pytest.raises(ValueError, match="z_min <= z_max"):
        elevation_bins(200, 100, 100)


def test_histogram_counts_what_let_it_snow_counts():
    flags = np.array([[[CLEAR, SNOWY, CLOUDY, 0, THIN, SNOWY]]], np.uint8)
    dem = np.array([[0, 50, 50, 99.9, 100, np.nan]], np.float32)
    counts = elevation_histogram(flags, dem, z_min=0, z_max=100, n_bins=2)
    assert counts.tolist() == [[[1, 1, 0], [4, 2, 1]]]
    assert counts.dtype == np.int64


@settings(max_examples=40, deadline=None)
@given(
    flags=hnp.arrays(np.uint8, (2, 5, 8), elements=st.sampled_from([0, CLEAR, SNOWY, CLOUDY])),
    dem=hnp.arrays(np.float32, (5, 8), elements=st.floats(0, 3000, width=32)),
    cut=st.integers(1, 7),
)
def test_histograms_of_blocks_add_up(flags, dem, cut):
    def counts(part):
        return elevation_histogram(flags[:, :, part], dem[:, part], z_min=0, z_max=3000, n_bins=30)

    whole = counts(slice(None))
    np.testing.assert_array_equal(counts(slice(None, cut)) + counts(slice(cut, None)), whole)
    for t in range(2):
        for column, wanted in enumerate((flags[t] >= 0, (flags[t] & 36) == 32, flags[t] == SNOWY)):
            expected, _ = np.histogram(dem[wanted].astype(float), bins=30, range=(0, 3000))
            np.testing.assert_array_equal(whole[t, :, column], expected)


def test_pass_2_fills_thin_snow_above_the_line_only():
    z = np.arange(500, 2501, 10)
    flags = np.full(z.shape, THIN, np.uint8)
    flags[z >= 1800] = SNOWY
    found = line_of(flags, z, z_min=500, z_max=2500, parameters=LisParameters())
    codes = classify_snow(flags[None, None], z[None].astype(np.float32), np.array([found]))
    assert found == 1600
    np.testing.assert_array_equal(codes[0, 0], np.where(z > 1600, 100, 0))


def test_regional_snow_line_of_the_vector(vectors):
    rng = np.random.default_rng(3)
    z = rng.uniform(800, 3000, 20000)
    snow = z + rng.normal(0, 80, 20000) > 1900
    clear = rng.random(20000) > 0.3
    edges = np.arange(800, 3000.5, 0.5)
    per_bin = [np.histogram(z[clear & seen], bins=edges)[0] for seen in (snow, ~snow)]
    found = snow_line_elevation(*per_bin, edges, total=20000)
    misplaced = (clear & snow & (z < found)).sum() + (clear & ~snow & (z >= found)).sum()
    assert [found, misplaced] == vectors["rsle"]["rsle_err"]


@settings(max_examples=60, deadline=None)
@given(
    snow=hnp.arrays(np.int64, 9, elements=st.integers(0, 5)),
    land=hnp.arrays(np.int64, 9, elements=st.integers(0, 5)),
)
def test_regional_snow_line_misplaces_the_fewest(snow, land):
    edges = np.linspace(1000, 1900, 10)
    found = snow_line_elevation(snow, land, edges, total=int(snow.sum() + land.sum()))
    if snow.sum() == 0 or land.sum() == 0:
        assert np.isnan(found)
        return
    misplaced = [snow[edges[:-1] < edge].sum() + land[edges[:-1] >= edge].sum() for edge in edges]
    best = [edge for edge, count in zip(edges, misplaced, strict=True) if count == min(misplaced)]
    assert found == best[len(best) // 2]


@pytest.mark.parametrize(
    ("snow", "land", "total", "told"),
    [
        pytest.param(1, 2, 10, True, id="30-percent-clear"),
        pytest.param(1, 2, 11, False, id="less"),
        pytest.param(0, 9, 10, False, id="no-snow"),
        pytest.param(9, 0, 10, False, id="no-land"),
    ],
)
def test_when_a_regional_snow_line_is_told(snow, land, total, told):
    found = snow_line_elevation(
        np.array([0, snow]), np.array([land, 0]), np.array([1000.0, 1100, 1200]), total=total
    )
    assert np.isfinite(found) == told


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"n \+ 1 edges"):
        snow_line_elevation(np.ones(3, int), np.ones(3, int), np.arange(3.0), total=6)
    with pytest.raises(ValueError, match="the elevation"):
        elevation_histogram(
            np.zeros((1, 2, 2), np.uint8), np.zeros((3, 2), np.float32), z_min=0, z_max=1, n_bins=1
        )
