"""Search an archive: the scenes of an area and a period, frozen, each refusal told by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from alpage.archive.fetch import TrustedIO
from alpage.archive.footprint import cut_at_antimeridian
from alpage.archive.scene import Scene, describe
from alpage.archive.scenes import SceneList, canonical, deduplicate
from alpage.archive.sources import Record, Wanted, open_source
from alpage.archive.trust import TrustPolicy, as_location, mask
from alpage.errors import ArchiveError, SceneError, UntrustedHref
from alpage.settings import Settings, settings

_TOLD_REJECTIONS = 3
_TIMEOUT_S = 60.0
_RETRIES = 8


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    ``rejected`` are (id, reason) of items that could not be used, ``duplicates`` the ids of
    older processings that newer ones replace.
    """

    scenes: SceneList
    rejected: tuple[tuple[str, str], ...]
    duplicates: tuple[str, ...]


def search_archive(
    archive: str,
    *,
    collection: str | None,
    geometry: BaseGeometry,
    period: tuple[date, date],
    operator: Settings | None = None,
) -> SearchResult:
    """Return the scenes of an archive that meet an area in a period.

    Parameters
    ----------
    archive
        A static ``collection.json`` or ``catalog.json``, a STAC API, or a stac-geoparquet file;
        a path, or a URL with https or s3 (http on loopback).
    collection
        Its id; needed for an API, a filter elsewhere.
    geometry
        The area in EPSG:4326; longitudes beyond ±180° mean the other side of the antimeridian.
    period
        First and last solar day, both included.
    operator
        The installation's settings, whose allowed hosts and buckets hold; from the environment
        if absent.

    Raises
    ------
    ArchiveError
        The archive cannot be searched, or nothing in it is usable; tells what it covers.
    UntrustedHref
        The archive's own address is not allowed.
    """
    if geometry.is_empty:
        raise ArchiveError("expected an area to search, got an empty geometry")
    archive = as_location(archive)
    operator = operator or settings()
    trust = TrustPolicy(
        hosts=operator.allowed_hosts,
        buckets=operator.allowed_buckets,
        plain_http_hosts=operator.plain_http_hosts or (),
    )
    trust.check(archive, archive)
    wanted = Wanted(collection, cut_at_antimeridian(geometry), *period)
    shapely.prepare(wanted.geometry)
    io = TrustedIO(trust, archive, timeout_s=_TIMEOUT_S, retries=_RETRIES)
    source = open_source(archive, io, wanted)
    chosen: dict[Scene, Mapping[str, Any]] = {}
    rejected = []
    looked_at = 0
    for record in source.records(wanted):
        looked_at += 1
        try:
            if found := _choose(record, wanted, trust, archive):
                chosen.setdefault(*found)
        except SceneError as error:
            rejected.append((record.name, error.reason))
        except UntrustedHref as error:
            rejected.append((record.name, str(error)))
    if not chosen:
        raise ArchiveError(_nothing(archive, wanted, looked_at, rejected) + source.extent())
    kept, dropped = deduplicate(chosen)
    _check_names(kept)
    return SearchResult(
        SceneList.of((scene, chosen[scene]) for scene in kept),
        tuple(rejected),
        tuple(scene.id for scene in dropped),
    )


def _choose(
    record: Record, wanted: Wanted, trust: TrustPolicy, archive: str
) -> tuple[Scene, Mapping[str, Any]] | None:
    """The record's scene and item to keep, None if it lies elsewhere or at another time."""
    if record.item is None:
        raise SceneError(record.name, record.reason)
    scene = describe(record.item, record.base_href)
    if not wanted.first <= scene.solar_day <= wanted.last:
        return None
    if not wanted.geometry.intersects(scene.footprint):
        return None
    for asset in scene.assets.values():
        trust.check(asset.href, archive)
    return scene, canonical(record.item, record.base_href, scene.footprint.bounds)


def _check_names(scenes: Iterable[Scene]) -> None:
    """Raises ArchiveError for scenes of one id: headers, quarantine and record go by it."""
    collections: dict[str, str] = {}
    for scene in scenes:
        if (other := collections.setdefault(scene.id, scene.collection)) != scene.collection:
            raise ArchiveError(
                f"collections {other} and {scene.collection} both have an item {scene.id}: name one"
                " of them in the study, collection: ..."
            )


def _nothing(archive: str, wanted: Wanted, looked_at: int, rejected: list[tuple[str, str]]) -> str:
    bounds = ", ".join(f"{edge:.3f}" for edge in wanted.geometry.bounds)
    told = "; ".join(f"{name}: {reason}" for name, reason in rejected[:_TOLD_REJECTIONS])
    refused = f" {len(rejected)} of them unusable ({told})." if rejected else ""
    return (
        f"no scene of {wanted.collection or 'any collection'} in {mask(archive)} meets"
        f" ({bounds}) from {wanted.first} to {wanted.last}. {looked_at} items were looked at."
        f"{refused} Check area, period and collection. The archive covers "
    )
