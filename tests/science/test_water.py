"""Water rules against a real reservoir, Let-It-Snow's snow, plain numpy and hand arithmetic."""

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from alpage.science.masks import DEFAULT_MASK, Quality, scl_table
from alpage.science.water import (
    CLEAR,
    FILL,
    LAND,
    MASKED,
    NEVER_WATER,
    NODATA,
    SNOW,
    WATER,
    WaterParameters,
    classify_water,
    occurrence,
    occurrence_percent,
    water_observation,
)

PARAMETERS = WaterParameters()


def observe(green, swir, nir, *, quality=0, gain=1.0, offset=0.0):
    """MNDWI, state and brightness of one pixel; digital numbers in."""
    bands = (np.array([[[value]]], np.uint16) for value in (green, swir, nir))
    found = water_observation(
        *bands,
        np.array([[[int(quality)]]], np.uint8),
        gains=np.full((3, 1), gain, np.float32),
        offsets=np.full((3, 1), offset, np.float32),
        mask=int(DEFAULT_MASK),
        parameters=PARAMETERS,
    )
    return tuple(array.item() for array in found)


# Vectors of ALGORITHMS.md 2.1: MNDWI 0.777778, -0.5 and 0.813953.
@pytest.mark.parametrize(
    ("reflectances", "index", "state"),
    [
        pytest.param((0.08, 0.01, 0.02), 7778, CLEAR, id="water"),
        pytest.param((0.06, 0.18, 0.30), -5000, NEVER_WATER, id="vegetation"),
        pytest.param((0.78, 0.08, 0.70), 8140, SNOW, id="snow"),
        # A quarter of snow (0.88, 0.10, 0.78) on soil (0.10, 0.29, 0.21): MNDWI 0.08.
        pytest.param((0.295, 0.2425, 0.3525), FILL, MASKED, id="patches-of-snow"),
        # The same soil and water (0.07, 0.01, 0.02) under a cloud (0.57, 0.44, 0.61) of 0.45.
        pytest.param((0.312, 0.358, 0.390), -687, NEVER_WATER, id="soil-under-thin-cloud"),
        pytest.param((0.295, 0.204, 0.286), FILL, MASKED, id="water-under-thin-cloud"),
        pytest.param((0.065, 0.10, 0.26), -2121, NEVER_WATER, id="bright-nir"),
        pytest.param((0.065, 0.10, 0.24), -2121, CLEAR, id="half-water-half-meadow"),
    ],
)
@pytest.mark.parametrize(
    ("gain", "offset"),
    [
        pytest.param(1.0, 0.0, id="sentinel-2"),
        pytest.param(1.0, -1000.0, id="sentinel-2-baseline-4"),
        pytest.param(0.275, -2000.0, id="landsat"),
    ],
)
def test_surfaces(reflectances, index, state, gain, offset):
    dn = [round((value * 1e4 - offset) / gain) for value in reflectances]
    found, is_state, _ = observe(*dn, gain=gain, offset=offset)
    assert is_state == state
    # A Landsat digital number is 0.275 wide.
    assert found == pytest.approx(index, abs=0 if gain == 1 or state == MASKED else 15)


@pytest.mark.parametrize(
    ("dn", "state"),
    [
        pytest.param((7000, 3000, 2500), CLEAR, id="ndsi-0.40"),
        pytest.param((7001, 3000, 2000), SNOW, id="ndsi-over-0.40"),
        pytest.param((7001, 3000, 1100), CLEAR, id="nir-0.11"),
        pytest.param((7001, 3000, 1101), SNOW, id="nir-over-0.11"),
    ],
)
def test_snow_limits_are_strict_to_the_digital_number(dn, state):
    for offset in (0, -1000):
        assert observe(*(value - offset for value in dn), offset=offset)[1] == state


