"""Windows of COGs against rasterio, over all that a GeoTIFF may be; damaged files by name."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.shutil import copy as gdal_copy
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window as GdalWindow

from alpage.engine import tiff
from alpage.engine.cog import BadCog, CogHeader, read_header, read_window, read_windows
from alpage.engine.cog import read_window_slow as read_slow
from alpage.engine.storage import ReadCounters
from alpage.errors import StorageError

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64")


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from(DTYPES))
    compress = draw(st.sampled_from(["none", "deflate", "zstd", "lzw", "packbits"]))
    predictors = [1, 2, 3] if dtype.startswith("float") else [1, 2]
    profile = {
        "dtype": dtype,
        "compress": compress,
        "nodata": draw(st.sampled_from([None, 7] + [np.nan] * dtype.startswith("float"))),
        "tiled": draw(st.booleans()),
        "BIGTIFF": draw(st.sampled_from(["YES", "NO"])),
        "ENDIANNESS": draw(st.sampled_from(["LITTLE", "BIG"])),
        "SPARSE_OK": draw(st.sampled_from(["TRUE", "FALSE"])),
    }
    if compress in {"deflate", "zstd", "lzw"}:
        profile["predictor"] = draw(st.sampled_from(predictors))
    if profile["tiled"]:
        sizes = st.sampled_from([16, 32, 48, 128, 512])
        profile |= {"blockxsize": draw(sizes), "blockysize": draw(sizes)}
    else:
        profile["blockysize"] = draw(st.integers(1, 80))
    return profile


def make_bytes(profile: dict[str, Any], shape: tuple[int, int], part: float, seed: int) -> bytes:
    """Write noise on the upper part of an image only, so that sparse files have holes."""
    height, width = shape
    rng = np.random.default_rng(seed)
    dtype = np.dtype(profile["dtype"])
    values = rng.integers(0, 120, (max(1, int(height * part)), width)).cumsum(axis=1) % 120
    pixels = values.astype(dtype)
    if dtype.kind == "f":
        pixels += rng.random(pixels.shape).astype(dtype)
        pixels[rng.random(pixels.shape) < 0.01] = np.nan
    place = {"crs": "EPSG:32632", "transform": from_origin(300000, 5100000, 10, 10)}
    size = {"height": height, "width": width, "count": 1}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **size, **place, **profile) as image:
            image.write(pixels, 1, window=GdalWindow(0, 0, width, len(pixels)))
            if min(shape) > 8:
                image.build_overviews([2, 4], Resampling.nearest)
        return bytes(memory.getbuffer())


def is_misread_by_gdal(profile: dict[str, Any], shape: tuple[int, int], part: float) -> bool:
    """Whether a short last strip holds what GDAL fills full ones with.

    Longer than its rows, it does not fit where libdeflate is to put it, and GDAL reads 0 instead
    of the nodata that it wrote there; we return what is stored.
    """
    is_filled = profile["SPARSE_OK"] == "FALSE" and part < 1 and profile["nodata"] is not None
    is_deflated = profile["compress"] == "deflate" and not profile["tiled"]
    return is_filled and is_deflated and shape[0] % profile["blockysize"] > 0


def expected_window(image: Any, window: tuple[int, int, int, int], fill: Any) -> np.ndarray:
    """Cut the window by hand from the whole band that rasterio reads."""
    row, column, height, width = window
    band = image.read(1)
    out = np.full((height, width), fill, band.dtype)
    for y in range(max(row, 0), min(row + height, band.shape[0])):
        x0, x1 = max(column, 0), min(column + width, band.shape[1])
        if x0 < x1:
            out[y - row, x0 - column : x1 - column] = band[y, x0:x1]
    return out


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    profile=profiles(),
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    part=st.sampled_from([0.05, 0.5, 1.0]),
    corner=st.tuples(st.integers(-40, 160), st.integers(-40, 160)),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    seed=st.integers(0, 99),
)
def test_equals_rasterio_bit_for_bit(tmp_path_factory, profile, shape, part, corner, size, seed):
    assume(not is_misread_by_gdal(profile, shape, part))
    path = tmp_path_factory.mktemp("cog") / "a.tif"
    path.write_bytes(make_bytes(profile, shape, part, seed))
    header = read_header(str(path))
    assert header.fast, header.why_slow
    assert header.dtype == profile["dtype"]
    window = (*corner, *size)
    for level in range(len(header.levels)):
        options = {"overview_level": level - 1} if level else {}
        with rasterio.open(path, **options) as image:
            assert header.levels[level].shape_yx == image.shape
            fill = 0 if image.nodata is None else image.nodata
            expected = expected_window(image, window, fill)
        for found in (
            read_window(header, window, level=level),
            read_slow(header, window, level),
        ):
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("rows", [5, 7, 8])
def test_strips_that_are_longer_than_their_rows_are_read_as_stored(tmp_path, rows) -> None:
    profile = {"dtype": "uint8", "compress": "deflate", "nodata": 7, "tiled": False}
    profile |= {"SPARSE_OK": "FALSE", "blockysize": 3}
    assert is_misread_by_gdal(profile, (rows, 2), 0.05)
    path = tmp_path / "a.tif"
    path.write_bytes(make_bytes(profile, (rows, 2), 0.05, 0))
    assert (read_window(read_header(str(path)), (1, 0, rows - 1, 2)) == 7).all()


def header_of(path: Path) -> CogHeader:
    return read_header(str(path))


def test_header_says_what_rasterio_says(tmp_path, write_tif, noise) -> None:
    path = write_tif(
        tmp_path / "a.tif",
        noise((300, 200)),
        overviews=(2, 4),
        tiled=True,
        blockxsize=64,
        blockysize=128,
        predictor=2,
        nodata=0,
    )
    header = header_of(path)
    with rasterio.open(path) as image:
        assert header.shape_yx == image.shape
        assert header.dtype == image.dtypes[0]
        assert header.nodata == image.nodata
        assert header.crs == image.crs.to_epsg()
        assert Affine(*header.transform) == image.transform
        assert [level.shape_yx for level in header.levels[1:]] == [(150, 100), (75, 50)]
        assert header.levels[0].tile_yx == image.block_shapes[0] == (128, 64)
    assert header.size_bytes == path.stat().st_size
    assert header.levels[0].tiles_yx == (3, 4)
    assert header.levels[0].predictor == 2
    assert not header.levels[0].strips


def test_header_survives_packing(tmp_path, write_tif, noise) -> None:
    array = noise((900, 700))
    array[:, 300:] = 0
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": "TRUE", "nodata": 0}
    header = header_of(write_tif(tmp_path / "a.tif", array, overviews=(2,), **options))
    for other in (
        CogHeader.from_bytes(header.to_bytes()),
        pickle.loads(pickle.dumps(header)),
    ):
        assert other.to_bytes() == header.to_bytes()
        for one, two in zip(header.levels, other.levels, strict=True):
            np.testing.assert_array_equal(one.offsets, two.offsets)
            np.testing.assert_array_equal(one.bytecounts, two.bytecounts)
            assert two.offsets.dtype == np.uint64
            assert two.bytecounts.dtype == np.uint32
            assert (one.shape_yx, one.tile_yx) == (two.shape_yx, two.tile_yx)
        assert (other.crs, other.transform) == (header.crs, header.transform)
        np.testing.assert_array_equal(read_window(other, (0, 0, 900, 700)), array)
    tiles = sum(len(level.offsets) for level in header.levels)
    assert len(header.to_bytes()) < 4 * tiles
    with pytest.raises(ValueError, match="packed"):
        CogHeader.from_bytes(b"other")


def test_cogs_of_gdals_own_driver_with_masks(tmp_path, noise) -> None:
    array = noise((400, 400))
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        MemoryFile() as memory,
    ):
        with memory.open(
            driver="GTiff",
            height=400,
            width=400,
            count=1,
            dtype="uint16",
            crs="EPSG:32632",
            transform=from_origin(0, 0, 10, 10),
        ) as image:
            image.write(array, 1)
            image.write_mask(array > 60)
        with memory.open() as image:
            options = {"compress": "deflate", "predictor": 2, "blocksize": 128}
            gdal_copy(image, tmp_path / "a.tif", driver="COG", **options)
    counters = ReadCounters()
    header = read_header(str(tmp_path / "a.tif"), counters)
    assert counters.requests == 1
    assert [level.shape_yx for level in header.levels] == [(400, 400), (200, 200), (100, 100)]
    np.testing.assert_array_equal(read_window(header, (0, 0, 400, 400)), array)


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"compress": "jpeg"}, "JPEG"),
        ({"compress": "lerc"}, "LERC"),
        ({"compress": "lzma"}, "LZMA"),
        ({"NBITS": 7}, "7 bits"),
        ({"compress": "none", "blockysize": 70}, "strips of 70x60"),
    ],
)
def test_what_only_gdal_decodes(tmp_path, write_tif, noise, monkeypatch, profile, reason) -> None:
    monkeypatch.setattr(tiff, "MAX_TILE_BYTES", 70 * 60 - 1)
    path = write_tif(tmp_path / "a.tif", noise((70, 60), "uint8"), **profile)
    header = header_of(path)
    assert not header.fast
    assert reason in header.why_slow
    with rasterio.open(path) as image:
        expected = expected_window(image, (-3, 10, 60, 70), 0)
    np.testing.assert_array_equal(read_window(header, (-3, 10, 60, 70)), expected)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_of_several_bands_the_first_is_read(tmp_path, write_tif, noise, interleave) -> None:
    array = np.stack([noise((40, 50), seed=n) for n in range(3)])
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    header = header_of(write_tif(tmp_path / "a.tif", array, interleave=interleave, **tiles))
    assert (header.bands, header.why_slow) == (3, "3 bands")
    (level,) = header.levels
    assert level.bytecounts.reshape(level.tiles_yx).shape == (3, 4)
    np.testing.assert_array_equal(read_window(header, (0, 0, 40, 50)), array[0])


SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:2154", "EPSG:3035", SINUSOIDAL])
def test_crs(tmp_path, write_tif, noise, crs) -> None:
    header = header_of(write_tif(tmp_path / "a.tif", noise((9, 9)), crs=crs))
    expected = rasterio.CRS.from_user_input(crs)
    assert rasterio.CRS.from_user_input(header.crs) == expected
    assert isinstance(header.crs, str) == (crs == SINUSOIDAL)


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize(
    "transform",
    [
        from_origin(300000.5, 5100000.25, 20, 30),
        Affine(10, 0, 5, 0, 10, 7),
        Affine.translation(300000, 5100000) * Affine.rotation(30) * Affine.scale(10, -10),
    ],
)
def test_transform(tmp_path, write_tif, noise, transform, point) -> None:
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=9,
            width=9,
            count=1,
            dtype="uint8",
            crs="EPSG:32632",
            transform=transform,
        ) as image:
            image.write(noise((9, 9), "uint8"), 1)
            if point:
                image.update_tags(AREA_OR_POINT="Point")
        (tmp_path / "a.tif").write_bytes(bytes(memory.getbuffer()))
    with rasterio.open(tmp_path / "a.tif") as image:
        assert Affine(*header_of(tmp_path / "a.tif").transform) == image.transform


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("float32", np.nan, np.nan),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38),
        ("int16", -9999, -9999.0),
        ("uint8", None, None),
    ],
)
def test_nodata(tmp_path, write_tif, noise, dtype, nodata, expected) -> None:
    header = header_of(write_tif(tmp_path / "a.tif", noise((9, 9), dtype), nodata=nodata))
    assert header.nodata == expected or (np.isnan(expected) and np.isnan(header.nodata))
    outside = read_window(header, (20, 20, 1, 1))[0, 0]
    fill = 0 if expected is None else expected
    np.testing.assert_array_equal(outside, np.array(fill, dtype))


def test_nodata_that_the_dtype_cannot_hold(tmp_path, write_tif, noise) -> None:
    path = write_tif(tmp_path / "a.tif", noise((9, 9), "uint8"), nodata=111)
    path.write_bytes(path.read_bytes().replace(b"111\0", b"-99\0"))
    assert header_of(path).nodata is None


PAGES = [
    (b"<!DOCTYPE html><html>Sign in</html>", "HTML or XML"),
    (b"\xef\xbb\xbf\n<?xml version='1.0'?><Error/>", "HTML or XML"),
    (b"", "got 0 bytes"),
    (b"II*\0", "damaged"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "expected a TIFF"),
]


@pytest.mark.parametrize(("content", "reason"), PAGES)
def test_what_is_not_a_tiff(tmp_path, content, reason) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(BadCog, match=reason) as bad:
        header_of(tmp_path / "a.tif")
    assert bad.value.name == str(tmp_path / "a.tif")
    assert str(pickle.loads(pickle.dumps(bad.value))) == str(bad.value)


def test_absent_file(tmp_path) -> None:
    with pytest.raises(BadCog, match="does not exist"):
        header_of(tmp_path / "a.tif")


def test_truncated_file_is_told_by_its_header(tmp_path, write_tif, noise) -> None:
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    path = write_tif(tmp_path / "a.tif", noise((200, 200)), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BadCog, match=rf"truncated: 1 of 169 tiles.*ends at byte {len(whole)}"):
        header_of(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadCog, match="truncated"):
        header_of(path)


def test_missing_georeference(tmp_path, write_tif, noise) -> None:
    with pytest.raises(BadCog, match="no CRS"):
        header_of(write_tif(tmp_path / "a.tif", noise((9, 9)), crs=None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        path = write_tif(tmp_path / "b.tif", noise((9, 9)), transform=None)
    with pytest.raises(BadCog, match="no transform"):
        header_of(path)


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw"])
def test_damaged_tile_is_named(tmp_path, write_tif, noise, compress) -> None:
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": compress}
    path = write_tif(tmp_path / "a.tif", noise((64, 64)), **options)
    header = header_of(path)
    data = bytearray(path.read_bytes())
    offset, count = int(header.levels[0].offsets[6]), int(header.levels[0].bytecounts[6])
    data[offset : offset + count] = b"\x13" * count
    path.write_bytes(data)
    with pytest.raises(BadCog, match=r"tile 6 \(row 1, column 2\) of level 0"):
        read_window(header, (0, 0, 64, 64))
    assert read_window(header, (0, 0, 16, 64)).all()


def test_uncompressed_tile_of_too_few_bytes(tmp_path, write_tif, noise) -> None:
    path = write_tif(tmp_path / "a.tif", noise((64, 64)), compress="none", blockysize=8)
    header = header_of(path)
    header.levels[0].bytecounts.setflags(write=True)
    header.levels[0].bytecounts[3] -= 1
    with pytest.raises(BadCog, match=r"tile 3 .* decodes to 1023 bytes where 1024"):
        read_window(header, (0, 0, 64, 64))


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(4, 700), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(8, 5000),
    big=st.booleans(),
)
def test_no_header_does_harm(tmp_path_factory, edits, cut, big) -> None:
    profile = {"dtype": "uint16", "compress": "deflate", "BIGTIFF": "YES" if big else "NO"}
    data = bytearray(make_bytes(profile | {"tiled": False}, (60, 60), 1.0, 0))
    for position, value in edits:
        data[position % len(data)] = value
    path = tmp_path_factory.mktemp("fuzz") / "a.tif"
    path.write_bytes(data[:cut] if cut < 4000 else data)
    try:
        header = header_of(path)
        assume(header.levels[0].shape_yx[0] * header.levels[0].shape_yx[1] < 10**7)
        read_window(header, (0, 0, 60, 60))
    except (BadCog, StorageError):
        return


def test_level_and_window_are_checked(tmp_path, write_tif, noise) -> None:
    header = header_of(write_tif(tmp_path / "a.tif", noise((9, 9))))
    with pytest.raises(ValueError, match="level 1"):
        read_window(header, (0, 0, 1, 1), level=1)
    with pytest.raises(ValueError, match="window"):
        read_window(header, (0, 0, 0, 1))


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_many_windows_at_once_over_the_network(
    tmp_path, write_tif, noise, range_server, monkeypatch, scheme
) -> None:
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("AWS_ENDPOINT_URL", range_server.url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    root = {"http": f"{range_server.url}/bucket", "s3": "s3://bucket"}[scheme]
    arrays, requests = [], []
    for n in range(6):
        array = noise((300, 300), seed=n)
        compress = "lzma" if n == 3 else "deflate"
        path = tmp_path / "bucket" / f"{n}.tif"
        write_tif(path, array, tiled=True, blockxsize=64, blockysize=64, compress=compress)
        header = read_header(f"{root}/{n}.tif")
        requests.append((header, 0, (n * 40 - 20, 30, 90, 200)))
        arrays.append(array)
    requests.append((requests[0][0], 0, (900, 900, 5, 5)))
    range_server.log.clear()
    range_server.faults = ["503", "broken"]
    counters = ReadCounters()
    found = read_windows(requests, counters)
    for array, (_, _, (row, column, height, width)), pixels in zip(
        arrays, requests, found, strict=False
    ):
        whole = np.zeros((700, 700), array.dtype)
        whole[100:400, 100:400] = array
        top, left = row + 100, column + 100
        np.testing.assert_array_equal(pixels, whole[top : top + height, left : left + width])
    assert not found[-1].any()
    fast = [header for header, *_ in requests if header.fast]
    assert counters.requests == len(fast) - 1
    assert counters.decode_seconds > 0
    assert 0 < counters.bytes < sum(header.size_bytes for header in fast)


def test_header_beyond_the_first_kilobytes(tmp_path, write_tif, noise, range_server) -> None:
    array = noise((1024, 1024))
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "none"}
    path = write_tif(tmp_path / "a.tif", array, overviews=(2, 4), **options)
    counters = ReadCounters()
    header = read_header(f"{range_server.url}/a.tif", counters)
    assert [level.shape_yx for level in header.levels] == [(1024, 1024), (512, 512), (256, 256)]
    assert 1 < counters.requests == range_server.gets < 12
    local = header_of(path)
    np.testing.assert_array_equal(local.levels[2].offsets, header.levels[2].offsets)


def test_a_file_withdrawn_after_its_header_was_read(tmp_path, write_tif, noise) -> None:
    path = write_tif(tmp_path / "a.tif", noise((9, 9)))
    header = header_of(path)
    path.unlink()
    with pytest.raises(BadCog, match="any more"):
        read_window(header, (0, 0, 9, 9))


def test_real_imagery(shared: Path) -> None:
    files = sorted((shared / "data" / "s2-cog-29RKH").rglob("*.tif"))
    files += sorted((shared / "archive").rglob("S2*/*.tif"))[:12]
    if not files:
        pytest.skip("needs s2-cog-29RKH or archive in the shared folder: no .tif found")
    for path in files:
        header = header_of(path)
        assert header.fast, header.why_slow
        for level in range(len(header.levels)):
            options = {"overview_level": level - 1} if level else {}
            with rasterio.open(path, **options) as image:
                expected = image.read(1)
            found = read_window(header, (0, 0, *expected.shape), level=level)
            np.testing.assert_array_equal(found, expected)
