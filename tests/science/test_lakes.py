"""Thresholds against scikit-image and exact mixtures, areas against vectors and rolled dice."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.filters import threshold_otsu

from alpage.science.lakes import lake_area, lake_histogram, lake_threshold, otsu
from alpage.science.masks import Quality
from alpage.science.water import WaterParameters, water_observation
from alpage.science.zones import zone_index_from_labels

PARAMETERS = WaterParameters()


def variance_between(counts, n_low):
    """Between-class variance of the first `n_low` bins and the rest, in bins squared."""
    bins = np.arange(counts.size)
    low, high = counts[:n_low].sum(), counts[n_low:].sum()
    means = bins[:n_low] @ counts[:n_low] / low, bins[n_low:] @ counts[n_low:] / high
    return low * high * (means[1] - means[0]) ** 2 / counts.sum() ** 2


@given(hnp.arrays(np.int64, st.integers(2, 60), elements=st.sampled_from([0, 0, 1, 3, 40, 999])))
def test_otsu_parts_a_histogram_as_scikit_image_does(counts):
    full = np.flatnonzero(counts)
    assume(full.size >= 2)
    edges = np.linspace(-1, 1, counts.size + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    # scikit-image divides by zero on empty bins at the ends.
    inner = slice(full[0], full[-1] + 1)
    reference = threshold_otsu(hist=(counts[inner], centres[inner]))
    threshold, separability = otsu(counts, -1, 1)
    n_low, expected = (int((centres <= t + 1e-12).sum()) for t in (threshold, reference))
    # Of two splits that are equally good, rounding chooses.
    if counts[:n_low].sum() != counts[:expected].sum():
        assert variance_between(counts, n_low) == pytest.approx(variance_between(counts, expected))
    variance = np.average(np.arange(counts.size) ** 2, weights=counts)
    variance -= np.average(np.arange(counts.size), weights=counts) ** 2
    assert separability == pytest.approx(variance_between(counts, n_low) / variance)
    assert 0 < separability <= 1


def test_otsu_of_one_value_is_not_a_number():
    assert np.isnan(otsu(np.array([0, 7, 0]), -1, 1)).all()
    assert np.isnan(otsu(np.zeros(5, np.int64), -1, 1)).all()


def test_otsu_takes_the_middle_of_a_gap():
    counts = np.array([0, 5, 3, 0, 0, 0, 4, 6, 0, 0])
    threshold, _ = otsu(counts, 0, 10)
    assert threshold == pytest.approx((3 + 6) / 2)


@pytest.mark.parametrize(
    ("counts", "separability"),
    [
        pytest.param([10, 0, 0, 10], 1.0, id="two-values"),
        # Of n equal bins in two halves: (n² / 16 × 4 ...) = 3/4 · n² / (n² - 1), here n = 100.
        pytest.param([5] * 100, 0.75 * 1e4 / 9999, id="flat"),
    ],
)
def test_separability_by_hand(counts, separability):
    assert otsu(np.array(counts), -1, 1)[1] == pytest.approx(separability)


def table_of(values, brightness):
    """A lake's row of `lake_histogram` over 100 bins."""
    values = np.asarray(values, np.float64)
    bins = np.minimum((values + 1) * 50, 99).astype(int)
    brightness = np.broadcast_to(brightness, values.shape)
    return np.stack(
        [np.bincount(bins, minlength=100), np.bincount(bins, brightness, minlength=100)], axis=-1
    ).astype(np.int64)


def mixture(green, swir, share):
    """MNDWI and brightness of pixels with that share of water, the rest land."""
    g = share * green[0] + (1 - share) * green[1]
    s = share * swir[0] + (1 - share) * swir[1]
    return (g - s) / (g + s), 1e4 * (g + s)


@pytest.mark.parametrize(
    ("green", "swir"),
    [
        pytest.param((0.08, 0.06), (0.01, 0.18), id="meadow"),
        pytest.param((0.068, 0.15), (0.007, 0.26), id="gravel"),
        pytest.param((0.05, 0.03), (0.01, 0.09), id="wood"),
    ],
)
@pytest.mark.parametrize("wet", [150, 400, 700])
def test_a_lake_takes_the_threshold_of_half_water(green, swir, wet):
    # 150 to 700 pixels of water, the rest of 1000 land, 120 of them shore.
    share = np.concatenate([np.ones(wet - 60), np.zeros(940 - wet), (np.arange(120) + 0.5) / 120])
    index, brightness = mixture(green, swir, share)
    threshold = lake_threshold(table_of(index, brightness), -1, 1, PARAMETERS)
    half = mixture(green, swir, np.array([0.5]))[0].item()
    assert threshold == pytest.approx(half, abs=0.02)
    found = (index > threshold).sum()
    # Without it 0 is the limit, and more than half of the shore falls to the land.
    assert abs(found - wet) < abs((index > 0).sum() - wet)
    assert found == pytest.approx(wet, abs=6)


RNG = np.random.default_rng(11)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(RNG.normal(0.75, 0.06, 500), id="all-water"),
        pytest.param(RNG.normal(-0.4, 0.08, 500), id="all-land"),
        pytest.param(
            np.r_[RNG.normal(0.75, 0.03, 400), RNG.normal(0.3, 0.03, 100)], id="water-under-haze"
        ),
        pytest.param(
            np.r_[RNG.normal(-0.6, 0.03, 250), RNG.normal(-0.2, 0.03, 250)], id="two-lands"
        ),
        pytest.param(np.r_[RNG.normal(0.75, 0.02, 480), RNG.normal(-0.4, 0.02, 20)], id="islet"),
        pytest.param(np.r_[RNG.normal(0.7, 0.02, 20), RNG.normal(-0.4, 0.02, 480)], id="pond"),
        pytest.param(RNG.uniform(-0.5, 0.5, 5000), id="flat"),
        pytest.param(np.full(40, 0.7), id="one-value"),
        pytest.param(np.zeros(0), id="nothing"),
    ],
)
def test_without_two_classes_a_lake_takes_the_default(values):
    parameters = WaterParameters(default_threshold=0.05)
    assert lake_threshold(table_of(values, 900), -1, 1, parameters) == 0.05


