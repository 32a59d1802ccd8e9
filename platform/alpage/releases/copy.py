"""Copy a cube's groups to plain Zarr, shard by shard.

Pixels are those of the cube. Shards whose inner chunks do not hold all of their time steps are cut
anew, time first; all else are the bytes they are. Few shards are in memory at once.
"""

import asyncio
import json
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import icechunk
import obstore
import zarr
from obstore.exceptions import BaseError
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from alpage.cube.shards import ShardShape, recut, shape_of, time_first
from alpage.errors import CubeError, StorageError
from alpage.releases.shelf import Shelf

IN_FLIGHT = 8
"""Shards copied at once; each is in memory once, or twice where it is cut anew."""
METADATA = "zarr.json"

Amend = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""From a node's path and metadata document to the attributes to add."""
Documents = dict[str, bytes]
"""What the zarr.json of nodes hold, by key."""


def copy_groups(
    root: zarr.Group,
    groups: tuple[str, ...],
    layers: tuple[str, ...],
    shelf: Shelf,
    target: str,
    amend: Amend,
) -> Documents:
    """Copy groups of a hierarchy to a path on a shelf; return the metadata of these and the root.

    `layers` are the paths of what is cut in shards of pixels. The root's metadata are not written:
    they hold those of all. Raises StorageError, and CubeError for a damaged shard.
    """
    documents: Documents = {}
    shapes = {path: shape_of(root[path]) for path in layers}
    copying = _copy(root, groups, shapes, shelf, target, amend, documents)
    # In a thread of its own: a caller such as a notebook may already run an event loop here.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, copying).result()
    return documents


async def _copy(
    root: zarr.Group,
    groups: tuple[str, ...],
    shapes: Mapping[str, ShardShape],
    shelf: Shelf,
    target: str,
    amend: Amend,
    documents: Documents,
) -> None:
    source, prototype = root.store, default_buffer_prototype()
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one(key: str) -> None:
        try:
            found = await source.get(key, prototype)
            if found is None:
                raise StorageError(f"cube: {key} is listed, but cannot be read")
            stored = found.to_bytes()
            content: bytes | bytearray | None = stored
            layer, _, rest = key.partition("/c/")
            if key.rsplit("/", 1)[-1] == METADATA:
                content = documents[key] = _amended(key, stored, shapes, amend)
            elif rest and layer in shapes and (new := time_first(shapes[layer])) != shapes[layer]:
                content = await asyncio.to_thread(recut, key, stored, shapes[layer], new)
            if key != METADATA and content is not None:
                path = f"{target}/{key}"
                told = shelf.attributes(path)
                await obstore.put_async(shelf.store, shelf.key(path), content, attributes=told)
        finally:
            places.release()

    try:
        async with asyncio.TaskGroup() as tasks:
            await places.acquire()
            await one(METADATA)
            for group in groups:
                async for key in source.list_prefix(f"{group}/"):
                    await places.acquire()
                    tasks.create_task(one(key))
    except* (StorageError, CubeError) as several:
        raise _first(several) from None
    except* (BaseError, icechunk.IcechunkError) as several:
        raise shelf.failure("copy the cube to", target, _first(several)) from None


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
