"""Bands onto blocks: against arithmetic by hand, GDAL's warper, and their own smaller blocks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from odc.geo.geobox import GeoBox
from rasterio.warp import Resampling, reproject

from alpage.engine import warp
from alpage.engine.cog import BadCog, CogHeader, read_header
from alpage.engine.positions import Block, block_of
from alpage.engine.sampling import STEPS, sample
from alpage.engine.warp import needed_window, placement, read_onto, touches

KERNELS = ("nearest", "average", "bilinear", "cubic")
EMPTY = 60_000
"""Nodata far from all values, so that any blending shows."""


def north_up(resolution: float, x: float, y: float) -> Affine:
    return Affine(resolution, 0, x, 0, -resolution, y)


def block(shape: tuple[int, int], resolution: float, x: float, y: float, crs: str) -> GeoBox:
    return GeoBox(shape, north_up(resolution, x, y), crs)


def utm(shape: tuple[int, int], resolution: float, x: float, y: float) -> GeoBox:
    return block(shape, resolution, x, y, "EPSG:32632")


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_tif, noise) -> dict[str, tuple[CogHeader, np.ndarray]]:
    """Rasters of 300x260 pixels with holes, 10 m in UTM 32 unless named otherwise."""
    folder: Path = tmp_path_factory.mktemp("warp")
    rng = np.random.default_rng(1)
    holes = np.kron(rng.random((30, 26)) < 0.1, np.ones((10, 10), bool))
    holes |= rng.random((300, 260)) < 0.02
    array = noise((300, 260)) * 40
    holed = np.where(holes, EMPTY, array).astype("uint16")
    floats = np.where(holes, np.nan, array / 7).astype("float32")
    corner = {"transform": north_up(10, 600000, 5100000)}
    degrees = {"crs": "EPSG:4326", "transform": north_up(1 / 7000, 10.3, 46.05)}
    tilted = {"transform": Affine.translation(6e5, 5.1e6) * Affine.rotation(20) * Affine.scale(10)}
    made = {
        "whole": (array, corner),
        "holed": (holed, corner | {"nodata": EMPTY}),
        "floats": (floats, corner | {"nodata": np.nan}),
        "degrees": (holed, degrees | {"nodata": EMPTY}),
        "tilted": (holed, tilted | {"nodata": EMPTY}),
    }
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    found = {}
    for name, (pixels, profile) in made.items():
        path = write_tif(folder / f"{name}.tif", pixels, **profile, **options)
        found[name] = (read_header(str(path)), pixels)
    return found


@pytest.mark.parametrize(
    ("geobox", "kind", "window", "factor"),
    [
        pytest.param(utm((5, 4), 10, 600030, 5099980), "aligned", (2, 3, 5, 4), (1, 1), id="same"),
        pytest.param(utm((5, 4), 10, 599980, 5100010), "aligned", (-1, -2, 5, 4), (1, 1), id="out"),
        pytest.param(utm((6, 4), 5, 600010, 5099990), "repeat", (1, 1, 3, 2), (2, 2), id="half"),
        pytest.param(utm((3, 2), 10 / 3, 600010, 5100000), "repeat", (0, 1, 1, 1), (3, 3), id="3"),
        pytest.param(utm((2, 2), 5, 600005, 5099995), "repeat", (0, 0, 2, 2), (2, 2), id="middle"),
        pytest.param(utm((5, 4), 10, 600035, 5100000), "warp", None, None, id="shifted"),
        pytest.param(utm((6, 4), 5, 600002, 5100000), "warp", None, None, id="half-shifted"),
        pytest.param(utm((5, 4), 20, 600000, 5100000), "warp", None, None, id="coarser"),
        pytest.param(utm((300, 260), 10.001, 600000, 5100000), "warp", None, None, id="drifting"),
        pytest.param(
            block((5, 4), 10, 600000, 5100000, "EPSG:32631"), "warp", None, None, id="zone"
        ),
    ],
)
def test_placement(files, geobox, kind, window, factor) -> None:
    header, _ = files["whole"]
    found = placement(header, geobox)
    assert found.kind == kind
    if window:
        assert (found.window, found.factor_yx) == (window, factor)
        assert needed_window(header, block_of(geobox), "nearest") == window


def test_a_millimetre_is_aligned(files) -> None:
    header, array = files["whole"]
    geobox = utm((50, 40), 10, 600100.0009, 5099900.0009)
    assert placement(header, geobox).kind == "aligned"
    np.testing.assert_array_equal(read_onto(header, geobox, kernel="cubic"), array[10:60, 10:50])


@pytest.mark.parametrize("kernel", KERNELS)
def test_aligned_files_are_never_touched(files, kernel) -> None:
    header, array = files["holed"]
    found = read_onto(header, utm((320, 280), 10, 599900, 5100100), kernel=kernel)
    expected = np.full((320, 280), EMPTY, "uint16")
    expected[10:310, 10:270] = array[:, :]
    np.testing.assert_array_equal(found, expected)


def test_nearest_repeats_coarser_pixels(files) -> None:
    header, array = files["holed"]
    found = read_onto(header, utm((600, 520), 5, 600000, 5100000), kernel="nearest")
    np.testing.assert_array_equal(found, array.repeat(2, axis=0).repeat(2, axis=1))


def test_average_of_whole_pixels(files) -> None:
    header, array = files["whole"]
    found = read_onto(header, utm((100, 65), 40, 600000, 5100000), kernel="average")
    blocks = array[:, :].reshape(75, 4, 65, 4).sum(axis=(1, 3), dtype=int)
    np.testing.assert_array_equal(found[:75], (2 * blocks + 16) // 32)
    assert not found[75:].any()


GDAL_CASES = {
    "finer": (utm((200, 200), 5, 600500, 5099500), {}),
    "half": (utm((100, 100), 20, 600200, 5099800), {}),
    "shifted": (utm((150, 150), 10, 600503, 5099504), {}),
    "coarser": (utm((60, 60), 25, 600300, 5099700), {}),
    # GDAL would widen its kernels by the tilt between the zones, and so by the block.
    "zone": (block((90, 90), 10, 1065000, 5124500, "EPSG:32631"), {"XSCALE": 1, "YSCALE": 1}),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", GDAL_CASES)
def test_agrees_with_gdals_exact_warper(files, case, kernel) -> None:
    if (case, kernel) == ("zone", "average"):
        pytest.skip("GDAL averages the upright box around a tilted pixel, not the pixel")
    header, array = files["whole"]
    geobox, options = GDAL_CASES[case]
    expected = np.zeros(geobox.shape.yx, "uint16")
    reproject(
        array,
        expected,
        src_transform=Affine(*header.transform),
        src_crs="EPSG:32632",
        dst_transform=geobox.transform,
        dst_crs=str(geobox.crs),
        resampling=Resampling[kernel],
        tolerance=0,
        **options,
    )
    found = read_onto(header, geobox, kernel=kernel)
    assert expected.all()
    assert found.all()
    apart = np.abs(found.astype(int) - expected)
    # A border that a pixel centre falls on within 1/8192 pixel may go to either side.
    assert np.mean(apart > 1) < (0.002 if kernel == "nearest" else 1e-9)
    assert np.mean(apart) < 0.3


CUT_CASES = {
    "finer": ("holed", utm((90, 80), 5, 600040, 5099980)),
    "thirds": ("holed", utm((90, 80), 10 / 3, 600040, 5099980)),
    "shifted": ("holed", utm((110, 100), 10, 599703, 5099914)),
    "odd": ("floats", utm((90, 100), 13.7, 599803.3, 5100001.1)),
    "coarser": ("holed", utm((50, 40), 60, 599900, 5100100)),
    "zone": ("holed", block((120, 110), 10, 1066100, 5124200, "EPSG:32631")),
    "zone-coarser": ("floats", block((60, 60), 30, 1065600, 5124200, "EPSG:32631")),
    "degrees": ("degrees", utm((100, 90), 10, 600300, 5099500)),
    "onto-degrees": ("floats", block((100, 90), 1 / 9000, 10.3, 46.05, "EPSG:4326")),
    "tilted": ("tilted", utm((100, 90), 10, 599800, 5102000)),
}


@settings(max_examples=120, deadline=None)
@given(
    case=st.sampled_from(sorted(CUT_CASES)),
    kernel=st.sampled_from(KERNELS),
    corner=st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)),
    extent=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_values_do_not_depend_on_the_block(files, case, kernel, corner, extent) -> None:
    name, geobox = CUT_CASES[case]
    header, _ = files[name]
    top, left = (int(c * n) for c, n in zip(corner, geobox.shape.yx, strict=True))
    high, wide = (
        1 + int(e * (n - c - 1))
        for e, n, c in zip(extent, geobox.shape.yx, (top, left), strict=True)
    )
    cut = np.s_[top : top + high, left : left + wide]
    whole = read_onto(header, geobox, kernel=kernel)
    # The corner as a grid computes it: from the grid's own corner, rounded once more.
    small = GeoBox((high, wide), geobox.transform * Affine.translation(left, top), geobox.crs)
    assert read_onto(header, small, kernel=kernel).tobytes() == whole[cut].tobytes()
    filled = whole != EMPTY if whole.dtype.kind == "u" else ~np.isnan(whole)
    assert filled.any()
    assert not filled.all()


@given(
    resolution=st.sampled_from([10.0, 1 / 3, 13.7, 1 / 9000, 0.1]),
    origin=st.integers(-40_000, 700_000),
    offset=st.integers(0, 90_000),
)
def test_centres_are_the_same_numbers_in_every_block(resolution, origin, offset) -> None:
    grid = north_up(resolution, origin * resolution, 7 * origin * resolution)
    corner = grid * Affine.translation(offset, offset)
    far_x, far_y = Block("EPSG:4326", tuple(grid)[:6], (offset + 3, offset + 3)).centres()
    near_x, near_y = Block("EPSG:4326", tuple(corner)[:6], (3, 3)).centres()
    np.testing.assert_array_equal(far_x[offset:], near_x)
    np.testing.assert_array_equal(far_y[offset:], near_y)
    np.testing.assert_allclose(near_x, corner.c + resolution * np.array([0.5, 1.5, 2.5]))


@pytest.mark.parametrize("case", ["shifted", "zone", "coarser"])
def test_a_large_source_is_read_in_parts(files, monkeypatch, case) -> None:
    name, geobox = CUT_CASES[case]
    header, _ = files[name]
    whole = read_onto(header, geobox, kernel="cubic")
    monkeypatch.setattr(warp, "MAX_SOURCE_PX", 3000)
    np.testing.assert_array_equal(read_onto(header, geobox, kernel="cubic"), whole)


@settings(max_examples=60, deadline=None)
@given(
    holes=npst.arrays(bool, (8, 9), elements=st.booleans()),
    kernel=st.sampled_from(KERNELS),
    scale=st.sampled_from([0.4, 1.0, 1.3, 2.0, 3.7]),
    start=st.floats(-3, 3),
)
def test_nodata_never_blends_in(holes, kernel, scale, start) -> None:
    source = np.where(holes, EMPTY, 1234).astype("uint16")
    steps = np.rint((start + (np.arange(12) + 0.5) * scale) * STEPS).astype(np.int64)
    found = sample(
        source, steps[:, None], steps[None], kernel=kernel, scale_yx=(scale, scale), nodata=EMPTY
    )
    assert set(np.unique(found)) <= {1234, EMPTY}
    if kernel == "nearest":
        i = steps // STEPS
        inside = (i >= 0) & (i < 8), (i >= 0) & (i < 9)
        empty = np.ones((12, 12), bool)
        empty[np.ix_(*inside)] = holes[np.ix_(i[inside[0]], i[inside[1]])]
        np.testing.assert_array_equal(found == EMPTY, empty)


def at(source: Any, y: float, x: float, **options: Any) -> Any:
    """Sample one position, in pixels from the corner."""
    given_options = {"kernel": "bilinear", "scale_yx": (1, 1), "nodata": None} | options
    where = (np.array([[round(v * STEPS)]]) for v in (y, x))
    return sample(np.array(source), *where, **given_options)[0, 0]


ROW = np.array([[-4, -1, 6, 7]], "int16")
"""Midway between its inner pixels Keys' cubic gives (4 - 9 + 54 - 7) / 16 = 2.625."""


