"""From windows of COGs to arrays: tiles fetched together, decoded by imagecodecs."""

import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.session import DummySession
from rasterio.windows import Window as GdalWindow

from alpage.cube.place import is_local
from alpage.engine.header import BadCog, CogHeader, CogLevel
from alpage.engine.storage import ReadCounters, announce, fetch_ranges, gdal_path
from alpage.engine.tiff import read_header
from alpage.errors import StorageError
from alpage.redaction import safe_name

__all__ = [
    "BadCog",
    "CogHeader",
    "CogLevel",
    "Reads",
    "Window",
    "read_header",
    "read_window",
    "read_window_slow",
    "read_windows",
]

FETCHERS = 16
"""Files whose bytes are on their way at once."""

NATIVE = "<" if sys.byteorder == "little" else ">"

Window = tuple[int, int, int, int]
"""Row, column, height and width in pixels of a level; may reach outside the image."""
Array = NDArray[Any]
Request = tuple[CogHeader, int, Window]

DECODERS: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.deflate_decode,
    32946: imagecodecs.deflate_decode,
    32773: imagecodecs.packbits_decode,
    50000: imagecodecs.zstd_decode,
}


def read_window(
    header: CogHeader, window: Window, *, level: int = 0, counters: ReadCounters | None = None
) -> Array:
    """Return the first band of a window, shape (height, width), in the file's dtype.

    Pixels outside the image and tiles left out of the file are nodata, or 0 where the file has
    none. Raises `BadCog` naming the tile when bytes do not decode; `StorageError`.
    """
    return read_windows([(header, level, window)], counters)[0]


def read_windows(requests: Sequence[Request], counters: ReadCounters | None = None) -> list[Array]:
    """Return the windows of many (header, level, window), in the order asked.

    The bytes of all are fetched at once and decoded, in the calling thread, in that order. The
    first failure ends the call. Otherwise as `read_window`.
    """
    reads = Reads(requests, ReadCounters() if counters is None else counters)
    try:
        return [reads.take(number) for number in range(len(requests))]
    finally:
        reads.close()


