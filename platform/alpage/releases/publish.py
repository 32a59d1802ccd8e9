"""Publish one snapshot of a cube: an immutable prefix first, then the pointer to it.

    <destination>/collection.json              what readers open: the newest release's Collection
    <destination>/<release>/collection.json    written last of its prefix: without it, not whole
    <destination>/<release>/cube.zarr          layers, their maps, and series, plain Zarr v3
    <destination>/<release>/*.parquet, *.png   series, scenes, preview

A release's name follows from its snapshot, so that a publication that was cut
short is finished under the same name, and one that is there is left alone.
"""

import datetime as dt
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import zarr
from dask.system import CPU_COUNT
from distributed import Client
from distributed.system import MEMORY_LIMIT

from alpage.archive.scene import describe
from alpage.archive.scenes import SceneList
from alpage.cube.place import is_local
from alpage.cube.store import FIRST_SNAPSHOT, CubeStore
from alpage.engine.report import Pace
from alpage.errors import CubeBusy, StorageError
from alpage.objectstore import on_s3, touch
from alpage.releases.contents import Contents
from alpage.releases.copy import METADATA, consolidated, copy_bytes, copy_groups
from alpage.releases.geozarr import geozarr_attributes
from alpage.releases.naming import COLLECTION, release_name
from alpage.releases.pieces import Address, Piece, Place, write_here, write_on
from alpage.releases.preview import draw_preview
from alpage.releases.pyramid import branches, outline, peak_bytes, pixel_bytes
from alpage.releases.series import write_series
from alpage.releases.shelf import Shelf, shelf_at
from alpage.releases.stac import (
    CUBE,
    MAPS,
    STORE,
    About,
    Issue,
    build_collection,
    pointer,
    public_href,
    public_text,
)

logger = logging.getLogger(__name__)

LARGE_BYTES = 16 * 2**30
"""Pixels that are worth a cluster: two cores take a minute for them, a cluster half to come."""

Workers = Callable[[Pace], AbstractContextManager[Client]]
"""Opens a cluster, whose size follows the pace."""


@dataclass(frozen=True)
class Release:
    """A published version of a cube."""

    id: str
    snapshot: str
    url: str
    """Its own folder: never changes."""
    store: str
    """Its Zarr store."""
    collection: str
    """The STAC Collection that readers open: always the newest release."""
    written: bool
    """Whether this call wrote it; False where it was there."""


def publish_release(
    cube_url: str,
    snapshot: str,
    destination: str,
    *,
    scenes: SceneList | None,
    about: About,
    workers: Workers | None = None,
) -> Release:
    """Return the release of a cube's snapshot, published if it was not yet.

    Parameters
    ----------
    cube_url, snapshot
        The cube, and which of its versions. The gate is the caller's.
    destination
        Folder or s3:// URL that holds the releases of this cube and of no other.
    scenes
        What the snapshot was made from, without the quarantined.
    about
        What readers are told besides.
    workers
        Opens a cluster for a large release. Threads of this process write a small one, and all
        where this is absent.

    Raises
    ------
    CubeError
        There is no such cube or snapshot.
    CubeBusy
        Another publication switched the pointer meanwhile.
    StorageError
        The destination cannot be written, or holds releases of something else.
    ClusterError
        The cluster could not be had, or was lost.
    """
    if on_s3(destination):
        touch(destination)
    cube = CubeStore.open(cube_url)
    return publish_on(shelf_at(destination), cube, snapshot, scenes, about, workers)


def publish_on(
    shelf: Shelf,
    cube: CubeStore,
    snapshot: str,
    scenes: SceneList | None,
    about: About,
    workers: Workers | None = None,
) -> Release:
    """Publish to a shelf, as `publish_release` does to a URL."""
    root = cube.read(snapshot=snapshot)
    created = cube.repository.lookup_snapshot(snapshot).written_at.astimezone(dt.UTC)
    name = release_name(created, snapshot)
    origin = _origin(cube)
    current = _current(shelf, about, origin)
    collection = shelf.read_json(f"{name}/{COLLECTION}")
    written = collection is None
    if collection is None:
        before = str(current["version"]) if current is not None else None
        n_scenes = None if scenes is None else len(scenes)
        issue = Issue(name, snapshot, origin, created, n_scenes, (), before)
        place = Place.of(root, shelf, f"{name}/{STORE}")
        collection = _write(place, cube.url, scenes, about, issue, workers)
    _switch(shelf, pointer(collection, name))
    return Release(
        id=name,
        snapshot=snapshot,
        url=shelf.href(name),
        store=shelf.href(f"{name}/{STORE}"),
        collection=shelf.href(COLLECTION),
        written=written,
    )


def _write(
    place: Place,
    cube: str,
    scenes: SceneList | None,
    about: About,
    issue: Issue,
    workers: Workers | None,
) -> dict[str, Any]:
    """Write everything below a release's prefix, its Collection last."""
    shelf, root, contents = place.shelf, place.root, place.contents
    _write_store(place, cube, issue, workers)
    files = _write_tables(shelf, root, contents, scenes, about, issue.release)
    if about.preview:
        picture = draw_preview(root, contents, about.preview, about.title)
        if picture is not None:
            shelf.put(f"{issue.release}/preview.png", picture)
            files += ("preview.png",)
    collection = build_collection(contents, about, replace(issue, files=files))
    shelf.put(f"{issue.release}/{COLLECTION}", _spelled(collection))
    return collection


