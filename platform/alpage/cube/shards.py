"""Shards of layers: encoded and decoded whole, without Zarr's pipeline of one task a chunk.

A layer's shard holds inner chunks along time and space. Blocks hand over the days that they
observed; inner chunks without any are left out of the shard, as Zarr does, and read as fill.
What is written is plain Zarr v3 (`sharding_indexed`, `bytes`, `zstd`): every reader opens it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import google_crc32c
import imagecodecs
import numpy as np
import zarr
from numba import njit
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from alpage.errors import CubeError

LEVEL = 1
DAYS = 32
"""Days in an inner chunk of a daily layer."""
# Of an inner chunk that is not there. Source: Zarr v3, sharding_indexed codec 1.0.
ABSENT = np.uint64(2**64 - 1)
CRC_BYTES = 4

Array = NDArray[Any]
Place = tuple[int, int, int]
"""Number of a shard along time, y and x."""


def compressor() -> ZstdCodec:
    """Return the codec of inner chunks.

    Plain Zstandard: on int16 NDVI it writes and reads three times as fast as Blosc with bit
    shuffling, at up to 15 % more bytes (benchmarks/codecs.py).
    """
    return ZstdCodec(level=LEVEL, checksum=False)


def inner_chunk(size: int, most: int = 128) -> int:
    """Return the side of the inner chunks of a shard: the largest divisor up to `most`.

    A size with no divisor from half of that on is kept whole.

    >>> inner_chunk(512), inner_chunk(64), inner_chunk(131), inner_chunk(512, 256)
    (128, 64, 131, 256)
    """
    return next((n for n in range(min(size, most), most // 2 - 1, -1) if size % n == 0), size)


@dataclass(frozen=True)
class ShardShape:
    """How a layer is cut."""

    shard: tuple[int, int, int]
    inner: tuple[int, int, int]
    dtype: np.dtype[Any]
    fill: int

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Inner chunks along time, y and x."""
        t, y, x = (whole // part for whole, part in zip(self.shard, self.inner, strict=True))
        return t, y, x

    @property
    def n_bytes(self) -> int:
        """Bytes of the pixels of a shard."""
        return math.prod(self.shard) * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Length of the index at the end of a shard."""
        return 16 * math.prod(self.chunks) + CRC_BYTES


def check_encoding(array: zarr.Array, shape: ShardShape) -> None:
    """Raise CubeError for an array that is not cut or encoded as alpage does today."""
    order: Literal["little"] | None = "little" if array.dtype.itemsize > 1 else None
    expected = ShardingCodec(
        chunk_shape=shape.inner,
        codecs=(BytesCodec(endian=order), compressor()),
        index_codecs=(BytesCodec(endian="little"), Crc32cCodec()),
    )
    (codec,) = array.metadata.codecs
    told = codec.to_dict(), array.shards, array.dtype.newbyteorder("<"), int(array.fill_value)
    if told != (expected.to_dict(), shape.shard, shape.dtype, shape.fill):
        raise CubeError(
            f"cube: {array.path} was written by another version of alpage, which encoded it "
            "otherwise; build the cube anew at another place"
        )


def create_layer(
    group: zarr.Group,
    name: str,
    shape_tyx: tuple[int, int, int],
    cut: ShardShape,
    attributes: Mapping[str, Any],
) -> None:
    """Create the empty array of a layer, cut and encoded as shards are here."""
    group.create_array(
        name,
        shape=shape_tyx,
        shards=cut.shard,
        chunks=cut.inner,
        dtype=cut.dtype,
        fill_value=cut.fill,
        serializer=BytesCodec(endian="little"),
        compressors=compressor(),
        dimension_names=("time", "y", "x"),
        attributes=dict(attributes),
    )


class _Packed:
    """The encoded inner chunks of one shard, and the index that tells where they are."""

    def __init__(self, shape: ShardShape) -> None:
        self._index = np.full((*shape.chunks, 2), ABSENT, dtype="<u8")
        # Grows in place; parts to be joined would be held, and copied, once more.
        self._data = bytearray()

    def put(self, place: Place, chunk: Array) -> None:
        """Encode an inner chunk into its place among those of the shard."""
        encoded = imagecodecs.zstd_encode(chunk, level=LEVEL)
        self._index[place] = len(self._data), len(encoded)
        self._data += encoded

    def finish(self) -> bytearray | None:
        """Return the shard, None where it holds nothing. Nothing is added afterwards."""
        if not self._data:
            return None
        index = self._index.tobytes()
        self._data += index + google_crc32c.value(index).to_bytes(CRC_BYTES, "little")
        return self._data


class ShardWriter:
    """One shard in the making: days come in order, inner chunks are encoded as they fill."""

    def __init__(self, shape: ShardShape) -> None:
        self.shape = shape
        self._packed = _Packed(shape)
        self._pending: list[tuple[int, Array]] = []
        self._chunk = np.full(shape.inner, shape.fill, dtype=shape.dtype)

    def add(self, slots: Iterable[int], values: Iterable[Array]) -> None:
        """Take the values (n, y, x) of some slots of the shard, increasing from call to call.

        Rows and columns may be fewer than the shard's, at the edge of a grid. The values are
        kept until their inner chunks are complete.
        """
        steps = self.shape.inner[0]
        for slot, one in zip(slots, values, strict=True):
            if self._pending and self._pending[-1][0] // steps != slot // steps:
                self._flush()
            self._pending.append((int(slot), one))

    def finish(self) -> bytearray | None:
        """Return the shard, None where it holds nothing but fill. Nothing is added afterwards."""
        self._flush()
        return self._packed.finish()

    def _flush(self) -> None:
        if not self._pending:
            return
        steps, high, wide = self.shape.inner
        row = self._pending[0][0] // steps
        offsets = [slot % steps for slot, _ in self._pending]
        height, width = self._pending[0][1].shape
        for y in range(-(-height // high)):
            for x in range(-(-width // wide)):
                cut = np.s_[y * high : (y + 1) * high, x * wide : (x + 1) * wide]
                parts = [values[cut] for _, values in self._pending]
                if any(_holds(part, self.shape.fill) for part in parts):
                    self._put(row, y, x, offsets, parts)
        self._pending.clear()

    def _put(self, t: int, y: int, x: int, offsets: Sequence[int], parts: Sequence[Array]) -> None:
        rows, columns = parts[0].shape
        for offset, part in zip(offsets, parts, strict=True):
            self._chunk[offset, :rows, :columns] = part
        self._packed.put((t, y, x), self._chunk)
        self._chunk[np.asarray(offsets)] = self.shape.fill


def shape_of(array: zarr.Array) -> ShardShape:
    """Return how the array of a layer is cut."""
    dtype = array.dtype.newbyteorder("<")
    return ShardShape(array.shards, array.chunks, dtype, int(array.fill_value))


def time_first(shape: ShardShape) -> ShardShape:
    """Return a shape whose inner chunks hold all time steps of a shard, in narrower squares.

    A series is one inner chunk a shard then. They have no more than a million pixels: small for
    who asks for one, large enough for who reads all. A shape whose inner chunks are that long
    already, or have no narrower squares, is returned as it is.

    >>> shape = ShardShape((192, 512, 512), (32, 128, 128), np.dtype("int16"), -1)
    >>> time_first(shape).inner
    (192, 64, 64)
    """
    (length, *_), (steps, side, _) = shape.shard, shape.inner
    most = math.isqrt(2**20 // length)
    narrower = inner_chunk(side, most)
    if steps == length or narrower > most:
        return shape
    return replace(shape, inner=(length, narrower, narrower))


def recut(key: str, content: bytes, old: ShardShape, new: ShardShape) -> bytearray | None:
    """Return the shard of a key in the inner chunks of its `time_first` shape: the same pixels.

    None where it holds nothing but fill. Raises CubeError for a damaged one.
    """
    index = _index_of(key, memoryview(content)[-old.index_bytes :], old)
    packed = _Packed(new)
    (steps, high, wide), (length, side, _) = old.inner, new.inner
    column = np.empty((length, high, wide), dtype=old.dtype)
    chunk = np.empty(new.inner, dtype=old.dtype)
    for y, x in np.ndindex(*old.chunks[1:]):
        if (index[:, y, x, 0] == ABSENT).all():
            continue
        for t, (offset, size) in enumerate(index[:, y, x]):
            part = column[t * steps : (t + 1) * steps]
            if offset == ABSENT:
                part[:] = old.fill
            else:
                _decode_into(key, part, content, int(offset), int(size))
        for row, at in np.ndindex(high // side, wide // side):
            chunk[:] = column[:, row * side : (row + 1) * side, at * side : (at + 1) * side]
            if _holds(chunk.reshape(-1, side), old.fill):
                packed.put((0, y * (high // side) + row, x * (wide // side) + at), chunk)
    return packed.finish()


@dataclass(frozen=True)
class _Fetched:
    """Inner chunks of one shard as they are stored."""

    key: str
    data: memoryview
    rows: NDArray[np.int64]
    """Numbers along time of the inner chunks, which the arrays below begin with."""
    held: NDArray[np.bool_]
    offsets: NDArray[np.uint64]
    """Within `data`."""
    sizes: NDArray[np.uint64]

    def decode(self, chunk: Array, at: int, y: int, x: int) -> None:
        """Decode one of the inner chunks that are held into an array."""
        place = int(self.offsets[at, y, x]), int(self.sizes[at, y, x])
        _decode_into(self.key, chunk, self.data, *place)


@cache
def _fetcher() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="alpage-shards")


class Shards:
    """The shards of one layer in a store, by its path."""

    def __init__(self, store: Store, path: str, shape: ShardShape, steps: int) -> None:
        self._store, self._path, self.shape, self._steps = store, path, shape, steps

    def write(self, place: Place, data: bytearray | None) -> None:
        """Put a shard in its place, or take away the one that is there."""
        if data is None:
            sync(self._store.delete(self._key(place)))
        else:
            packed = default_buffer_prototype().buffer.from_bytes(data)
            sync(self._store.set(self._key(place), packed))

    def read(
        self, indices: NDArray[np.int64], tile: tuple[int, int], rows: int, columns: int
    ) -> Array:
        """Return some time steps of a tile, shape (indices, rows, columns): see `read_into`."""
        out = np.empty((len(indices), rows, columns), dtype=self.shape.dtype)
        self.read_into(out, np.arange(len(indices)), indices, tile)
        return out

    def read_into(
        self,
        out: Array,
        targets: NDArray[np.int64],
        indices: NDArray[np.int64],
        tile: tuple[int, int],
    ) -> None:
        """Write some time steps of a tile over the `targets` along the first axis of an array.

        Fill outside the layer's time axis and where nothing was written. Two requests a shard:
        its index, and what lies from the first to the last inner chunk needed; the next shard is
        fetched while one is decoded. Raises CubeError for a damaged index.
        """
        out[targets] = self.shape.fill
        inside = np.flatnonzero((indices >= 0) & (indices < self._steps))
        length = self.shape.shard[0]
        parts = []
        for number in np.unique(indices[inside] // length):
            mine = inside[indices[inside] // length == number]
            parts.append(((int(number), *tile), indices[mine] - number * length, targets[mine]))
        flying = [_fetcher().submit(self._fetch, *part[:2]) for part in parts[:1]]
        for at, (_, slots, over) in enumerate(parts):
            found = flying.pop().result()
            if at + 1 < len(parts):
                flying.append(_fetcher().submit(self._fetch, *parts[at + 1][:2]))
            if found is not None:
                self._decode(found, slots, over, out)

    def read_held(
        self, steps: range, tile: tuple[int, int], rows: int, columns: int
    ) -> dict[int, Array]:
        """Return those of some time steps of one shard that hold anything, by their number.

        In order, each of shape (rows, columns). Raises CubeError for a damaged shard.
        """
        (length, *_), (deep, high, wide) = self.shape.shard, self.shape.inner
        number, fill = steps[0] // length, self.shape.fill
        found = self._fetch((number, *tile), np.asarray(steps) - number * length)
        if found is None:
            return {}
        maps: dict[int, Array] = {}
        chunk = np.empty(self.shape.inner, dtype=self.shape.dtype)
        for at, y, x in np.argwhere(found.held):
            found.decode(chunk, at, y, x)
            first = number * length + int(found.rows[at]) * deep
            cut = np.s_[y * high : (y + 1) * high, x * wide : (x + 1) * wide]
            for offset in np.flatnonzero(_held(chunk, fill)):
                step = first + int(offset)
                if step not in steps:
                    continue
                if step not in maps:
                    maps[step] = np.full((rows, columns), fill, dtype=self.shape.dtype)
                view = maps[step][cut]
                view[:] = chunk[offset, : view.shape[0], : view.shape[1]]
        return dict(sorted(maps.items()))

    def _fetch(self, place: Place, slots: NDArray[np.int64]) -> "_Fetched | None":
        """The inner chunks of one shard that hold some slots; None where nothing is there."""
        shape, key = self.shape, self._key(place)
        tail = self._get(key, SuffixByteRequest(shape.index_bytes))
        if tail is None:
            return None
        index = _index_of(key, tail, shape)
        rows = np.unique(slots // shape.inner[0])
        offsets, sizes = index[rows, ..., 0], index[rows, ..., 1]
        held = offsets != ABSENT
        if not held.any():
            return None
        first, last = int(offsets[held].min()), int((offsets[held] + sizes[held]).max())
        data = self._get(key, RangeByteRequest(first, last))
        if data is None:
            raise CubeError(f"cube: {key} went away while it was read; was it garbage collected?")
        offsets[held] -= np.uint64(first)
        return _Fetched(key, data, rows, held, offsets, sizes)

    def _decode(
        self,
        found: "_Fetched",
        slots: NDArray[np.int64],
        targets: NDArray[np.int64],
        out: Array,
    ) -> None:
        """Fill the targets along the first axis of `out` from the slots of one shard."""
        steps, high, wide = self.shape.inner
        chunk = np.empty(self.shape.inner, dtype=self.shape.dtype)
        for at, y, x in np.argwhere(found.held):
            found.decode(chunk, at, y, x)
            wanted = slots // steps == found.rows[at]
            cut = np.s_[y * high : (y + 1) * high, x * wide : (x + 1) * wide]
            for slot, target in zip(slots[wanted] % steps, targets[wanted], strict=True):
                view = out[target][cut]
                view[:] = chunk[slot, : view.shape[0], : view.shape[1]]

    def _get(self, key: str, part: ByteRequest) -> memoryview | None:
        found = sync(self._store.get(key, default_buffer_prototype(), part))
        return None if found is None else memoryview(found.as_numpy_array())

    def _key(self, place: Place) -> str:
        return "/".join([self._path, "c", *map(str, place)])


def _decode_into(key: str, out: Array, data: bytes | memoryview, start: int, size: int) -> None:
    """Decode the inner chunk that lies at a place of a shard into a contiguous array."""
    piece = memoryview(data)[start : start + size]
    try:
        imagecodecs.zstd_decode(piece, out=out.reshape(-1).view(np.uint8).data)
    except imagecodecs.ZstdError as error:
        raise CubeError(
            f"cube: {key} is damaged ({error}); roll the cube back or rebuild it"
        ) from error


def _index_of(key: str, tail: memoryview, shape: ShardShape) -> NDArray[np.uint64]:
    body = bytes(tail[:-CRC_BYTES])
    if google_crc32c.value(body) != int.from_bytes(tail[-CRC_BYTES:], "little"):
        raise CubeError(f"cube: the index of {key} is damaged; roll the cube back or rebuild it")
    return np.frombuffer(body, dtype="<u8").reshape(*shape.chunks, 2)


@njit(cache=True, nogil=True)
def _held(chunk: Any, fill: int) -> Any:
    """Tell of each time step of an inner chunk whether anything but fill is there."""
    held = np.empty(len(chunk), dtype=np.bool_)
    for step in range(len(chunk)):
        held[step] = _holds(chunk[step], fill)
    return held


@njit(cache=True, nogil=True)
def _holds(values: Any, fill: int) -> bool:
    """Whether anything but fill is there."""
    for row in values:
        for value in row:
            if value != fill:
                return True
    return False