def test_values_by_hand() -> None:
    assert at(ROW, 0.5, 1.0) == -3  # -2.5, away from zero
    assert at(ROW, 0.5, 2.0) == 3  # 2.5
    assert at(ROW, 0.5, 1.75) == 1  # 3/4 * -1 + 1/4 * 6 = 0.75
    assert at(ROW.astype("float64"), 0.5, 2.0, kernel="cubic") == 2.625
    assert at(ROW, 0.5, 1.0, kernel="nearest") == -1  # a border goes right
    assert (
        at(ROW, 0.5, 2.5, kernel="average", scale_yx=(1, 3)) == 4
    )  # (-1 + 6 + 7) / 3, pixels 1 to 3
    assert at(ROW, 0.5, 0.0, nodata=99) == -4  # half of the weight is outside
    assert at(ROW, 0.5, -0.25, nodata=99) == 99  # more than half


def test_holes_by_hand() -> None:
    row = np.array([[10, 99, 30, 50]], "int16")
    assert at(row, 0.5, 0.9, nodata=99) == 10
    assert at(row, 0.5, 1.1, nodata=99) == 99
    # Bilinear beside a hole: 0.75 * 30 + 0.25 * 50; the cubic would reach the hole.
    assert at(row, 0.5, 2.75, nodata=99, kernel="cubic") == 35
    assert at(row, 0.5, 2.0, nodata=99, kernel="average", scale_yx=(1, 4)) == 30
    floats = np.array([[1, np.nan, 3]], "float32")
    assert at(floats, 0.5, 0.75, nodata=-1) == 1
    assert np.isnan(at(floats, 0.5, 1.5, nodata=np.nan))


