"""Indices against spyndex, the shared vectors, plain numpy and published NDVI rasters."""

import json

import numpy as np
import pytest
import rasterio
import spyndex
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alpage.science import indices
from alpage.science.indices import normalized_difference
from alpage.science.masks import Quality, scl_table

BANDS = {
    "ndvi": "N R",
    "ndwi": "G N",
    "mndwi": "G S1",
    "ndsi": "G S1",
    "ndmi": "N S1",
    "evi": "N R B",
    "evi2": "N R",
    "savi": "N R",
    "kndvi": "N R",
    "awei_sh": "B G N S1 S2",
    "awei_nsh": "G N S1 S2",
}
VECTOR_NAMES = {
    "evi": "EVI",
    "savi": "SAVI_L0.5",
    "kndvi": "kNDVI(sigma=.5(N+R))",
    "awei_sh": "AWEIsh",
    "awei_nsh": "AWEInsh_Feyisa(numpy)",
}


@pytest.mark.parametrize("surface", ["veg", "water", "snow"])
@pytest.mark.parametrize("name", BANDS)
def test_shared_vectors(shared, name, surface):
    vectors = json.loads((shared / "science/vectors.json").read_text())["spyndex"]
    bands = [np.array(vectors["inputs"][surface][band]) for band in BANDS[name].split()]
    expected = vectors["out"][surface][VECTOR_NAMES.get(name, name.upper())]
    assert getattr(indices, name)(*bands) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("name", [name for name in BANDS if name != "awei_nsh"])
def test_spyndex_agrees(name):
    rng = np.random.default_rng(5)
    # Blue stays below 1 / 7.5, so that the denominator of EVI stays positive.
    bands = {
        key: rng.uniform(0.01, 0.13 if key == "B" else 0.4, (3, 40)) for key in BANDS[name].split()
    }
    constants = {"g": 2.5, "C1": 6.0, "C2": 7.5, "L": 0.5 if name == "savi" else 1.0}
    if name == "kndvi":
        near, red = bands["N"], bands["R"]
        sigma = 0.5 * (near + red)
        more = {"kNN": 1.0, "kNR": np.exp(-((near - red) ** 2) / (2 * sigma**2))}
        expected = spyndex.computeIndex("kNDVI", more)
    else:
        key = {"awei_sh": "AWEIsh"}.get(name, name.upper())
        expected = spyndex.computeIndex(key, bands | constants)
    np.testing.assert_allclose(getattr(indices, name)(*bands.values()), expected, rtol=1e-12)


def test_feyisas_index_without_shadow_subtracts_both_infrared_terms():
    # By hand: 4 (0.06 - 0.18) - (0.25 * 0.30 + 2.75 * 0.09) = -0.48 - 0.3225.
    bands = (np.array(value) for value in (0.06, 0.30, 0.18, 0.09))
    assert indices.awei_nsh(*bands) == pytest.approx(-0.8025)


@pytest.mark.parametrize("name", ["ndvi", "ndwi", "mndwi", "ndsi", "ndmi", "kndvi"])
def test_no_ratio_where_the_sum_is_not_positive(name):
    a, b = np.array([0.02, 0.02, -0.03, 0.02]), np.array([-0.02, -0.05, -0.03, np.nan])
    assert np.isnan(getattr(indices, name)(a, b)).all()


def test_evi_has_no_value_beyond_its_pole():
    # 0.70 + 6 * 0.76 - 7.5 * 1.00 + 1 = -1.24: snow brighter in the blue than in the red.
    bands = (np.array(value) for value in (0.70, 0.76, 1.00))
    assert np.isnan(indices.evi(*bands))


def test_formulas_broadcast():
    assert indices.ndvi(np.full((3, 1), 0.3), np.full(4, 0.1)).shape == (3, 4)
    assert indices.evi(np.full((3, 1), 0.3), np.full(4, 0.1), np.array(0.05)).shape == (3, 4)


def expected_difference(a, b, quality, gains, offsets, mask, fill):
    """The same in numpy, in doubles, date by date."""
    found = np.full(a.shape, fill, np.int16)
    for t in range(a.shape[0]):
        first = a[t] * np.float64(gains[0, t]) + np.float64(offsets[0, t])
        second = b[t] * np.float64(gains[1, t]) + np.float64(offsets[1, t])
        seen = (quality[t] & mask == 0) & (a[t] > 0) & (b[t] > 0) & (first + second > 0)
        ratio = 10000 * (first - second)[seen] / (first + second)[seen]
        found[t][seen] = np.clip(np.rint(ratio), -10000, 10000)
    return found