@pytest.mark.parametrize("bit", [Quality.DARK, Quality.SNOW, Quality.DARK | Quality.WATER])
@pytest.mark.parametrize(
    ("dn", "state"),
    [
        pytest.param((680, 70, 180), CLEAR, id="lit-water"),
        # Rock of 0.15, 0.25, 0.20 and meadow of 0.06, 0.18, 0.35 under skylight that is 0.17,
        # 0.02 and 0.08 of full light in green, SWIR and NIR: MNDWI 0.67 and 0.48.
        pytest.param((255, 50, 160), MASKED, id="rock-in-shadow"),
        pytest.param((102, 36, 280), NEVER_WATER, id="meadow-in-shadow"),
        pytest.param((1600, 60, 900), MASKED, id="snow-in-shadow"),
        pytest.param((150, 10, 10), MASKED, id="green-within-noise"),
        pytest.param((151, 10, 10), CLEAR, id="green-above-noise"),
        pytest.param((200, 60, 350), MASKED, id="nir-as-green-within-noise"),
        pytest.param((1400, 200, 600), CLEAR, id="ndwi-0.40"),
        pytest.param((1400, 200, 601), MASKED, id="ndwi-below-0.40"),
    ],
)
def test_what_the_archive_doubts_must_prove_to_be_water(dn, state, bit):
    assert observe(*dn, quality=bit)[1] == state
    if state != CLEAR:
        assert observe(*dn)[1] == CLEAR


@pytest.mark.parametrize(
    ("dn", "quality", "state"),
    [
        pytest.param((800, 100, 200), Quality.WATER, CLEAR, id="water"),
        pytest.param((800, 100, 200), Quality.CLOUD, MASKED, id="cloud"),
        pytest.param((800, 100, 200), Quality.SHADOW | Quality.WATER, MASKED, id="shadow"),
        pytest.param((800, 100, 200), Quality.FILL, NODATA, id="fill"),
        pytest.param((800, 100, 200), Quality.FILL | Quality.CLOUD, NODATA, id="fill-and-cloud"),
        pytest.param((0, 100, 200), 0, NODATA, id="no-green"),
        pytest.param((800, 0, 200), 0, NODATA, id="no-swir"),
        pytest.param((800, 100, 0), Quality.CLOUD, NODATA, id="no-nir"),
    ],
)
def test_quality(dn, quality, state):
    index, found, brightness = observe(*dn, quality=quality)
    assert found == state
    assert (index, brightness) == ((7778, 900) if state == CLEAR else (FILL, 0))


def test_negative_reflectances():
    # Reflectances 0.01 and -0.02: no ratio. 0.02 and -0.01: beyond 1, so clipped.
    assert observe(1100, 800, 1010, offset=-1000) == (FILL, MASKED, 0)
    assert observe(1200, 900, 1010, offset=-1000) == (10000, CLEAR, 100)