def _write_store(place: Place, cube: str, issue: Issue, workers: Workers | None) -> None:
    """Write the Zarr store, the metadata of its root last."""
    shelf, target = place.shelf, place.target
    documents, copies = copy_groups(place, partial(_placed, place.contents, issue))
    maps = outline(place)
    turns = [list[Piece](turn) for turn in branches(place)]
    turns[0] += copies
    _write_pieces(place, turns, cube, issue.snapshot, workers)
    # Each pyramid is consolidated by itself too, as its convention has it.
    pyramids = {f"{MAPS}/{group.path}" for group in place.contents.layers}
    for key, content in maps.items():
        path = key.removesuffix(METADATA).strip("/")
        shelf.put(f"{target}/{key}", consolidated(maps, path) if path in pyramids else content)
    shelf.put(f"{target}/{METADATA}", consolidated(documents | maps))


def _write_pieces(
    place: Place,
    turns: list[list[Piece]],
    cube: str,
    snapshot: str,
    workers: Workers | None,
) -> None:
    n_bytes = pixel_bytes(place)
    logger.info(
        "release %s: %d pieces, %.1f GiB", place.target, sum(map(len, turns)), n_bytes / 2**30
    )
    if workers is None or n_bytes < LARGE_BYTES:
        peak = max(peak_bytes(place), copy_bytes(place), 1)
        n_threads = max(1, min(CPU_COUNT, MEMORY_LIMIT // 2 // peak))
        for pieces in turns:
            write_here(pieces, place, n_threads)
        return
    address = Address(cube, snapshot, place.shelf.url, place.target)
    pace = Pace(max(map(len, turns)))
    with workers(pace) as client:
        for number, pieces in enumerate(turns, 1):
            write_on(client, pieces, address, pace)
            logger.info("release %s: turn %d of %d is written", place.target, number, len(turns))


def _placed(
    contents: Contents, issue: Issue, path: str, document: Mapping[str, Any]
) -> dict[str, Any]:
    """What a node of the cube tells readers of a release besides."""
    placed = geozarr_attributes(contents.grid)
    if not path:
        told = document["attributes"]["alpage"]
        reasons = {name: public_text(why) for name, why in told["quarantined"].items()}
        told = {**told, "quarantined": reasons}
        return {**placed, "alpage": told, "release": issue.release, "snapshot": issue.snapshot}
    names = document.get("dimension_names") or ()
    is_placed = path in {group.path for group in contents.layers} or names[-2:] == ["y", "x"]
    return placed if is_placed else {}


def _write_tables(
    shelf: Shelf,
    root: zarr.Group,
    contents: Contents,
    scenes: SceneList | None,
    about: About,
    release: str,
) -> tuple[str, ...]:
    files = []
    with tempfile.TemporaryDirectory() as folder:
        for group in contents.series:
            file = Path(folder) / f"series-{group.calendar.value}.parquet"
            write_series(root, group, about.zones, file)
            files.append(file)
        if scenes:
            file = Path(folder) / "scenes.parquet"
            public = (_public(item) for item in scenes.items)
            SceneList.of((describe(item), item) for item in public).freeze(file)
            files.append(file)
        for file in files:
            shelf.put(f"{release}/{file.name}", file)
    return tuple(file.name for file in files)


def _public(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with `public_href`s, without links to files of this machine."""
    copy: dict[str, Any] = json.loads(json.dumps(item))
    # By its name alone, such a link would be to what lies beside the table.
    copy["links"] = [link for link in copy.get("links", ()) if not is_local(link.get("href", ""))]
    for holder in (*copy.get("assets", {}).values(), *copy["links"]):
        if "href" in holder:
            holder["href"] = public_href(holder["href"])
    return copy


def _origin(cube: CubeStore) -> dict[str, str]:
    """What tells a cube from others: one that was moved keeps when, one made anew keeps where."""
    first = cube.repository.lookup_snapshot(FIRST_SNAPSHOT)
    return {
        "made": f"{first.written_at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "place": hashlib.sha256(cube.url.encode()).hexdigest()[:16],
    }


def _current(shelf: Shelf, about: About, origin: Mapping[str, str]) -> dict[str, Any] | None:
    """What readers open now, where it is of the same cube."""
    current = shelf.read_json(COLLECTION)
    if current is None:
        return None
    found = str(current.get("id"))
    if found == about.id:
        # Earlier releases do not tell it: they are known by their name alone.
        told = current.get(CUBE, origin)
        if any(told[key] == origin[key] for key in origin):
            return current
        found = f"another cube of that name, made {told['made']} elsewhere"
    raise StorageError(
        f"release: expected {shelf.href(COLLECTION)} to be of {about.id}, it is of {found}; "
        "give each cube a place of its own"
    )


def _switch(shelf: Shelf, wanted: dict[str, Any]) -> None:
    """Make a release what readers open. The pointer is replaced whole or not at all."""
    content, found = _spelled(wanted), shelf.read(COLLECTION)
    if found is not None and found[0] == content:
        return
    if not shelf.replace(COLLECTION, content, found):
        raise CubeBusy(
            f"release: another publication switched {shelf.href(COLLECTION)} meanwhile; what "
            f"this one wrote is kept: publish again to make {wanted['version']} the newest"
        )


def _spelled(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