@given(
    a=hnp.arrays(np.uint16, (3, 4, 5)),
    b=hnp.arrays(np.uint16, (3, 4, 5)),
    quality=hnp.arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 0, 2, 16, 34])),
    mask=st.sampled_from([0, 2, 18, 255]),
    fill=st.sampled_from([-32768, 32767]),
)
def test_kernel_equals_numpy(a, b, quality, mask, fill):
    # Sentinel-2 before and since baseline 4, and Landsat.
    gains = np.array([[1, 1, 0.275]] * 2, np.float32)
    offsets = np.array([[0, -1000, -2000]] * 2, np.float32)
    found = normalized_difference(a, b, quality, gains=gains, offsets=offsets, mask=mask, fill=fill)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(
        found, expected_difference(a, b, quality, gains, offsets, mask, fill)
    )


def difference_of(a, b, *, quality=0, mask=0, offset=0.0):
    bands = (np.array([[[value]]], np.uint16) for value in (a, b))
    found = normalized_difference(
        *bands,
        np.array([[[int(quality)]]], np.uint8),
        gains=np.ones((2, 1), np.float32),
        offsets=np.full((2, 1), offset, np.float32),
        mask=int(mask),
    )
    return found.item()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # 10000 * 1 / 20000 and so on: exactly halfway, to the even neighbour.
        pytest.param(10001, 9999, 1, id="one"),
        pytest.param(20001, 19999, 0, id="half-to-0"),
        pytest.param(20003, 19997, 2, id="one-and-a-half-to-2"),
        pytest.param(19999, 20001, 0, id="minus-half-to-0"),
        pytest.param(20005, 19995, 2, id="two-and-a-half-to-2"),
    ],
)
def test_ties_round_to_even(a, b, expected):
    assert difference_of(a, b) == expected


def test_fill_and_clipping():
    assert difference_of(3000, 1000, quality=Quality.CLOUD, mask=Quality.CLOUD) == -32768
    assert difference_of(3000, 1000, quality=Quality.SNOW, mask=Quality.CLOUD) == 5000
    assert difference_of(0, 1000) == -32768
    assert difference_of(1000, 0) == -32768
    # Reflectances 0.05 and -0.04: the ratio is 9, beyond what an index can be.
    assert difference_of(1500, 600, offset=-1000) == 10000
    assert difference_of(600, 1500, offset=-1000) == -10000
    assert difference_of(1050, 950, offset=-1000) == -32768


def test_shapes_must_agree():
    band, quality = np.ones((2, 3, 4), np.uint16), np.zeros((2, 3, 4), np.uint8)
    linear = {"gains": np.ones((2, 2)), "offsets": np.zeros((2, 2))}
    with pytest.raises(ValueError, match=r"b has shape \(2, 3, 3\)"):
        normalized_difference(band, band[..., :3], quality, mask=0, **linear)
    with pytest.raises(ValueError, match=r"quality has shape"):
        normalized_difference(band, band, quality[:1], mask=0, **linear)
    with pytest.raises(ValueError, match=r"expected gains and offsets of shape \(2, 2\)"):
        normalized_difference(
            band, band, quality, gains=np.ones((3, 2)), offsets=np.zeros((3, 2)), mask=0
        )


@pytest.mark.parametrize("date", ["20170703", "20190723"])
def test_published_ndvi_of_barbellino(shared, date):
    def read(name):
        path = shared / f"data/s2-barbellino/S2A2A_{date}_022_Barbellino_{name}_10.tif"
        with rasterio.open(path) as source:
            return source.read()

    stack, published = read("BOA"), read("NDVI")
    stack[stack == 65535] = 0
    near, red = stack[7:8], stack[3:4]
    quality = scl_table()[read("SCL")].repeat(2, axis=1).repeat(2, axis=2)
    found = normalized_difference(
        near,
        red,
        quality,
        gains=np.ones((2, 1)),
        offsets=np.zeros((2, 1)),
        mask=0,
    )
    valid = published != -32768
    assert valid.sum() > 900
    np.testing.assert_array_equal(found[valid], published[valid])
