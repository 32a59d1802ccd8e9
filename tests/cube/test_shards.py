"""Shards against Zarr's own pipeline, in both directions."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec

from alpage.cube.shards import Shards, ShardShape, ShardWriter, check_encoding, compressor
from alpage.errors import CubeError

FILL = {"int16": -32768, "uint8": 255}


def make(dtype: str, *, shape: tuple[int, int, int] = (128, 80, 72)) -> zarr.Array:
    """An array of shards of (64, 48, 48), the last ones reaching over the edge of the grid."""
    root = zarr.create_group(zarr.storage.MemoryStore())
    return root.create_array(
        "day/a",
        shape=shape,
        shards=(64, 48, 48),
        chunks=(32, 24, 24),
        dtype=dtype,
        fill_value=FILL[dtype],
        serializer=BytesCodec(endian="little"),
        compressors=compressor(),
    )


def shards_of(array: zarr.Array) -> Shards:
    dtype = array.dtype.newbyteorder("<")
    shape = ShardShape(array.shards, array.chunks, dtype, int(array.fill_value))
    check_encoding(array, shape)
    return Shards(array.store_path.store, array.path, shape, array.shape[0])


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(["int16", "uint8"]),
    slots=st.sets(st.integers(0, 63), max_size=20).map(sorted),
    tile=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    holes=st.floats(0, 1),
    seed=st.integers(0, 99),
    batch=st.integers(1, 7),
)
def test_zarr_reads_what_was_written(
    dtype: str, slots: list[int], tile: tuple[int, int], holes: float, seed: int, batch: int
) -> None:
    array, rng = make(dtype), np.random.default_rng(seed)
    rows, columns = min(48, 80 - 48 * tile[0]), min(48, 72 - 48 * tile[1])
    values = rng.integers(0, 250, (len(slots), rows, columns)).astype(dtype)
    values[rng.random(values.shape) < holes] = FILL[dtype]
    shards = shards_of(array)
    writer = ShardWriter(shards.shape)
    for start in range(0, len(slots), batch):
        writer.add(slots[start : start + batch], values[start : start + batch])
    data = writer.finish()
    assert (data is None) == bool((values == FILL[dtype]).all())
    shards.write((1, *tile), data)
    expected = np.full((128, 80, 72), FILL[dtype], dtype=dtype)
    place = (slice(48 * tile[0], 48 * tile[0] + 48), slice(48 * tile[1], 48 * tile[1] + 48))
    for slot, one in zip(slots, values, strict=True):
        expected[64 + slot][place] = one
    np.testing.assert_array_equal(np.asarray(array), expected)


@settings(max_examples=40)
@given(
    indices=st.lists(st.integers(-20, 150), max_size=12, unique=True),
    seed=st.integers(0, 99),
    tile=st.tuples(st.integers(0, 1), st.integers(0, 1)),
)
def test_what_zarr_wrote_is_read(indices: list[int], seed: int, tile: tuple[int, int]) -> None:
    array, rng = make("int16"), np.random.default_rng(seed)
    whole = rng.integers(-9, 9, array.shape).astype("int16")
    whole[:32] = whole[70:90] = FILL["int16"]
    array[:] = whole
    rows, columns = min(48, 80 - 48 * tile[0]), min(48, 72 - 48 * tile[1])
    found = shards_of(array).read(np.array(indices, dtype=np.int64), tile, rows, columns)
    assert found.shape == (len(indices), rows, columns)
    for index, one in zip(indices, found, strict=True):
        if 0 <= index < 128:
            part = whole[index, 48 * tile[0] :, 48 * tile[1] :][:48, :48]
            np.testing.assert_array_equal(one, part)
        else:
            assert (one == FILL["int16"]).all()
    # Backwards, every other place: what lies between stays.
    out = np.full((2 * len(indices), rows, columns), 99, dtype="int16")
    places = 2 * np.arange(len(indices), dtype=np.int64)[::-1]
    shards_of(array).read_into(out, places, np.array(indices, dtype=np.int64), tile)
    np.testing.assert_array_equal(out[places], found)
    assert (out[1::2] == 99).all()


def test_an_empty_shard_takes_the_place_of_the_one_before() -> None:
    array = make("uint8")
    array[:64, :48, :48] = 7
    shards = shards_of(array)
    writer = ShardWriter(shards.shape)
    writer.add([3], np.full((1, 48, 48), FILL["uint8"], dtype="uint8"))
    shards.write((0, 0, 0), writer.finish())
    assert (np.asarray(array) == FILL["uint8"]).all()
    assert array.nchunks_initialized == 0
    shards.write((0, 0, 0), None)


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    array = zarr.create_group(tmp_path).create_array(
        "a",
        shape=(32, 24, 24),
        shards=(32, 24, 24),
        chunks=(32, 24, 24),
        dtype="int16",
        fill_value=0,
        serializer=BytesCodec(endian="little"),
        compressors=compressor(),
    )
    array[:] = 5
    (shard,) = (path for path in (tmp_path / "a" / "c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CubeError, match=r"index of .*c/0/0/0 is damaged"):
        shards_of(array).read(np.array([0]), (0, 0), 24, 24)


def test_an_array_encoded_otherwise_is_refused() -> None:
    root = zarr.create_group(zarr.storage.MemoryStore())
    array = root.create_array(
        "a", shape=(32, 8, 8), shards=(32, 8, 8), chunks=(32, 8, 8), dtype="int16",
        compressors=BloscCodec(),
    )  # fmt: skip
    with pytest.raises(CubeError, match="another version of alpage"):
        shards_of(array)
