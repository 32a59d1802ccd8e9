"""Zonal counts against a published snow cover area, numpy, scipy and arithmetic by hand."""

import itertools
import json
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.warp import transform_geom
from scipy import ndimage

from alpage.science.zonal import (
    count_codes,
    elevation_counts,
    histogram,
    sum_values,
)
from alpage.science.zones import zone_index, zone_index_from_labels, zones_by_rows


@pytest.fixture
def scene():
    rng = np.random.default_rng(8)
    shape = (3, 20, 31)
    return SimpleNamespace(
        labels=rng.integers(0, 6, shape[1:]).astype(np.int32),
        values=rng.integers(-300, 10001, shape).astype(np.int16),
        codes=rng.choice(np.array([0, 100, 205, 254], np.uint8), shape),
        dem=rng.uniform(400, 2600, shape[1:]).astype(np.float32),
    )


def test_passiria_counts_are_those_that_eurac_published(shared):
    folder = shared / "data/eurac-snow-val-passiria"
    with netCDF4.Dataset(folder / "snowmap_cloudfree_1d.nc") as source:
        source.set_auto_mask(False)
        x, y, snow_map = source["x"][:], source["y"][:], source["var"][0]
    codes = np.full(snow_map.shape, 254, np.uint8)
    for written, code in ((0, 0), (1, 100), (2, 205)):
        codes[snow_map == written] = code
    features = json.loads((folder / "catchment_outline.geojson").read_text())["features"]
    outlines = [transform_geom("EPSG:4326", "EPSG:32632", f["geometry"]) for f in features]
    grid = from_origin(x[0] - 5, y[0] + 5, 10, 10)
    inside = rasterize(outlines, out_shape=codes.shape, transform=grid).astype(bool)
    index = zone_index({2090516090: inside}, codes.shape)

    counts = count_codes(codes[None], index)[0, 0]

    published = json.loads((folder / "timeseries.json").read_text())
    total, cloud, snow = published["2018-02-11T00:00:00Z"][0]
    assert index.zones.tolist() == [2090516090]
    assert (total, snow, cloud) == (4_201_607, 2_943_057, 60_947)
    assert counts.tolist() == [total - snow - cloud, snow, cloud, 0]
    assert 100 * counts[1] / counts.sum() == pytest.approx(70.046, abs=5e-4)
    assert 100 * counts[2] / counts.sum() == pytest.approx(1.4506, abs=5e-5)


def test_counts_are_those_of_numpy(scene):
    index = zone_index_from_labels(scene.labels)
    counts = count_codes(scene.codes, index, wanted=(205, 0))
    for k, zone in enumerate(index.zones):
        inside = scene.codes[:, scene.labels == zone]
        np.testing.assert_array_equal(counts[:, k, 0], (inside == 205).sum(axis=1))
        np.testing.assert_array_equal(counts[:, k, 1], (inside == 0).sum(axis=1))


def test_sums_are_those_of_scipy(scene):
    index = zone_index_from_labels(scene.labels)
    sums = sum_values(scene.values, index, fill=-32768)
    for t, image in enumerate(scene.values.astype(np.int64)):
        zones = index.zones
        np.testing.assert_array_equal(sums[t, :, 0], np.bincount(scene.labels.ravel())[zones])
        np.testing.assert_array_equal(sums[t, :, 1], ndimage.sum(image, scene.labels, zones))
        np.testing.assert_array_equal(sums[t, :, 2], ndimage.sum(image**2, scene.labels, zones))


def test_sum_of_squares_of_a_large_zone_does_not_wrap():
    values = np.full((1, 1000, 1000), -32767, np.int16)
    index = zone_index({1: np.ones((1000, 1000), bool)}, (1000, 1000))
    assert sum_values(values, index, fill=0)[0, 0].tolist() == [
        10**6,
        -32767 * 10**6,
        1073676289 * 10**6,
    ]


@pytest.mark.parametrize("n_bins", [1, 7, 200])
def test_histogram_is_that_of_numpy(scene, n_bins):
    index = zone_index_from_labels(scene.labels)
    counts = histogram(scene.values, index, fill=-300, low=-200, high=9000, n_bins=n_bins)
    for k, zone in enumerate(index.zones):
        for t in range(scene.values.shape[0]):
            inside = scene.values[t][scene.labels == zone].astype(np.float64)
            expected, _ = np.histogram(inside, bins=n_bins, range=(-200, 9000))
            np.testing.assert_array_equal(counts[t, k], expected)


