"""From the first kilobytes of a TIFF to a `CogHeader`. tifffile reads the tags."""

import io
import math
import struct
from functools import cache
from itertools import islice

import numpy as np
import pyproj
import rasterio
import tifffile
from numpy.typing import NDArray
from rasterio.session import DummySession

from alpage.engine.header import BadCog, CogHeader, CogLevel, Transform, can_hold
from alpage.engine.storage import ReadCounters, fetch_head, fetch_ranges, gdal_path
from alpage.redaction import safe_name

HEAD_BYTES = 64 * 1024
MAX_TAG_BYTES = 64 * 2**20
MAX_PAGES = 64
MAX_TILE_BYTES = 64 * 2**20
"""Larger tiles or strips are left to GDAL, which reads parts of uncompressed ones."""

FAST_COMPRESSIONS = {1, 5, 8, 32946, 32773, 50000}
"""None, LZW, deflate (two numbers), PackBits, Zstandard. Source: TIFF 6.0, libtiff's tiff.h."""
RAW_PHOTOMETRICS = {0, 1, 3}
"""White is zero, black is zero, palette: GDAL returns the stored numbers of all three."""
DAMAGE = (
    tifffile.TiffFileError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    TypeError,
    ValueError,
    struct.error,
)
"""What tifffile raises on headers that are no TIFF's."""


def read_header(href: str, counters: ReadCounters | None = None) -> CogHeader:
    """Return the header of a COG, in nearly all cases by one request of 64 kB.

    Raises `BadCog` when the file is absent, not a TIFF, damaged, truncated (a tile would end
    beyond the file) or lacks a CRS or a transform; `alpage.errors.StorageError` when the store
    cannot be read; `alpage.errors.UntrustedHref`.
    """
    counters = ReadCounters() if counters is None else counters
    name = safe_name(href)
    try:
        head, size = fetch_head(href, HEAD_BYTES, counters)
    except FileNotFoundError:
        raise BadCog(name, "does not exist") from None
    _check_magic(name, bytes(head[:256]), size)
    try:
        with tifffile.TiffFile(_Lazy(href, head, size, counters), name="header") as tif:
            return _header(href, size, tif)
    except BadCog:
        raise
    except DAMAGE as error:
        raise BadCog(name, f"damaged TIFF header ({type(error).__name__}: {error})") from error