def read_window_slow(header: CogHeader, window: Window, level: int = 0) -> Array:
    """Return the same as `read_window`, read by GDAL: for the formats that only GDAL decodes."""
    row, column, _, _ = window
    out = np.full(window[2:], header.fill)
    rows, columns = _inside(header.levels[level], window)
    if not (rows and columns):
        return out
    path, options = gdal_path(header.href)
    overview = {"overview_level": level - 1} if level else {}
    part = GdalWindow(columns.start, rows.start, len(columns), len(rows))
    try:
        with (
            rasterio.Env(session=DummySession(), **options),
            rasterio.open(path, driver="GTiff", sharing=False, **overview) as image,
        ):
            pixels = image.read(1, window=part)
    except rasterio.RasterioIOError as error:
        if re.search(r"HTTP|CURL|connection|timed? ?out", str(error), re.IGNORECASE):
            raise StorageError(f"{safe_name(header.href)}: GDAL got no answer") from error
        raise BadCog(safe_name(header.href), f"GDAL cannot read level {level}: {error}") from error
    out[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = pixels
    return out


@dataclass(frozen=True)
class _Job:
    """One window and the tiles of it that the file holds."""

    header: CogHeader
    level: CogLevel
    number: int
    window: Window
    tiles: tuple[tuple[int, int], ...]
    complete: bool
    """Whether these tiles cover all of the window."""

    def index(self, tile: tuple[int, int]) -> int:
        return tile[0] * self.level.tiles_yx[1] + tile[1]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Offset and length of each tile in the file."""
        offsets, counts = self.level.offsets, self.level.bytecounts
        return [(int(offsets[i]), int(counts[i])) for i in map(self.index, self.tiles)]


def _job(header: CogHeader, number: int, window: Window) -> _Job:
    if not 0 <= number < len(header.levels) or min(window[2:]) < 1:
        raise ValueError(
            f"expected a level below {len(header.levels)} and a window of at least one pixel, "
            f"got level {number}, window {window}"
        )
    level = header.levels[number]
    rows, columns = _inside(level, window)
    if not (rows and columns):
        return _Job(header, level, number, window, (), complete=False)
    (high, wide), across = level.tile_yx, level.tiles_yx[1]
    under = [
        (y, x)
        for y in range(rows.start // high, (rows.stop - 1) // high + 1)
        for x in range(columns.start // wide, (columns.stop - 1) // wide + 1)
    ]
    if level.why_slow:
        return _Job(header, level, number, window, tuple(under), complete=True)
    held = tuple((y, x) for y, x in under if level.bytecounts[y * across + x])
    whole = (len(rows), len(columns)) == tuple(window[2:]) and len(held) == len(under)
    return _Job(header, level, number, window, held, complete=whole)


def _inside(level: CogLevel, window: Window) -> tuple[range, range]:
    """Return the rows and columns of a window that lie in the image."""
    (height, width), (row, column, high, wide) = level.shape_yx, window
    return (
        range(max(row, 0), min(row + high, height)),
        range(max(column, 0), min(column + wide, width)),
    )


Found = tuple[list[memoryview] | Array, ReadCounters]


class Reads:
    """Windows whose bytes are on their way: decoded in the thread that takes them.

    Decoding is what takes the core: a task keeps to its own.
    """

    def __init__(self, requests: Sequence[Request], counters: ReadCounters) -> None:
        self._jobs = [_job(header, level, window) for header, level, window in requests]
        self._waiting: list[Future[Found] | None] = [self._start(job) for job in self._jobs]
        self._taken = [False] * len(self._jobs)
        self._counters = counters

    @staticmethod
    def _start(job: _Job) -> Future[Found] | None:
        """Fetch in the background; a local file is left to the kernel, which needs no thread."""
        if is_local(job.header.href):
            announce(job.header.href, job.ranges)
            return None
        return _fetchers().submit(_bring, job)

    def close(self) -> None:
        """Give up what was not taken."""
        for future in self._waiting:
            if future is not None:
                future.cancel()

    def take(self, number: int, out: Array | None = None) -> Array:
        """Return one of the windows, once.

        `out`, contiguous and of the file's dtype, is filled and returned where given.
        Raises as `read_window`.
        """
        job, future = self._jobs[number], self._waiting[number]
        if self._taken[number]:
            raise ValueError(f"window {number} was taken before")
        found, cost = _bring(job) if future is None else future.result()
        # The bytes go as soon as they are decoded.
        self._waiting[number], self._taken[number] = None, True
        started = time.perf_counter()
        if not isinstance(found, np.ndarray):
            found = _assemble(job, found, out)
        elif out is not None:
            out[:] = found
            found = out
        cost.decode_seconds += time.perf_counter() - started
        self._counters.add(cost)
        return found


def _bring(job: _Job) -> Found:
    cost = ReadCounters()
    if job.level.why_slow and job.tiles:
        started = time.perf_counter()
        pixels = read_window_slow(job.header, job.window, job.number)
        cost.decode_seconds = time.perf_counter() - started
        return pixels, cost
    try:
        return fetch_ranges(job.header.href, job.ranges, cost), cost
    except FileNotFoundError:
        raise BadCog(safe_name(job.header.href), "does not exist any more") from None


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(FETCHERS, thread_name_prefix="alpage-fetch")


def _assemble(job: _Job, parts: Sequence[memoryview], out: Array | None) -> Array:
    row, column, high, wide = job.window
    dtype = np.dtype(job.header.dtype)
    if out is None:
        out = np.empty((high, wide), dtype)
    if not job.complete:
        out[:] = job.header.fill
    tile_high, tile_wide = job.level.tile_yx
    scratch = np.empty(tile_high * tile_wide * dtype.itemsize, np.uint8)
    image_rows, image_columns = _inside(job.level, job.window)
    for tile, data in zip(job.tiles, parts, strict=True):
        stored = _decompress(job, tile, data, scratch)
        top, left = tile[0] * tile_high, tile[1] * tile_wide
        y0, y1 = max(top, image_rows.start), min(top + tile_high, image_rows.stop)
        x0, x1 = max(left, image_columns.start), min(left + tile_wide, image_columns.stop)
        # From the tile's first column: a predictor tells pixels by those before.
        piece = stored[y0 - top : y1 - top, : x1 - left]
        target = out[y0 - row : y1 - row, x0 - column : x1 - column]
        _restore(job, piece, x0 - left, target)
    return out


def _restore(job: _Job, stored: Array, skipped: int, out: Array) -> None:
    """Write pixels as they were before the predictor, but for the first columns of each row."""
    if job.level.predictor == 2:
        # Differences of floats are those of their bits.
        numbers, over = (part.view(f"u{part.itemsize}") for part in (stored, out))
        if not skipped:
            imagecodecs.delta_decode(numbers, axis=-1, out=over)
            return
        imagecodecs.delta_decode(numbers, axis=-1, out=numbers)
    out[:] = stored[:, skipped:]


def _decompress(job: _Job, tile: tuple[int, int], data: memoryview, scratch: Array) -> Array:
    """Return a tile's numbers as the predictor left them, in scratch memory or the data's own."""
    level, dtype = job.level, np.dtype(job.header.dtype)
    high, wide = level.tile_yx
    # The last strip ends with the image, where tiles are padded.
    rows = min(high, level.shape_yx[0] - tile[0] * high) if level.strips else high
    needed = rows * wide * dtype.itemsize
    try:
        raw = (
            np.frombuffer(data, np.uint8)
            if level.compression == 1
            else DECODERS[level.compression](data, out=scratch)
        )
    except (RuntimeError, ValueError) as error:
        raise _bad_tile(job, tile, f"does not decode: {error}") from error
    if raw.size < needed:
        raise _bad_tile(job, tile, f"decodes to {raw.size} bytes where {needed} are needed")
    pixels = raw[:needed].view(dtype).reshape(rows, wide)
    if level.predictor == 3:
        # The floating point predictor stores bytes by significance, whatever the file's order.
        return imagecodecs.floatpred_decode(pixels, axis=-1, out=np.empty_like(pixels))
    return pixels if job.header.byteorder == NATIVE else pixels.byteswap()


def _bad_tile(job: _Job, tile: tuple[int, int], reason: str) -> BadCog:
    where = f"tile {job.index(tile)} (row {tile[0]}, column {tile[1]}) of level {job.number}"
    return BadCog(safe_name(job.header.href), f"{where} {reason}")