def test_histogram_leaves_out_fill_and_what_where_forbids():
    values = np.array([[[0, 5, 10, -1, 11, 7]]], np.int16)
    where = np.array([[[1, 1, 1, 1, 1, 0]]], np.uint8)
    index = zone_index({3: np.ones((1, 6), bool)}, (1, 6))
    counts = histogram(values, index, fill=-1, low=0, high=10, n_bins=2, where=where)
    assert counts.tolist() == [[[1, 2]]]


def test_elevation_counts_are_those_of_a_two_dimensional_histogram(scene):
    scene.dem[0, :5] = np.nan
    index = zone_index_from_labels(scene.labels)
    counts = elevation_counts(
        scene.codes, scene.dem, index, z_min=500, step_m=250, n_bins=8, wanted=(0, 100)
    )
    for k, zone in enumerate(index.zones):
        inside = (scene.labels == zone) & np.isfinite(scene.dem)
        for column, code in enumerate((0, 100)):
            z = scene.dem[inside & (scene.codes[1] == code)].astype(np.float64)
            expected, _ = np.histogram(z, bins=500 + 250 * np.arange(9))
            np.testing.assert_array_equal(counts[1, k, :, column], expected)


def test_zones_may_overlap_and_absent_ones_are_left_out():
    masks = {
        9: np.array([[True, True, False]]),
        4: np.array([[False, True, True]]),
        5: np.zeros((1, 3), bool),
    }
    index = zone_index(masks, (1, 3))
    assert index.zones.tolist() == [4, 9]
    codes = np.array([[[0, 100, 205]]], np.uint8)
    assert count_codes(codes, index).tolist() == [[[0, 1, 1, 0], [1, 1, 0, 0]]]


def test_a_block_without_zones_counts_nothing():
    index = zone_index({}, (2, 2))
    assert count_codes(np.zeros((3, 2, 2), np.uint8), index).shape == (3, 0, 4)
    labels = zone_index_from_labels(np.zeros((2, 2), np.int32))
    assert labels.zones.size == 0
    assert labels.starts.tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.int32, (6, 9), elements=st.integers(0, 4)),
    codes=hnp.arrays(np.uint8, (2, 6, 9), elements=st.sampled_from([0, 100, 205, 254])),
    cut=st.integers(1, 8),
)
def test_counts_of_blocks_add_up_to_those_of_the_whole(labels, codes, cut):
    def by_zone(part):
        index = zone_index_from_labels(labels[part])
        counts = np.zeros((2, 5, 4), np.int64)
        counts[:, index.zones] = count_codes(codes[(slice(None), *part)], index)
        return counts

    west, east = (slice(None), slice(None, cut)), (slice(None), slice(cut, None))
    whole = by_zone((slice(None), slice(None)))
    np.testing.assert_array_equal(by_zone(west) + by_zone(east), whole)


def test_labels_and_masks_give_the_same_index(scene):
    masks = {zone: scene.labels == zone for zone in range(1, 6)}
    from_masks = zone_index(masks, scene.labels.shape)
    from_labels = zone_index_from_labels(scene.labels)
    for name in ("zones", "starts", "pixels"):
        np.testing.assert_array_equal(getattr(from_masks, name), getattr(from_labels, name))


def test_shapes_that_do_not_fit_are_refused(scene):
    index = zone_index_from_labels(scene.labels)
    with pytest.raises(ValueError, match=r"expected shape \(t, 20, 31\)"):
        count_codes(scene.codes[:, 1:], index)
    with pytest.raises(ValueError, match="mask of zone 3"):
        zone_index({3: np.ones((2, 2), bool)}, (2, 3))
    with pytest.raises(ValueError, match="must differ"):
        count_codes(scene.codes, index, wanted=(0, 0))
    with pytest.raises(ValueError, match="low < high"):
        histogram(scene.values, index, fill=0, low=5, high=5, n_bins=3)


@given(
    labels=hnp.arrays(np.int32, (7, 5), elements=st.integers(0, 3)),
    cuts=st.sets(st.integers(1, 6)).map(sorted),
)
def test_zones_by_rows_are_those_of_the_rows(labels, cuts):
    masks = {zone: labels == zone for zone in (1, 2, 3)} | {9: labels > 1}
    edges = [0, *cuts, 7]
    rows = [slice(*pair) for pair in itertools.pairwise(edges)]
    for part, found in zip(rows, zones_by_rows(zone_index(masks, (7, 5)), rows), strict=True):
        alone = zone_index({zone: mask[part] for zone, mask in masks.items()}, labels[part].shape)
        assert found.shape_yx == alone.shape_yx
        for name in ("zones", "starts", "pixels"):
            one, other = getattr(found, name), getattr(alone, name)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