def test_a_threshold_stays_in_its_range():
    values = np.r_[np.full(300, -0.79), np.full(300, 0.71)]
    brightness = np.r_[np.full(300, 9000), np.full(300, 300)]
    assert lake_threshold(table_of(values, brightness), -1, 1, PARAMETERS) == -0.3
    assert lake_threshold(table_of(values, brightness[::-1]), -1, 1, PARAMETERS) == 0.4


def test_histogram_of_clear_pixels():
    rng = np.random.default_rng(2)
    shape = (2, 20, 20)
    dn = rng.integers(1, 4000, (3, *shape)).astype(np.uint16)
    quality = rng.choice([0, 0, 2, 128], shape).astype(np.uint8)
    index, state, brightness = water_observation(
        *dn,
        quality,
        gains=np.ones((3, 2)),
        offsets=np.zeros((3, 2)),
        mask=int(Quality.CLOUD),
        parameters=PARAMETERS,
    )
    labels = rng.integers(0, 3, shape[1:]).astype(np.int32)
    table = lake_histogram(
        index, brightness, zone_index_from_labels(labels), low=-10000, high=10000, n_bins=50
    )
    assert table.shape == (2, 2, 50, 2)
    for t in range(2):
        for lake in (1, 2):
            # Land that only its darkness tells from water says nothing of lit land.
            inside = (labels == lake) & (quality[t] == 0) & np.isin(state[t], (0, 1))
            inside |= (labels == lake) & (quality[t] == 128) & (state[t] == 0)
            green, swir = dn[0, t][inside].astype(float), dn[1, t][inside].astype(float)
            for column, weights in enumerate((None, green + swir)):
                expected, _ = np.histogram(index[t][inside], 50, (-10000, 10000), weights=weights)
                np.testing.assert_array_equal(table[t, lake - 1, :, column], expected)


def area_of(*counts, pixel_area_m2=400.0):
    found = lake_area(
        np.array([[counts]], np.int64), pixel_area_m2=pixel_area_m2, parameters=PARAMETERS
    )
    return {name: value.item() for name, value in found._asdict().items()}


def test_vectors_of_de_africa():
    whole = area_of(60, 30, 10, 0)
    assert whole["percent_wet"] == 60
    assert whole["area_wet_m2"] == 60 * 400
    assert whole["area_m2"] == pytest.approx(60 / 90 * 100 * 400)
    hidden = area_of(59, 30, 11, 0)
    assert np.isnan([hidden["percent_wet"], hidden["area_m2"], hidden["area_uncertainty_m2"]]).all()
    assert hidden["invalid_fraction"] == 0.11
    assert hidden["area_wet_m2"] == 59 * 400


def test_a_date_without_pixels_has_no_values():
    assert np.isnan(list(area_of(0, 0, 0, 0).values())).all()


@pytest.mark.parametrize(
    ("counts", "frozen"),
    [
        pytest.param((60, 10, 0, 30), False, id="open-with-snowy-shore"),
        pytest.param((0, 10, 0, 90), True, id="ice"),
        pytest.param((4, 10, 0, 86), True, id="ice-with-a-hole"),
        pytest.param((0, 95, 0, 5), False, id="dried-up-with-some-snow"),
    ],
)
def test_a_frozen_lake_is_not_a_dry_one(counts, frozen):
    found = area_of(*counts)
    assert np.isnan(found["area_m2"]) == frozen
    assert found["snow_fraction"] == counts[3] / 100
    if not frozen:
        assert found["area_m2"] == counts[0] * 400


def test_uncertainty_of_the_unseen_is_that_of_dice():
    # Ten unseen pixels, any number of them wet, about the 0.9 that 90 seen ones suggest.
    rng = np.random.default_rng(8)
    errors = rng.uniform(0, 10, 200_000) - 9
    shore = area_of(90, 10, 0, 0, pixel_area_m2=1)["area_uncertainty_m2"]
    assert shore == pytest.approx(4 / np.pi * 2 * np.sqrt(np.pi * 90) / np.sqrt(12))
    found = area_of(81, 9, 10, 0, pixel_area_m2=1)["area_uncertainty_m2"]
    assert found == pytest.approx(np.hypot(shore, np.sqrt(np.mean(errors**2))), rel=0.01)


@pytest.mark.parametrize("radius", [3.0, 8.0, 25.0])
def test_uncertainty_of_the_shore_counts_the_pixels_that_it_crosses(radius):
    rng = np.random.default_rng(4)
    corner = np.arange(-30, 31)
    crossed = []
    for x0, y0 in rng.random((40, 2)):
        inside = np.hypot(*np.meshgrid(corner - x0, corner - y0)) < radius
        corners = sum(inside[i : i + 60, j : j + 60].astype(int) for i in (0, 1) for j in (0, 1))
        crossed.append(((corners > 0) & (corners < 4)).sum())
    area = np.pi * radius**2
    sigma = area_of(round(area), 1000, 0, 0, pixel_area_m2=1)["area_uncertainty_m2"]
    assert sigma == pytest.approx(np.mean(crossed) / np.sqrt(12), rel=0.05)


def test_a_lake_without_water_is_certain_of_it():
    assert area_of(0, 100, 0, 0)["area_uncertainty_m2"] == 0