def test_overshoot_is_clipped() -> None:
    step = np.array([[0, 0, 255, 255]], "uint8")
    assert at(step, 0.5, 1.25, kernel="cubic") == 0
    assert at(step, 0.5, 2.75, kernel="cubic") == 255


def test_computed_values_are_not_nodata() -> None:
    assert at(np.array([[4, 6]], "uint8"), 0.5, 1.0, nodata=5) == 6
    assert at(np.array([[254, 253, 255]], "uint8"), 0.5, 1.0, nodata=254, kernel="average") == 253
    mixed = np.array([[-1, 1]], "float32")
    assert at(mixed, 0.5, 1.0, nodata=0) == np.nextafter(np.float32(0), np.float32(1))


def test_nothing_where_the_file_is_not(files) -> None:
    header, _ = files["holed"]
    for geobox in (
        utm((10, 9), 10, 700000, 5100000),
        utm((10, 9), 7, 700000, 5100000),
        block((10, 9), 10, 300000, 4000000, "EPSG:32633"),
    ):
        assert not touches(header, geobox)
        assert (read_onto(header, geobox, kernel="cubic") == EMPTY).all()


@settings(max_examples=100, deadline=None)
@given(
    case=st.sampled_from(sorted(CUT_CASES)),
    shift=st.tuples(st.integers(-150, 150), st.integers(-150, 150)),
    kernel=st.sampled_from(KERNELS),
)
def test_what_has_pixels_touches(files, case, shift, kernel) -> None:
    name, geobox = CUT_CASES[case]
    header, _ = files[name]
    moved = geobox.transform * Affine.translation(*shift)
    geobox = GeoBox((20, 30), moved, geobox.crs)
    found = read_onto(header, geobox, kernel=kernel)
    empty = np.isnan(found) if found.dtype.kind == "f" else found == EMPTY
    assert touches(header, geobox) or empty.all()
    # Nothing outside the window that estimates go by is looked at.
    row, column, high, wide = needed_window(header, block_of(geobox), kernel)
    height, width = header.shape_yx
    if row >= height or column >= width or row + high <= 0 or column + wide <= 0:
        assert empty.all()


def test_rotated_blocks_are_refused(files) -> None:
    header, _ = files["whole"]
    tilted = GeoBox((5, 5), Affine.rotation(10) * Affine.scale(10, -10), "EPSG:32632")
    with pytest.raises(ValueError, match="rows run along x"):
        read_onto(header, tilted, kernel="nearest")


def test_a_file_without_a_place_in_the_blocks_crs(files) -> None:
    header, _ = files["degrees"]
    pole = replace(header, transform=(1.0, 0.0, -130.0, 0.0, -1.0, 250.0))
    with pytest.raises(BadCog, match="no place"):
        read_onto(pole, utm((5, 5), 10, 600000, 5100000), kernel="nearest")
