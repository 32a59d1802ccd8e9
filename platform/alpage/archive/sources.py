"""Three kinds of archive, one stream of records: static catalogue, STAC API, stac-geoparquet."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

import pystac_client
import shapely
from pystac_client.exceptions import APIError
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry

from alpage.archive.fetch import TrustedIO
from alpage.archive.scene import absolute_href
from alpage.archive.trust import mask
from alpage.errors import ArchiveError

_PARQUET_SUFFIXES = (".parquet", ".geoparquet")
_READERS = 16
_PAGE = 100


@dataclass(frozen=True)
class Record:
    """An item and where it was read; or its name and why it could not be."""

    name: str
    base_href: str
    item: Mapping[str, Any] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is searched for. Days are solar days, both included; geometry is in EPSG:4326."""

    collection: str | None
    geometry: BaseGeometry
    first: date
    last: date

    @property
    def instants(self) -> tuple[datetime, datetime]:
        """UTC bounds that hold every scene of these solar days, whatever its longitude.

        Half a day would do, but for items whose hour is not told and stands at midnight.
        """
        margin = timedelta(days=1)
        start = datetime.combine(self.first, time.min, UTC) - margin
        return start, datetime.combine(self.last, time.max, UTC) + margin


class Source(Protocol):
    """An opened archive."""

    def records(self, wanted: Wanted) -> Iterator[Record]:
        """Yield at least every item that may be wanted; the caller filters exactly."""

    def extent(self) -> str:
        """Return what the archive says it covers, for people."""


def open_source(archive: str, io: TrustedIO, wanted: Wanted) -> Source:
    """Return the archive opened as what it is: told by its suffix, else by its document.

    Raises
    ------
    ArchiveError
        It cannot be read, is no STAC, or is an API and no collection is named.
    """
    if urlsplit(archive).path.lower().endswith(_PARQUET_SUFFIXES):
        return ParquetSource(archive, io)
    document = io.read_document(archive)
    kind = document.get("type") or ("Catalog" if "links" in document else None)
    links = [link for link in document.get("links") or () if isinstance(link, Mapping)]
    if kind == "Catalog" and any(link.get("rel") == "search" for link in links):
        return ApiSource(archive, io, wanted)
    if kind not in ("Catalog", "Collection"):
        raise ArchiveError(
            f"{mask(archive)} is a {kind or 'document without type'}: expected a STAC API,"
            " a static catalog.json or collection.json, or a stac-geoparquet file (.parquet)"
        )
    if not any(link.get("rel") in ("item", "child") for link in links):
        raise ArchiveError(
            f"{mask(archive)} links to no item and no child: for a collection of a STAC API,"
            " give the API's address and name the collection"
        )
    return StaticSource(archive, io, document)


@dataclass
class StaticSource:
    """A tree of STAC files. What cannot be read is told by name, the rest goes on."""

    archive: str
    io: TrustedIO
    root: Mapping[str, Any]
    extents: list[str] = field(default_factory=list)

    def records(self, wanted: Wanted) -> Iterator[Record]:
        """Yield every item of the tree, of the named collection if there is one."""
        waiting = [(self.archive, self.root)]
        seen = {self.archive}
        with ThreadPoolExecutor(_READERS) as pool:
            while waiting:
                href, document = waiting.pop()
                is_collection = document.get("type") == "Collection"
                if is_collection:
                    self.extents.append(_tell_extent(document))
                    if wanted.collection not in (None, document.get("id")):
                        continue
                for record in pool.map(self._read_item, _linked(document, href, "item")):
                    if is_collection or _is_of(record.item, wanted.collection):
                        yield record
                for child in _linked(document, href, "child"):
                    if child in seen:
                        continue
                    seen.add(child)
                    try:
                        waiting.append((child, self.io.read_document(child)))
                    except ArchiveError as error:
                        yield Record(_stem(child), child, reason=str(error))

    def _read_item(self, href: str) -> Record:
        try:
            document = self.io.read_document(href)
        except ArchiveError as error:
            return Record(_stem(href), href, reason=str(error))
        return Record(str(document.get("id") or _stem(href)), href, document)

    def extent(self) -> str:
        """Return the extents of the collections that were met."""
        return "; ".join(self.extents) or "not told"


