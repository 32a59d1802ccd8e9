"""Let-It-Snow against its published vectors, its own unit tests and GDAL."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from alpage.science.masks import Quality, scl_table
from alpage.science.snow import (
    NO_SNOW_LINE,
    LisParameters,
    SnowFlag,
    classify_snow,
    coarse_halo,
    coarse_red,
    snow_flags,
)

CLOUD, SHADOW = Quality.CLOUD, Quality.CLOUD | Quality.SHADOW
NO_LINE = np.array([NO_SNOW_LINE])


def flags_of(green, red, swir, *, quality=0, red_coarse=0.0, gain=1.0, offset=0.0):
    """Flags of one pixel; digital numbers in, coarse red as reflectance."""
    dn = [np.array([[[value]]], np.uint16) for value in (green, red, swir)]
    return snow_flags(
        *dn,
        np.array([[[int(quality)]]], np.uint8),
        gains=np.full((3, 1), gain, np.float32),
        offsets=np.full((3, 1), offset, np.float32),
        coarse=np.array([[[red_coarse * 1e4]]], np.float32),
        parameters=LisParameters(),
    )


# ALGORITHMS.md 1.1: pixels with a snow line at 1400 m.
@pytest.mark.parametrize(
    ("reflectances", "z", "quality", "red_coarse", "expected"),
    [
        pytest.param((0.50, 0.45, 0.10), 500, 0, np.nan, 100, id="sure-snow"),
        pytest.param((0.10, 0.06, 0.06), 1500, 0, np.nan, 100, id="thin-snow-above-line"),
        pytest.param((0.10, 0.06, 0.06), 1300, 0, np.nan, 0, id="thin-snow-below-line"),
        pytest.param((0.50, 0.45, 0.10), 1500, CLOUD, 0.5, 205, id="bright-cloud"),
        pytest.param((0.30, 0.25, 0.10), 1500, CLOUD, 0.25, 100, id="dark-cloud"),
        pytest.param((0.20, 0.15, 0.18), 1500, CLOUD, 0.25, 205, id="back-to-cloud"),
        pytest.param((0.08, 0.05, 0.10), 1500, CLOUD, 0.05, 0, id="dark-ground-under-cloud"),
        pytest.param((0.30, 0.25, 0.10), 1500, SHADOW, 0.25, 205, id="shadow"),
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
def test_pixels_of_the_algorithm(reflectances, z, quality, red_coarse, expected, gain, offset):
    dn = [round((value * 1e4 - offset) / gain) for value in reflectances]
    flags = flags_of(*dn, quality=quality, red_coarse=red_coarse, gain=gain, offset=offset)
    codes = classify_snow(flags, np.array([[z]], np.float32), np.array([1400.0]))
    assert codes.item() == expected


@pytest.mark.parametrize(
    ("dn", "flag", "expected"),
    [
        pytest.param((7000, 6000, 3000), SnowFlag.PASS1, False, id="ndsi-0.40"),
        pytest.param((7001, 6000, 3000), SnowFlag.PASS1, True, id="ndsi-over-0.40"),
        pytest.param((7001, 2000, 3000), SnowFlag.PASS1, False, id="red-0.200"),
        pytest.param((7001, 2001, 3000), SnowFlag.PASS1, True, id="red-over-0.200"),
        pytest.param((1150, 900, 850), SnowFlag.PASS2, False, id="ndsi-0.15"),
        pytest.param((1151, 900, 850), SnowFlag.PASS2, True, id="ndsi-over-0.15"),
        pytest.param((1151, 400, 850), SnowFlag.PASS2, False, id="red-0.040"),
        pytest.param((1151, 401, 850), SnowFlag.PASS2, True, id="red-over-0.040"),
    ],
)
def test_thresholds_are_strict_to_the_digital_number(dn, flag, expected):
    for offset in (0, -1000):
        shifted = [value - offset for value in dn]
        assert bool(flags_of(*shifted, offset=offset).item() & flag) is expected


@pytest.mark.parametrize(
    ("red", "red_coarse", "expected"),
    [
        pytest.param(1000, 0.300, SnowFlag.ALL_CLOUD, id="both-at-the-limit"),
        pytest.param(1001, 0.300, SnowFlag.ALL_CLOUD | SnowFlag.BACK_TO_CLOUD, id="red-above"),
        pytest.param(1000, 0.3001, SnowFlag.ALL_CLOUD | SnowFlag.CLOUD_REFINED, id="coarse-above"),
    ],
)
def test_cloud_thresholds_are_strict(red, red_coarse, expected):
    flags = flags_of(900, red, 2000, quality=CLOUD, red_coarse=red_coarse)
    assert flags.item() == expected | SnowFlag.OBSERVED


@pytest.mark.parametrize(
    ("dn", "quality"),
    [
        pytest.param((5000, 4000, 500), Quality.FILL, id="fill"),
        pytest.param((0, 4000, 500), 0, id="no-green"),
        pytest.param((5000, 0, 500), 0, id="no-red"),
        pytest.param((5000, 4000, 0), 0, id="no-swir"),
    ],
)
def test_pixels_without_data_are_not_observed(dn, quality):
    flags = flags_of(*dn, quality=quality)
    assert flags.item() == 0
    assert classify_snow(flags, np.ones((1, 1), np.float32), NO_LINE).item() == 254


@pytest.mark.parametrize("quality", [Quality.SNOW, Quality.SATURATED, Quality.WATER, Quality.DARK])
def test_bits_that_snow_does_not_mask(quality):
    expected = SnowFlag.PASS1 | SnowFlag.PASS2 | SnowFlag.OBSERVED
    assert flags_of(9000, 9000, 500, quality=quality).item() == expected


def test_no_ndsi_where_the_sum_of_reflectances_is_not_positive():
    # After the offset: green -0.05, SWIR -0.09. Their ratio would be a snowy -0.04 / -0.14.
    assert flags_of(500, 4000, 100, offset=-1000).item() == SnowFlag.OBSERVED
    assert flags_of(1100, 4000, 900, offset=-1000).item() == SnowFlag.OBSERVED


def test_without_a_snow_line_or_an_elevation_pass_1_is_kept():
    thin, sure = flags_of(1000, 600, 600), flags_of(5000, 4500, 1000)
    high, unknown = (np.array([[z]], np.float32) for z in (3000, np.nan))
    line = np.array([1400.0])
    assert classify_snow(thin, high, line).item() == 100
    assert classify_snow(thin, high, NO_LINE).item() == 0
    assert classify_snow(thin, unknown, line).item() == 0
    assert classify_snow(sure, unknown, NO_LINE).item() == 100
    assert classify_snow(thin, np.array([[1400]], np.float32), line).item() == 0


def test_parameters_are_those_of_let_it_snow_and_refuse_unknown_keys():
    # The side of coarse cells follows from the pixels' own: see tests/products/test_snow.py.
    assert tuple(LisParameters().model_dump().values()) == (
        (0.40, 0.200, 0.15, 0.040, 100, 0.10, 0.10, 0.001, 0.300, 0.100, None)
    )
    with pytest.raises(ValidationError, match="extra"):
        LisParameters(ndsi=0.3)
    with pytest.raises(ValidationError, match="frozen"):
        LisParameters().ndsi_pass1 = 0.3


def downsampled_by_gdal(image, factor):
    rows, columns = image.shape
    profile = {"driver": "GTiff", "height": rows, "width": columns, "count": 1, "dtype": "float32"}
    with MemoryFile() as memory:
        with memory.open(**profile, transform=from_origin(500000, 5000000, 10, 10)) as target:
            target.write(image.astype(np.float32), 1)
        with memory.open() as source:
            shape = (rows // factor, columns // factor)
            return source.read(1, out_shape=shape, resampling=Resampling.bilinear)


@pytest.mark.parametrize("factor", [1, 2, 3, 8, 12])
def test_coarse_red_is_the_bilinear_downsampling_of_gdal(factor):
    dn = np.random.default_rng(factor).integers(1, 20000, (2, 6 * factor, 9 * factor))
    coarse = coarse_red(
        dn.astype(np.uint16), np.ones(2), np.zeros(2), factor=factor, origin_yx=(0, 0)
    )
    for t in range(2):
        expected = downsampled_by_gdal(dn[t], factor).repeat(factor, 0).repeat(factor, 1)
        np.testing.assert_allclose(coarse[t], expected, rtol=2e-6)


def test_coarse_red_scales_each_date_and_leaves_out_missing_pixels():
    dn = np.full((2, 24, 24), 3000, np.uint16)
    dn[:, 3:9, 5:11] = 0
    coarse = coarse_red(
        dn, np.array([1, 0.275]), np.array([-1000.0, -2000]), factor=12, origin_yx=(0, 0)
    )
    np.testing.assert_allclose(coarse[0], 2000, rtol=1e-6)
    np.testing.assert_allclose(coarse[1], -1175, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    dn=hnp.arrays(np.uint16, (1, 30, 26), elements=st.sampled_from([0, 0, 1, 700, 65535])),
    factor=st.integers(1, 12),
    origin=st.tuples(st.integers(-20, 40), st.integers(-20, 40)),
    corner=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_a_block_with_its_halo_equals_the_crop_of_the_whole(dn, factor, origin, corner):
    def coarse(part, first_yx):
        return coarse_red(part, np.ones(1), np.zeros(1), factor=factor, origin_yx=first_yx)

    halo, size = coarse_halo(factor), 5
    (y, x), (y0, x0) = corner, (max(0, corner[0] - halo), max(0, corner[1] - halo))
    block = dn[:, y0 : y + size + halo, x0 : x + size + halo]
    part = coarse(block, (origin[0] + y0, origin[1] + x0))[:, y - y0 :, x - x0 :][:, :size, :size]
    whole = coarse(dn, origin)[:, y : y + size, x : x + size]
    np.testing.assert_array_equal(part, whole)


def test_the_halo_is_not_wider_than_needed():
    factor, halo = 12, coarse_halo(12)
    dn = np.full((1, 1, 60), 100, np.uint16)
    pixel = 2 * factor - 1  # last of its cell: looks furthest back
    dn[0, 0, pixel - halo] = 5000
    coarse = coarse_red(dn, np.ones(1), np.zeros(1), factor=factor, origin_yx=(0, 0))
    assert coarse[0, 0, pixel] > 100
    narrow = dn[:, :, pixel - halo + 1 :]
    origin = (0, pixel - halo + 1)
    missed = coarse_red(narrow, np.ones(1), np.zeros(1), factor=factor, origin_yx=origin)
    assert missed[0, 0, halo - 1] == 100


def archive_date(folder: Path) -> tuple[np.ndarray, ...]:
    """Green, red, SWIR and quality of one date of the Flanders archive, at 20 m as in LIS."""

    def read(name: str, resampling: Resampling) -> np.ndarray:
        with rasterio.open(folder / name) as source:
            return source.read(out_shape=(1, 32, 32), resampling=resampling)

    bands = [read(name, Resampling.cubic) for name in ("B03.tif", "B04.tif", "B11.tif")]
    return (*bands, scl_table()[read("SCL.tif", Resampling.nearest)])


@pytest.mark.parametrize(
    ("date", "sen2cor_snow"),
    [
        pytest.param("20180923T105020", 1012, id="ice-cloud-in-september"),
        pytest.param("20171212T105436", 123, id="after-the-snowfall-of-december"),
    ],
)
def test_pass_1_on_real_dates(shared, date, sen2cor_snow):
    name = "S2_00002806639B424A_" + date
    green, red, swir, quality = archive_date(shared / "archive/00002806639B424A" / name)
    flags = snow_flags(
        green,
        red,
        swir,
        quality,
        gains=np.ones((3, 1)),
        offsets=np.zeros((3, 1)),
        coarse=coarse_red(red, np.ones(1), np.zeros(1), factor=12, origin_yx=(0, 0)),
        parameters=LisParameters(),
    )
    cloud = quality & (Quality.CLOUD | Quality.CIRRUS | Quality.SHADOW) != 0
    g, r, s = (band.astype(np.float64) for band in (green, red, swir))
    expected = ~cloud & ((g - s) / (g + s) > 0.4) & (r > 2000)
    np.testing.assert_array_equal(flags & SnowFlag.PASS1 != 0, expected)
    assert (quality & Quality.SNOW != 0).sum() == sen2cor_snow
    # Let-It-Snow agrees with sen2cor on nearly all of it, the cloud of September included.
    agreed = expected & (quality & Quality.SNOW != 0)
    assert agreed.sum() > 0.9 * sen2cor_snow
