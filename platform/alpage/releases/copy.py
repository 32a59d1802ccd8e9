"""Copy a cube's groups to plain Zarr, shard by shard.

Pixels are those of the cube. Shards whose inner chunks do not hold all of their time steps are cut
anew, time first; all else are the bytes they are. Few shards are in memory at once.
"""

import asyncio
import contextlib
import json
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
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

from alpage.cube.shards import ShardShape, check_encoding, recut, shape_of, time_first
from alpage.errors import CubeError, StorageError
from alpage.releases.pieces import Place

IN_FLIGHT = 8
"""Shards of a piece copied at once; each is in memory once, or twice where it is cut anew."""
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
        _run(self._copy(place))

    async def _copy(self, place: Place) -> None:
        shapes = {key.partition("/c/")[0] for key in self.keys}
        cuts = {path: shape_of(place.root[path]) for path in shapes}
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one(key: str) -> None:
            cut = cuts[key.partition("/c/")[0]]
            async with places:
                stored = await _read(place, key)
                content: bytes | bytearray | None = stored
                if (new := time_first(cut)) != cut:
                    content = await asyncio.to_thread(recut, key, stored, cut, new)
                if content is not None:
                    await _put(place, key, content)

        async with _failures_told(place), asyncio.TaskGroup() as tasks:
            for key in self.keys:
                tasks.create_task(one(key))


def copy_groups(place: Place, amend: Amend) -> tuple[Documents, list[Copies]]:
    """Copy a cube's groups but for the shards of its layers, which are returned in pieces.

    And the metadata of all nodes, written already but for the root's, which hold those of all.
    Raises StorageError, and CubeError for layers that are encoded as alpage does not any more.
    """
    cuts = {path: shape_of(place.root[path]) for path in place.contents.layer_paths}
    for path, cut in cuts.items():
        check_encoding(place.root[path], cut)
    documents: Documents = {}
    shards: list[str] = []

    async def copy() -> None:
        async with _failures_told(place):
            documents[METADATA] = _amended(METADATA, await _read(place, METADATA), cuts, amend)
            for group in place.contents.top_groups:
                async for key in place.root.store.list_prefix(f"{group}/"):
                    layer, _, rest = key.partition("/c/")
                    if rest and layer in cuts:
                        shards.append(key)
                        continue
                    content = await _read(place, key)
                    if key.rsplit("/", 1)[-1] == METADATA:
                        content = documents[key] = _amended(key, content, cuts, amend)
                    await _put(place, key, content)

    _run(copy())
    return documents, [Copies(keys) for keys in batched(sorted(shards), SHARDS)]


def _run(copying: Coroutine[Any, Any, None]) -> None:
    # In a thread of its own: a caller such as a notebook may already run an event loop here.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, copying).result()


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


@contextlib.asynccontextmanager
async def _failures_told(place: Place) -> AsyncIterator[None]:
    try:
        yield
    except* (StorageError, CubeError) as several:
        raise _first(several) from None
    except* (BaseError, icechunk.IcechunkError) as several:
        raise place.shelf.failure("copy the cube to", place.target, _first(several)) from None


def _first(several: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _amended(key: str, content: bytes, shapes: Mapping[str, ShardShape], amend: Amend) -> bytes:
    document, path = json.loads(content), key.removesuffix(METADATA).strip("/")
    added = amend(path, document)
    document["attributes"] = {**document.get("attributes", {}), **added}
    if path in shapes:
        (sharding,) = document["codecs"]
        sharding["configuration"]["chunk_shape"] = list(time_first(shapes[path]).inner)
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
