"""The scene list: the frozen answer of a search, and the order in which scenes are laid."""

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpage.archive import facts
from alpage.archive.scene import Asset, Scene, absolute_href, describe
from alpage.archive.sensors import SENSORS
from alpage.errors import ArchiveError
from alpage.files import replacing
from alpage.objectstore import on_s3, read_object, write_object

__all__ = [
    "Asset",
    "Scene",
    "SceneList",
    "canonical",
    "deduplicate",
    "mosaic_order",
]

# Of a copy's footprint this much must be seen by newer ones before it is dropped: the two parts
# of a tile that a datatake delivers in two datastrips share name and time, but hardly any ground.
DUPLICATE_COVER = 0.95

_TOP_LEVEL = frozenset({"id", "type", "collection", "geometry", "bbox", "links", "assets"})
_TIME_KEYS = (
    "datetime",
    "start_datetime",
    "end_datetime",
    "created",
    "updated",
    "expires",
    "published",
    "unpublished",
)


@dataclass(frozen=True)
class SceneList:
    """Scenes by (datetime, id), and the STAC items they come from, in the same order."""

    scenes: tuple[Scene, ...]
    items: tuple[Mapping[str, Any], ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, pairs: Iterable[tuple[Scene, Mapping[str, Any]]]) -> "SceneList":
        """Return the list of these scenes with their items, sorted."""
        ordered = sorted(pairs, key=lambda pair: (pair[0].datetime, pair[0].id, pair[0].collection))
        return cls(tuple(scene for scene, _ in ordered), tuple(item for _, item in ordered))

    @property
    def digest(self) -> str:
        """A digest of every id and revision: the same for the same imagery, however found."""
        told = json.dumps([(scene.collection, scene.id, scene.revision) for scene in self.scenes])
        return hashlib.sha256(told.encode()).hexdigest()

    def without(self, ids: Collection[str]) -> "SceneList":
        """Return the list without the scenes of these ids: the quarantined ones."""
        pairs = zip(self.scenes, self.items, strict=True)
        return SceneList.of(pair for pair in pairs if pair[0].id not in ids)

    def freeze(self, path: str | Path) -> None:
        """Write the items as stac-geoparquet to a path or s3:// URL, whole or not at all.

        The file is read back before it takes its name, so that what a run is later rebuilt from
        is what this run used.

        Raises
        ------
        ArchiveError
            The list is empty, or its items cannot be held in one table.
        StorageError
            The object store does not take it.
        """
        from alpage.archive.tables import read_items, write_items

        if on_s3(path):
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, Path(path).name)
                self.freeze(copy)
                write_object(str(path), copy)
            return
        path = Path(path)
        if not self.items:
            raise ArchiveError(f"an empty scene list cannot be frozen in {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            write_items(self.items, scratch)
            back = read_items(scratch, path.name)
            # Items that came back as they were need not be understood anew.
            if back != list(self.items) and _listed(back).digest != self.digest:
                raise ArchiveError(
                    f"{path.name} does not give back the scenes it was written from;"
                    " the items hold fields that stac-geoparquet cannot keep"
                )

    @classmethod
    def load(cls, path: str | Path) -> "SceneList":
        """Return the list as it was frozen, or that of any stac-geoparquet file.

        Raises
        ------
        ArchiveError
            The file is not stac-geoparquet.
        SceneError
            One of its items is no usable scene.
        StorageError
            The object store cannot be read.
        """
        from alpage.archive.tables import read_items

        items = read_items(read_object(str(path)) if on_s3(path) else Path(path), str(path))
        return _listed(items)

    def __len__(self) -> int:
        return len(self.scenes)


def _listed(items: Iterable[Mapping[str, Any]]) -> SceneList:
    return SceneList.of((describe(item), item) for item in items)


def canonical(item: Mapping[str, Any], base_href: str | None, bounds: tuple[float, ...]) -> Any:
    """Return a copy of a scene's item fit for a table: whole hrefs, times in UTC, nothing empty.

    ``bounds`` (west, south, east, north) stand in for a missing or three-dimensional bbox.
    """
    copy: dict[str, Any] = facts.pruned(item)
    links = copy.get("links")
    listed = links if isinstance(links, list) else []
    copy["links"] = [link for link in listed if isinstance(link, dict) and "href" in link]
    for holder in (*copy["assets"].values(), *copy["links"]):
        if isinstance(holder.get("href"), str):
            holder["href"] = absolute_href(holder["href"], base_href)
    # A table keeps properties beside the item's own fields: what both name, only one can have.
    for key in _TOP_LEVEL.intersection(copy["properties"]):
        del copy["properties"][key]
    for key in _TIME_KEYS:
        if raw := facts.text(copy, key):
            try:
                copy["properties"][key] = facts.spell_time(facts.parse_time(raw))
            except ValueError:
                del copy["properties"][key]
    bbox = copy.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        bbox = bounds
    copy["bbox"] = [float(edge) for edge in bbox]
    copy.setdefault("type", "Feature")
    copy.setdefault("stac_version", "1.0.0")
    return copy


def deduplicate(scenes: Iterable[Scene]) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Return the scenes to use and the older copies dropped, each in the order they came.

    Of one acquisition the newest processing is kept: highest baseline, then ``updated``, then
    id. An older copy stays where the newer ones leave more than 5 % of its ground unseen, but
    where the newer one has its name.
    """
    listed = list(scenes)
    copies: dict[tuple[str, ...], list[Scene]] = defaultdict(list)
    for scene in listed:
        copies[scene.acquisition].append(scene)
    dropped: set[int] = set()
    for group in copies.values():
        seen = None
        for scene in sorted(group, key=_recency, reverse=True):
            if seen is not None and _is_covered(scene, seen):
                dropped.add(id(scene))
            else:
                seen = scene.footprint if seen is None else seen.union(scene.footprint)
    named: dict[tuple[str, str], Scene] = {}
    for scene in sorted(listed, key=_recency, reverse=True):
        name = scene.collection, scene.id
        if id(scene) not in dropped and named.setdefault(name, scene) is not scene:
            dropped.add(id(scene))
    kept = tuple(scene for scene in listed if id(scene) not in dropped)
    return kept, tuple(scene for scene in listed if id(scene) in dropped)


def _is_covered(scene: Scene, seen: Any) -> bool:
    area: float = scene.footprint.area
    return bool(scene.footprint.intersection(seen).area >= DUPLICATE_COVER * area)


def _recency(scene: Scene) -> tuple[tuple[int, ...], str, str]:
    steps = scene.baseline.split(".")
    numbers = tuple(int(step) for step in steps) if all(s.isdecimal() for s in steps) else ()
    return numbers, scene.updated, scene.id


def mosaic_order(scenes: Iterable[Scene], crs: int | None) -> tuple[Scene, ...]:
    """Return scenes of one solar day in the order they are laid; the first valid pixel wins.

    Passes (platform, orbit) of finer sensors first, then by their first sensing time; within a
    pass the scenes already in ``crs`` (an EPSG number), which need no resampling; then by tile,
    newest processing first, then id.
    """
    listed = sorted(_newest_first(scenes), key=lambda scene: scene.tile)
    listed.sort(key=lambda scene: scene.crs != crs)
    passes: dict[tuple[Any, ...], list[Scene]] = defaultdict(list)
    for scene in listed:
        passes[scene.group].append(scene)
    ordered = sorted(
        passes.items(),
        key=lambda entry: (
            min(SENSORS[s.sensor].resolution_m(("red",)) for s in entry[1]),
            min(s.datetime for s in entry[1]),
            entry[0],
        ),
    )
    return tuple(scene for _, group in ordered for scene in group)


def _newest_first(scenes: Iterable[Scene]) -> list[Scene]:
    by_id = sorted(scenes, key=lambda scene: scene.id)
    return sorted(by_id, key=lambda scene: _recency(scene)[:2], reverse=True)
