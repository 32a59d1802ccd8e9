"""Quality bits against the sensors' own definitions and a real Landsat scene."""

import json

import numpy as np
import pytest
import rasterio

from alpage.science.masks import DEFAULT_MASK, Quality, qa_pixel_table, scl_table

L8 = "data/l8-c2l2-001062/LC08_L2SP_001062_20201031_20201106_02_T2_{}"


@pytest.mark.parametrize(
    ("scene_class", "expected"),
    [
        pytest.param(0, Quality.FILL, id="no-data"),
        pytest.param(1, Quality.SATURATED, id="saturated"),
        pytest.param(2, Quality.DARK, id="dark"),
        pytest.param(3, Quality.SHADOW, id="cloud-shadow"),
        pytest.param(4, 0, id="vegetation"),
        pytest.param(5, 0, id="bare"),
        pytest.param(6, Quality.WATER, id="water"),
        pytest.param(7, 0, id="unclassified"),
        pytest.param(8, Quality.CLOUD, id="cloud-medium"),
        pytest.param(9, Quality.CLOUD, id="cloud-high"),
        pytest.param(10, Quality.CIRRUS, id="cirrus"),
        pytest.param(11, Quality.SNOW, id="snow"),
        pytest.param(12, Quality.FILL, id="unknown"),
        pytest.param(255, Quality.FILL, id="unknown-last"),
    ],
)
def test_scl_classes(scene_class, expected):
    assert scl_table()[scene_class] == expected


def test_default_mask_hides_the_scl_classes_of_the_literature():
    hidden = np.flatnonzero(scl_table()[:12] & int(DEFAULT_MASK))
    assert hidden.tolist() == [0, 1, 3, 8, 9, 10]


# Values and meanings: USGS, Landsat 8-9 Collection 2 Level 2 Science Product Guide,
# "Landsat 8-9 Pixel Quality Assessment (QA_PIXEL) Value Interpretations".
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(1, Quality.FILL, id="fill"),
        pytest.param(0, Quality.FILL, id="outside"),
        pytest.param(21824, 0, id="clear"),
        pytest.param(21826, Quality.CLOUD, id="dilated-cloud-over-land"),
        pytest.param(21952, Quality.WATER, id="water"),
        pytest.param(22080, 0, id="clear-with-mid-confidence-cloud"),
        pytest.param(22280, Quality.CLOUD, id="high-confidence-cloud"),
        pytest.param(23888, Quality.SHADOW, id="high-confidence-shadow"),
        pytest.param(30048, Quality.SNOW, id="snow"),
        pytest.param(54596, Quality.CIRRUS, id="cirrus"),
        pytest.param(54852, Quality.CIRRUS, id="cirrus-mid-cloud"),
    ],
)
def test_qa_pixel_values_of_the_product_guide(value, expected):
    assert qa_pixel_table()[value] == expected


def test_qa_pixel_on_a_real_scene(shared):
    with rasterio.open(shared / L8.format("QA_PIXEL.TIF")) as source:
        qa = source.read(1)
    with rasterio.open(shared / L8.format("SR_B5.TIF")) as source:
        nir = source.read(1)
    metadata = json.loads((shared / L8.format("MTL.json")).read_text())
    published = metadata["LANDSAT_METADATA_FILE"]["IMAGE_ATTRIBUTES"]["CLOUD_COVER"]
    quality = qa_pixel_table()[qa]
    fill = quality & Quality.FILL != 0
    cloud = quality & (Quality.CLOUD | Quality.CIRRUS) != 0
    shadow = quality & Quality.SHADOW != 0
    np.testing.assert_array_equal(fill, qa == 1)
    assert (nir[~fill] > 0).all()
    # The scene is decimated, its metadata is not.
    assert 100 * cloud.sum() / (~fill).sum() == pytest.approx(float(published), abs=0.01)
    assert shadow.sum() > 50
    assert np.median(nir[shadow]) < 0.75 * np.median(nir[cloud])
