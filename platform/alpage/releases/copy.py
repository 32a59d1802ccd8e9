"""Copy a cube's groups to plain Zarr, shard by shard.

Pixels are those of the cube. Shards whose inner chunks do not hold all of their time steps are cut
anew, time first; all else are the bytes they are. Few shards are in memory at once.
"""

import asyncio
import json
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from typing import Any

import icechunk
import obstore
import zarr
from obstore.exceptions import BaseError
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from alpage.cube.shards import ShardShape, check_encoding, recut, time_first
from alpage.errors import StorageError
from alpage.releases.pieces import Place

IN_FLIGHT = 8
"""Objects copied at once, at most."""
MOST_BYTES = 256 * 2**20
"""Pixels of the shards that are copied at once, though one may be of more."""
SHARDS = 16
"""Shards of a piece."""
METADATA = "zarr.json"

Amend = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""From a node's path and metadata document to the attributes to add."""
Documents = dict[str, bytes]
"""What the zarr.json of nodes hold, by key."""


@dataclass(frozen=True)
class Copies:
    """Shards of layers to be copied, by their keys."""

    keys: tuple[str, ...]

    def write(self, place: Place) -> None:
        """Copy them, cut anew where they are not time first yet."""
        _run(place, self._copy(place))

    async def _copy(self, place: Place) -> None:
        def cut_of(key: str) -> ShardShape:
            return place.cuts[key.rpartition("/c/")[0]]

        async def one(key: str) -> None:
            cut = cut_of(key)
            stored = await _read(place, key)
            content: bytes | bytearray | None = stored
            if (new := time_first(cut)) != cut:
                content = await asyncio.to_thread(recut, key, stored, cut, new)
            if content is not None:
                await _put(place, key, content)

        await _each(self.keys, one, min(_at_once(cut_of(key)) for key in self.keys))


def copy_bytes(place: Place) -> int:
    """Return what the shards that a piece copies at once hold in memory at most.

    Each is there as it is stored, and as it is cut anew: not much more than its pixels.
    """
    return max((2 * _at_once(cut) * cut.n_bytes for cut in place.cuts.values()), default=0)


def _at_once(cut: ShardShape) -> int:
    return max(1, min(IN_FLIGHT, MOST_BYTES // cut.n_bytes))


def copy_groups(place: Place, amend: Amend) -> tuple[Documents, list[Copies]]:
    """Copy a cube's groups but for the shards of its layers, which are returned in pieces.

    And the metadata of all nodes, written already but for the root's, which hold those of all.
    Raises StorageError, and CubeError for layers that are encoded as alpage does not any more.
    """
    for path, cut in place.cuts.items():
        check_encoding(place.root[path], cut)
    documents: Documents = {}
    shards: list[str] = []

    async def one(key: str) -> None:
        content = await _read(place, key)
        if key.rsplit("/", 1)[-1] == METADATA:
            content = documents[key] = _amended(key, content, place.cuts, amend)
        if key != METADATA:
            await _put(place, key, content)

    async def copy() -> None:
        small = [METADATA]
        for group in place.contents.top_groups:
            async for key in place.root.store.list_prefix(f"{group}/"):
                layer, _, rest = key.rpartition("/c/")
                (shards if rest and layer in place.cuts else small).append(key)
        await _each(small, one, IN_FLIGHT)

    _run(place, copy())
    return documents, [Copies(keys) for keys in batched(sorted(shards), SHARDS)]


def _run(place: Place, copying: Coroutine[Any, Any, None]) -> None:
    """Copy in a thread of its own: a caller such as a notebook may run an event loop here."""
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, copying).result()
    except (ExceptionGroup, BaseError, FileNotFoundError, icechunk.IcechunkError) as error:
        first = _first(error)
        if isinstance(first, BaseError | FileNotFoundError | icechunk.IcechunkError):
            raise place.shelf.failure("copy the cube to", place.target, first) from None
        raise first from None


async def _read(place: Place, key: str) -> bytes:
    found = await place.root.store.get(key, default_buffer_prototype())
    if found is None:
        raise StorageError(f"cube: {key} is listed, but cannot be read")
    content: bytes = found.to_bytes()
    return content


async def _put(place: Place, key: str, content: bytes | bytearray) -> None:
    shelf, path = place.shelf, f"{place.target}/{key}"
    told = shelf.attributes(path)
    await obstore.put_async(shelf.store, shelf.key(path), content, attributes=told)


async def _each(
    keys: Iterable[str], copy: Callable[[str], Coroutine[Any, Any, None]], at_once: int
) -> None:
    turns = asyncio.Semaphore(at_once)

    async def one(key: str) -> None:
        async with turns:
            await copy(key)

    async with asyncio.TaskGroup() as tasks:
        for key in keys:
            tasks.create_task(one(key))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _amended(key: str, content: bytes, cuts: Mapping[str, ShardShape], amend: Amend) -> bytes:
    document, path = json.loads(content), key.removesuffix(METADATA).strip("/")
    added = amend(path, document)
    document["attributes"] = {**document.get("attributes", {}), **added}
    if path in cuts:
        (sharding,) = document["codecs"]
        sharding["configuration"]["chunk_shape"] = list(time_first(cuts[path]).inner)
    return json.dumps(document).encode()


def consolidated(documents: Documents, path: str = "") -> bytes:
    """Return the metadata of a group with that of all nodes below it."""
    prefix = f"{path}/" if path else ""
    prototype = default_buffer_prototype()
    nodes = {
        key.removeprefix(prefix): prototype.buffer.from_bytes(content)
        for key, content in documents.items()
        if key.startswith(prefix)
    }
    with warnings.catch_warnings():
        # Not in the v3 specification yet; it spares readers a request per node.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(MemoryStore(nodes), zarr_format=3)
    content: bytes = nodes[METADATA].to_bytes()
    return content