class _Lazy(io.RawIOBase):
    """A remote file of which the first bytes are here and the rest is fetched when read."""

    def __init__(self, href: str, head: memoryview, size: int, counters: ReadCounters) -> None:
        self._href, self._size, self._counters = href, size, counters
        self._start, self._bytes, self._position = 0, head, 0
        self._head = head

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = (0, self._position, self._size)[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start = self._position
        wanted = min(len(buffer), max(0, self._size - start))
        if wanted > MAX_TAG_BYTES:
            raise ValueError(f"a tag of {wanted} bytes")
        if wanted:
            buffer[:wanted] = self._slice(start, wanted)
        self._position += wanted
        return wanted

    def _slice(self, start: int, length: int) -> memoryview:
        if start + length <= len(self._head):
            return self._head[start : start + length]
        if not self._start <= start <= start + length <= self._start + len(self._bytes):
            span = min(max(length, HEAD_BYTES), self._size - start)
            (self._bytes,) = fetch_ranges(self._href, [(start, span)], self._counters)
            self._start = start
        return self._bytes[start - self._start :][:length]


def _check_magic(name: str, start: bytes, size: int) -> None:
    if start[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return
    if not size:
        raise BadCog(name, "expected a TIFF, got 0 bytes: the file is empty, fetch it again")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        shown = text[:60].decode("ascii", "replace")
        raise BadCog(name, f"expected a TIFF, got an HTML or XML page ({shown!r}): wrong address?")
    raise BadCog(name, f"expected a TIFF, got {size} bytes that start with {start[:8]!r}")


def _header(href: str, size: int, tif: tifffile.TiffFile) -> CogHeader:
    name = safe_name(href)
    pages = list(islice(tif.pages, MAX_PAGES))
    page = pages[0]
    if page.dtype is None or page.imagelength <= 0 or page.imagewidth <= 0:
        raise BadCog(name, "expected one image of numbers, got an unknown sample format")
    # Tag 254: bit 0 an overview, bit 2 a mask.
    smaller = [p for p in pages[1:] if int(p.subfiletype) & 5 == 1]
    smaller.sort(key=lambda p: -p.imagelength * p.imagewidth)
    levels = tuple(_level(name, p, size, page.dtype) for p in (page, *smaller))
    geokeys = _geokeys(page)
    return CogHeader(
        href=href,
        size_bytes=size,
        dtype=page.dtype.name,
        bands=int(page.samplesperpixel),
        nodata=_nodata(page),
        crs=_crs(href, geokeys),
        transform=_transform(name, page, point=geokeys.get(1025) == 2),
        byteorder=tif.byteorder,
        levels=levels,
    )


def _level(name: str, page: tifffile.TiffPage, size: int, dtype: np.dtype) -> CogLevel:
    height, width = int(page.imagelength), int(page.imagewidth)
    tile = (
        (int(page.tilelength), int(page.tilewidth))
        if page.is_tiled
        else (min(int(page.rowsperstrip), height), width)
    )
    if min(*tile, height, width) <= 0:
        raise BadCog(name, f"damaged TIFF header: image {height}x{width} in tiles {tile}")
    tiles = math.ceil(height / tile[0]) * math.ceil(width / tile[1])
    # Of bands that lie apart the first one's tiles come first.
    own = slice(tiles if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else None)
    offsets = np.array(page.dataoffsets, np.uint64)[own]
    counts = np.array(page.databytecounts, np.uint64)[own]
    if len(offsets) != len(counts):
        raise BadCog(name, f"damaged TIFF header: {len(offsets)} offsets, {len(counts)} sizes")
    counts[offsets == 0] = 0
    _check_whole(name, offsets, counts, size)
    why_slow = _why_slow(page, tile, dtype)
    if len(offsets) != tiles:
        raise BadCog(name, f"damaged TIFF header: {tiles} tiles expected, {len(offsets)} listed")
    return CogLevel(
        shape_yx=(height, width),
        tile_yx=tile,
        offsets=offsets,
        bytecounts=counts.astype(np.uint32),
        strips=not page.is_tiled,
        compression=int(page.compression),
        # Tag 317 belongs to these compressions only; GDAL ignores it elsewhere.
        predictor=1 if int(page.compression) in {1, 32773} else int(page.predictor),
        why_slow=why_slow,
    )


def _check_whole(
    name: str, offsets: NDArray[np.uint64], counts: NDArray[np.uint64], size: int
) -> None:
    # Compared without adding: a hostile offset near 2^64 must not wrap around.
    beyond = (counts > size) | (offsets > np.uint64(size) - np.minimum(counts, np.uint64(size)))
    beyond &= counts > 0
    if beyond.any():
        tile = int(np.argmax(beyond))
        end = int(offsets[tile]) + int(counts[tile])
        raise BadCog(
            name,
            f"truncated: {int(beyond.sum())} of {len(offsets)} tiles lie beyond the file's end "
            f"(tile {tile} ends at byte {end}, the file has {size}): fetch it again",
        )


def _why_slow(page: tifffile.TiffPage, tile: tuple[int, int], dtype: np.dtype) -> str:
    bits = page.bitspersample
    if page.samplesperpixel != 1:
        return f"{page.samplesperpixel} bands"
    if dtype.kind not in "iuf" or dtype == np.float16 or page.dtype != dtype:
        return f"samples of {page.dtype}"
    if bits != 8 * dtype.itemsize:
        return f"{bits} bits a sample"
    if int(page.compression) not in FAST_COMPRESSIONS:
        return f"compression {getattr(page.compression, 'name', page.compression)}"
    if int(page.predictor) not in ({1, 2, 3} if dtype.kind == "f" else {1, 2}):
        return f"predictor {int(page.predictor)}"
    if int(page.photometric) not in RAW_PHOTOMETRICS or int(page.fillorder) != 1:
        return f"photometric {int(page.photometric)}, fill order {int(page.fillorder)}"
    if tile[0] * tile[1] * dtype.itemsize > MAX_TILE_BYTES:
        return f"tiles or strips of {tile[0]}x{tile[1]} pixels"
    return ""


def _nodata(page: tifffile.TiffPage) -> float | None:
    """Return GDAL's nodata tag (42113, text), if the dtype can hold it."""
    tag = page.tags.get(42113)
    if tag is None:
        return None
    value = float(str(tag.value).strip().rstrip("\0"))
    if page.dtype.kind == "f":
        return float(page.dtype.type(value)) if page.dtype.itemsize < 8 else value
    return value if can_hold(page.dtype, value) else None


def _geokeys(page: tifffile.TiffPage) -> dict[int, int]:
    """Return the GeoKeys whose values are short integers. Source: OGC 19-008r4, 7.1.2."""
    tag = page.tags.get(34735)
    if tag is None:
        return {}
    entries = tuple(tag.value)[4:]
    quads = zip(*(entries[i::4] for i in range(4)), strict=False)
    return {int(key): int(value) for key, place, _, value in quads if place == 0}


def _crs(href: str, geokeys: dict[int, int]) -> int | str:
    model = geokeys.get(1024)
    if model is None:
        raise BadCog(safe_name(href), "no CRS in its GeoTIFF keys")
    code = geokeys.get({1: 3072, 2: 2048}.get(model, 0), 0)
    if 1024 <= code < 32767 and _in_epsg(code):
        return code
    return _crs_by_gdal(href)


@cache
def _in_epsg(code: int) -> bool:
    try:
        pyproj.CRS.from_epsg(code)
    except pyproj.exceptions.CRSError:
        return False
    return True


def _crs_by_gdal(href: str) -> int | str:
    """Return a CRS spelt out by parameters, which GDAL knows how to put together."""
    path, options = gdal_path(href)
    try:
        with (
            rasterio.Env(session=DummySession(), **options),
            rasterio.open(path, driver="GTiff", sharing=False) as image,
        ):
            crs = image.crs
    except rasterio.RasterioIOError as error:
        raise BadCog(safe_name(href), "its CRS cannot be read") from error
    if not crs:
        raise BadCog(safe_name(href), "no CRS in its GeoTIFF keys")
    return crs.to_epsg() or str(crs.to_wkt())


def _transform(name: str, page: tifffile.TiffPage, *, point: bool) -> Transform:
    """Return the affine of pixel corners, as GDAL derives it from the GeoTIFF tags."""
    tags = {code: page.tags.get(code) for code in (33550, 33922, 34264)}
    scale, tie, matrix = (None if t is None else [float(v) for v in t.value] for t in tags.values())
    if scale is not None and tie is not None and len(tie) == 6 and scale[0] and scale[1]:
        a, b, d, e = scale[0], 0.0, 0.0, -abs(scale[1])
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    elif matrix is not None and len(matrix) == 16:
        a, b, c, d, e, f = matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    else:
        raise BadCog(name, "no transform: neither a scale with one tie point nor a matrix")
    if point:
        c, f = c - 0.5 * (a + b), f - 0.5 * (d + e)
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e - b * d == 0:
        raise BadCog(name, f"no usable transform: {(a, b, c, d, e, f)}")
    return a, b, c, d, e, f