def test_parameters_refuse_what_they_do_not_know():
    with pytest.raises(ValidationError, match="extra"):
        WaterParameters(threshold=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        WaterParameters().snow_nir = 0.2


def test_shapes_must_agree():
    band, quality = np.ones((2, 3, 4), np.uint16), np.zeros((2, 3, 4), np.uint8)
    more = {"mask": 2, "parameters": PARAMETERS, "offsets": np.zeros((3, 2))}
    with pytest.raises(ValueError, match="nir has shape"):
        water_observation(band, band, band[:1], quality, gains=np.ones((3, 2)), **more)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got \(2, 2\)"):
        water_observation(band, band, band, quality, gains=np.ones((2, 2)), **more)
    index, zones = np.zeros((2, 3, 4), np.int16), np.full((3, 4), 1, np.int32)
    with pytest.raises(ValueError, match="expected 2 dates and at least 2 lakes"):
        classify_water(
            index,
            quality,
            thresholds=np.zeros((2, 1), np.int16),
            zone_of_pixel=zones,
            default=0,
        )
    with pytest.raises(ValueError, match="a state of the same and zones of shape"):
        classify_water(
            index,
            quality,
            thresholds=np.zeros((2, 2), np.int16),
            zone_of_pixel=zones[:1],
            default=0,
        )


def barbellino(shared, date):
    """MNDWI, state, quality and SCL of a reservoir in the Alps, 42 × 24 pixels of 10 m."""

    def read(name):
        path = shared / f"data/s2-barbellino/S2A2A_{date}_022_Barbellino_{name}_10.tif"
        with rasterio.open(path) as source:
            return source.read()

    stack, scl = read("BOA"), read("SCL").repeat(2, axis=1).repeat(2, axis=2)
    stack[stack == 65535] = 0
    found = water_observation(
        stack[2:3],
        stack[9:10],
        stack[7:8],
        scl_table()[scl],
        gains=np.ones((3, 1)),
        offsets=np.zeros((3, 1)),
        mask=int(DEFAULT_MASK),
        parameters=PARAMETERS,
    )
    codes = classify_water(
        *found[:2],
        thresholds=np.zeros((1, 0), np.int16),
        zone_of_pixel=np.full(scl.shape[1:], -1, np.int32),
        default=0,
    )
    return codes[0], scl[0]


def test_clear_reservoir_is_where_sen2cor_sees_water(shared):
    codes, scl = barbellino(shared, "20190723")
    assert (scl == 6).sum() == 4 * 65
    # 20 m classes of a lake that is 40 pixels of shore: the two differ along it.
    assert (codes[scl == 6] == WATER).mean() > 0.9
    assert np.isin(codes[(scl == 4) | (scl == 5)], LAND).mean() > 0.99
    assert (codes == WATER).sum() == pytest.approx(4 * 65, rel=0.1)


def test_clouds_over_the_reservoir_invent_no_water(shared):
    codes, scl = barbellino(shared, "20170703")
    reservoir = barbellino(shared, "20190723")[0] == WATER
    # One pixel of 20 m around the water of the clear date, whose level may differ.
    near = reservoir.copy()
    for axis in (0, 1):
        near = np.logical_or.reduce([np.roll(near, k, axis) for k in (-2, -1, 0, 1, 2)])
    assert (codes[(scl == 8) | (scl == 9)] == MASKED).all()
    assert (codes[scl == 6] == WATER).all()
    # Two pixels of shadow at the edge of a cloud, which sen2cor leaves unclassified.
    invented = (codes == WATER) & ~near
    assert invented.sum() <= 2
    assert (scl[invented] == 7).all()


@given(
    index=hnp.arrays(np.int16, (2, 3, 4), elements=st.integers(-10000, 10000)),
    state=hnp.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 0, 1, 2, 205, 254])),
    zones=hnp.arrays(np.int32, (3, 4), elements=st.integers(-1, 2)),
    thresholds=hnp.arrays(np.int16, (2, 3), elements=st.integers(-3000, 4000)),
)
def test_classes(index, state, zones, thresholds):
    codes = classify_water(index, state, thresholds=thresholds, zone_of_pixel=zones, default=150)
    limit = np.where(zones < 0, 150, thresholds[:, zones])
    expected = np.where((state == CLEAR) & (index > limit), WATER, LAND)
    expected = np.where((state == CLEAR) | (state == NEVER_WATER), expected, state)
    np.testing.assert_array_equal(codes, expected)


@given(
    codes=hnp.arrays(np.uint8, (9, 2, 3), elements=st.sampled_from([0, 1, 1, 2, 205, 254])),
    months=hnp.arrays(np.int32, 9, elements=st.integers(-1, 2)),
)
def test_occurrence_counts_land_and_water_only(codes, months):
    water, clear = occurrence(codes, months, 3)
    assert water.dtype == clear.dtype == np.uint16
    for month in range(3):
        days = codes[months == month]
        np.testing.assert_array_equal(water[month], np.sum(days == 1, axis=0))
        np.testing.assert_array_equal(clear[month], np.isin(days, (0, 1)).sum(axis=0))
    percent = occurrence_percent(water, clear)
    for y, x in np.ndindex(2, 3):
        shares = [100 * w / c for w, c in zip(water[:, y, x], clear[:, y, x], strict=True) if c]
        expected = sum(shares) / len(shares) if shares else 255
        # A mean that is exactly halfway may fall to either side in floating point.
        assert percent[y, x] == pytest.approx(expected, abs=0.5 + 1e-9)


def test_every_month_weighs_alike():
    # One clear day of ten water days in winter, twenty of twenty in summer: (50 + 100 + 0) / 3.
    water, clear = (np.array(v, np.uint16).reshape(4, 1, 1) for v in ([1, 20, 0, 0], [2, 20, 3, 0]))
    assert occurrence_percent(water, clear).item() == 50