class ApiSource:
    """A STAC API, asked page by page."""

    def __init__(self, archive: str, io: TrustedIO, wanted: Wanted) -> None:
        if wanted.collection is None:
            raise ArchiveError(f"{mask(archive)} is a STAC API: name the collection to search")
        self.archive = archive
        self.collection = wanted.collection
        self._io = io
        try:
            self._client = pystac_client.Client.open(archive, stac_io=io, timeout=io.timeout)
        except (APIError, OSError, TypeError, KeyError, ValueError) as error:
            raise ArchiveError(
                f"{mask(archive)} cannot be opened as STAC API: {type(error).__name__}"
            ) from error

    def records(self, wanted: Wanted) -> Iterator[Record]:
        """Yield the items of the collection that the API finds, following its pages."""
        start, end = wanted.instants
        try:
            found = self._client.search(
                collections=[self.collection],
                # Boxes, whatever the area's shape: one small request, and exact filtering after.
                intersects=mapping(_boxes(wanted.geometry)),
                datetime=(start, end),
                limit=_PAGE,
            )
            for item in found.items_as_dicts():
                yield Record(
                    str(item.get("id") or "(without id)"), _self_href(item, self.archive), item
                )
        except (
            APIError,
            AttributeError,
            KeyError,
            NotImplementedError,
            OSError,
            TypeError,
            ValueError,
        ) as error:
            raise ArchiveError(
                f"{mask(self.archive)} cannot be searched: {type(error).__name__}"
            ) from error

    def extent(self) -> str:
        """Return the extent of the collection, as the API tells it."""
        href = f"{self.archive.rstrip('/')}/collections/{self.collection}"
        try:
            return _tell_extent(self._io.read_document(href))
        except ArchiveError as error:
            return f"not told ({error})"


@dataclass
class ParquetSource:
    """A stac-geoparquet file."""

    archive: str
    io: TrustedIO

    def records(self, wanted: Wanted) -> Iterator[Record]:
        """Yield the items of the period, and those that name no time."""
        for item in self._items(wanted.instants):
            if _is_of(item, wanted.collection):
                yield Record(str(item.get("id") or "(without id)"), self.archive, item)

    def extent(self) -> str:
        """Return the bounds and times of all items in the file."""
        items = self._items()
        if not items:
            return "no items"
        times = sorted(str(item["properties"].get("datetime") or "") for item in items)
        boxes = [item["bbox"] for item in items if item.get("bbox")]
        bounds = shapely.total_bounds(
            [box(*edges[:2], *edges[len(edges) // 2 :][:2]) for edges in boxes]
        )
        names = ", ".join(sorted({str(item.get("collection")) for item in items}))
        return f"{names}: {_tell_bounds(bounds.tolist())}, {times[0]} to {times[-1]}"

    def _items(self, instants: tuple[datetime, datetime] | None = None) -> list[dict[str, Any]]:
        from alpage.archive.tables import read_items

        return read_items(self.io.read_bytes(self.archive), mask(self.archive), instants)


def _is_of(item: Mapping[str, Any] | None, collection: str | None) -> bool:
    return item is None or collection in (None, item.get("collection"))


def _linked(document: Mapping[str, Any], href: str, relation: str) -> list[str]:
    links = [link for link in document.get("links") or () if isinstance(link, Mapping)]
    hrefs = [link.get("href") for link in links if link.get("rel") == relation]
    return [absolute_href(found, href) for found in hrefs if isinstance(found, str)]


def _self_href(item: Mapping[str, Any], otherwise: str) -> str:
    return next(iter(_linked(item, otherwise, "self")), otherwise)


def _stem(href: str) -> str:
    return PurePosixPath(urlsplit(href).path).stem


def _boxes(geometry: BaseGeometry) -> BaseGeometry:
    west, south, east, north = geometry.bounds
    if east - west <= 180:
        return box(west, south, east, north)
    # An area on both sides of the antimeridian is cut there: one box for each side.
    halves = [geometry.intersection(box(edge, -90, edge + 180, 90)) for edge in (-180, 0)]
    return shapely.union_all([box(*half.bounds) for half in halves if not half.is_empty])


def _tell_extent(document: Mapping[str, Any]) -> str:
    extent = document.get("extent") or {}
    try:
        bounds = extent["spatial"]["bbox"][0]
        start, end = extent["temporal"]["interval"][0]
    except (KeyError, IndexError, TypeError, ValueError):
        return f"{document.get('id')}: not told"
    return f"{document.get('id')}: {_tell_bounds(bounds)}, {start or '...'} to {end or 'now'}"


def _tell_bounds(bounds: Sequence[float]) -> str:
    return "(" + ", ".join(f"{edge:.3f}" for edge in bounds) + ")"
