"""Copy a cube's groups to plain Zarr, shard by shard, as the bytes they are.

Shards are never decoded, so values, codecs and fill cannot change; only the
metadata documents gain attributes. Few shards are in memory at once.
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
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from alpage.errors import StorageError
from alpage.releases.shelf import Shelf

IN_FLIGHT = 8
"""Shards copied at once; each is in memory once."""
METADATA = "zarr.json"

Amend = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""From a node's path and metadata document to the attributes to add."""


def copy_groups(
    root: zarr.Group, groups: tuple[str, ...], shelf: Shelf, target: str, amend: Amend
) -> int:
    """Copy groups of a hierarchy, and its root, to a path on a shelf; return the bytes written.

    The root's metadata, which holds that of all, is written once and last. Raises StorageError.
    """
    documents: dict[str, Buffer] = {}
    copying = _copy(root, groups, shelf, target, amend, documents)
    # In a thread of its own: a caller such as a notebook may already run an event loop here.
    with ThreadPoolExecutor(1) as thread:
        size = thread.submit(asyncio.run, copying).result()
    content = _consolidated(documents)
    shelf.put(f"{target}/{METADATA}", content)
    return size + len(content)


async def _copy(
    root: zarr.Group,
    groups: tuple[str, ...],
    shelf: Shelf,
    target: str,
    amend: Amend,
    documents: dict[str, Buffer],
) -> int:
    """Copy all but the root's metadata; gives that and the other nodes' in `documents`."""
    source, prototype = root.store, default_buffer_prototype()
    places = asyncio.Semaphore(IN_FLIGHT)
    written = 0

    async def one(key: str) -> None:
        nonlocal written
        try:
            found = await source.get(key, prototype)
            if found is None:
                raise StorageError(f"cube: {key} is listed, but cannot be read")
            content = found.to_bytes()
            if key.rsplit("/", 1)[-1] == METADATA:
                content = _amended(key, content, amend)
                documents[key] = prototype.buffer.from_bytes(content)
            if key != METADATA:
                path = f"{target}/{key}"
                told = shelf.attributes(path)
                await obstore.put_async(shelf.store, shelf.key(path), content, attributes=told)
                written += len(content)
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
    except* StorageError as several:
        raise _first(several) from None
    except* (BaseError, icechunk.IcechunkError) as several:
        raise shelf.failure("copy the cube to", target, _first(several)) from None
    return written


def _first(several: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _amended(key: str, content: bytes, amend: Amend) -> bytes:
    document = json.loads(content)
    added = amend(key.removesuffix(METADATA).strip("/"), document)
    document["attributes"] = {**document.get("attributes", {}), **added}
    return json.dumps(document).encode()


def _consolidated(documents: dict[str, Buffer]) -> bytes:
    """The root's metadata with that of all nodes."""
    with warnings.catch_warnings():
        # Not in the v3 specification yet; it spares readers a request per node.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(MemoryStore(documents), zarr_format=3)
    content: bytes = documents[METADATA].to_bytes()
    return content
