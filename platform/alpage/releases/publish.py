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
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zarr

from alpage.archive.scene import describe
from alpage.archive.scenes import SceneList
from alpage.cube.place import is_local
from alpage.cube.store import FIRST_SNAPSHOT, CubeStore
from alpage.errors import CubeBusy, StorageError
from alpage.objectstore import on_s3, touch
from alpage.releases.contents import Contents, read_contents
from alpage.releases.copy import METADATA, consolidated, copy_groups
from alpage.releases.geozarr import geozarr_attributes
from alpage.releases.naming import COLLECTION, release_name
from alpage.releases.preview import draw_preview
from alpage.releases.pyramid import write_maps
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

    Raises
    ------
    CubeError
        There is no such cube or snapshot.
    CubeBusy
        Another publication switched the pointer meanwhile.
    StorageError
        The destination cannot be written, or holds releases of something else.
    """
    if on_s3(destination):
        touch(destination)
    return publish_on(shelf_at(destination), CubeStore.open(cube_url), snapshot, scenes, about)


def publish_on(
    shelf: Shelf, cube: CubeStore, snapshot: str, scenes: SceneList | None, about: About
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
        collection = _write(shelf, root, scenes, about, issue)
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
    shelf: Shelf, root: zarr.Group, scenes: SceneList | None, about: About, issue: Issue
) -> dict[str, Any]:
    """Write everything below a release's prefix, its Collection last."""
    contents = read_contents(root)
    _copy_store(shelf, root, contents, issue)
    files = _write_tables(shelf, root, contents, scenes, about, issue.release)
    if about.preview:
        picture = draw_preview(root, contents, about.preview, about.title)
        if picture is not None:
            shelf.put(f"{issue.release}/preview.png", picture)
            files += ("preview.png",)
    collection = build_collection(contents, about, replace(issue, files=files))
    shelf.put(f"{issue.release}/{COLLECTION}", _spelled(collection))
    return collection


def _copy_store(shelf: Shelf, root: zarr.Group, contents: Contents, issue: Issue) -> None:
    placed = geozarr_attributes(contents.grid)
    calendars = {group.path for group in contents.layers}

    def amend(path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        if not path:
            told = document["attributes"]["alpage"]
            reasons = {name: public_text(why) for name, why in told["quarantined"].items()}
            told = {**told, "quarantined": reasons}
            return {
                **placed,
                "alpage": told,
                "release": issue.release,
                "snapshot": issue.snapshot,
            }
        names = document.get("dimension_names") or ()
        return placed if path in calendars or tuple(names[-2:]) == ("y", "x") else {}

    target = f"{issue.release}/{STORE}"
    layers = tuple(
        f"{group.path}/{one.name}" for group in contents.layers for one in group.variables
    )
    documents = copy_groups(root, contents.top_groups, layers, shelf, target, amend)
    maps = write_maps(root, contents, shelf, target)
    # Each pyramid by itself too, as its convention has it; the root comes last.
    whole = {f"{MAPS}/{group.path}" for group in contents.layers}
    documents |= maps
    for key in maps:
        path = key.removesuffix(METADATA).strip("/")
        shelf.put(f"{target}/{key}", consolidated(maps, path) if path in whole else maps[key])
    shelf.put(f"{target}/{METADATA}", consolidated(documents))


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
