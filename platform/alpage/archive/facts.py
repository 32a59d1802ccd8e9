"""What a STAC item says of itself, read alike from every catalogue's way of writing it.

Fields that an item lacks come back as empty strings (None for the CRS): archives differ, and
only the time, the place and the imagery are indispensable.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_PRODUCT_KEYS = ("s2:product_uri", "sentinel:product_id", "product:id", "title")
_SENTINEL_PRODUCT = re.compile(
    r"S2[A-D]_MSIL2A_(?P<start>\d{8}T\d{6})_(?:N(?P<baseline>\d{4})_)?R(?P<orbit>\d{3})"
    r"_T(?P<tile>\d{2}[A-Z]{3})_(?P<made>\d{8}T\d{6})"
)
_LANDSAT_PRODUCT = re.compile(
    r"L[A-Z]\d{2}_L\w{3}_(?P<path>\d{3})(?P<row>\d{3})_(?P<day>\d{8})_(?:\d{8}_)?(?P<number>\d{2})"
)
_MGRS = re.compile(r"(?:MGRS-)?T?(?P<zone>\d{1,2})(?P<square>[C-X][A-Z]{2})$")
_SHORT_PLATFORM = re.compile(r"s2([a-d])")
_UPDATED_KEYS = ("updated", "s2:generation_time", "processing:datetime", "created")

_FIRST_YEAR, _LAST_YEAR = 1957, 2200

Item = Mapping[str, Any]


def properties(item: Item) -> Mapping[str, Any]:
    """Return the item's properties, an empty mapping where there are none."""
    found = item.get("properties")
    return found if isinstance(found, Mapping) else {}


def text(item: Item, *keys: str) -> str:
    """Return the first of the properties that is given, as text, or ''.

    >>> text({"properties": {"landsat:wrs_path": 81}}, "none", "landsat:wrs_path")
    '81'
    """
    values = (properties(item).get(key) for key in keys)
    return next((str(v) for v in values if isinstance(v, (str, int, float)) and v != ""), "")


def platform(item: Item) -> str:
    """Return the platform in lower case with hyphens, of whichever spelling.

    >>> [platform({"properties": {"platform": p}}) for p in ("S2A", "LANDSAT_8", "Sentinel-2B")]
    ['sentinel-2a', 'landsat-8', 'sentinel-2b']
    """
    raw = text(item, "platform", "eo:platform", "constellation").lower()
    raw = re.sub(r"[ _]", "-", raw)
    return _SHORT_PLATFORM.sub(r"sentinel-2\1", raw) if len(raw) == 3 else raw


def level_text(item: Item) -> str:
    """Return the names of an item in which its processing level shows, in lower case."""
    named = (str(item.get("id") or ""), str(item.get("collection") or ""))
    stated = (
        text(item, key)
        for key in ("s2:product_type", "product:type", "landsat:correction", "processing:level")
    )
    return " ".join((*named, *stated, *(text(item, key) for key in _PRODUCT_KEYS))).lower()


def sensing_time(item: Item) -> datetime | None:
    """Return the item's ``datetime`` in UTC, None where it is absent or null.

    Raises
    ------
    ValueError
        It is there and is no time.
    """
    raw = text(item, "datetime")
    return parse_time(raw) if raw else None


def parse_time(raw: str) -> datetime:
    """Return a time of RFC 3339, or near it, in UTC. A time without zone is taken as UTC.

    >>> parse_time("2020-02-19T12:00:00+01:00").isoformat()
    '2020-02-19T11:00:00+00:00'
    """
    # Workers read this module, and no times.
    from pystac.utils import str_to_datetime

    try:
        when = str_to_datetime(raw)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{raw[:40]!r} is not a time") from error
    if not _FIRST_YEAR <= when.year <= _LAST_YEAR:
        raise ValueError(f"{raw[:40]!r} is no time of a satellite")
    return when


def baseline(item: Item) -> str:
    """Return the processing baseline ('05.11'), or Landsat's collection number ('02'), or ''."""
    stated = text(
        item,
        "s2:processing_baseline",
        "sentinel:processing_baseline",
        "landsat:collection_number",
        "processing:version",
    )
    if stated:
        return stated
    if found := product(item):
        number = found.get("baseline") or ""
        return f"{number[:2]}.{number[2:]}" if number else ""
    landsat = _LANDSAT_PRODUCT.search(str(item.get("id") or ""))
    return landsat["number"] if landsat else ""


def product(item: Item) -> dict[str, str]:
    """Return the parts of the longest Sentinel-2 product name the item holds; empty without one.

    >>> product({"id": "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531"})["start"]
    '20190629T212529'
    """
    names = (str(item.get("id") or ""), *(text(item, key) for key in _PRODUCT_KEYS))
    matches = [found for name in names if (found := _SENTINEL_PRODUCT.search(name))]
    best = max(matches, key=lambda found: len(found[0]), default=None)
    return {key: value or "" for key, value in best.groupdict().items()} if best else {}


def orbit(item: Item) -> str:
    """Return the relative orbit (for Landsat the WRS path) without leading zeros, or ''."""
    found = text(item, "sat:relative_orbit") or product(item).get("orbit", "")
    if not found and platform(item).startswith("landsat"):
        found = tile(item)[:3]
    return found.removesuffix(".0").lstrip("0")


def tile(item: Item) -> str:
    """Return the MGRS tile ('06VVN') or WRS path and row ('028030'), or ''."""
    path, row = text(item, "landsat:wrs_path"), text(item, "landsat:wrs_row")
    if path and row:
        return path.zfill(3) + row.zfill(3)
    if landsat := _LANDSAT_PRODUCT.search(str(item.get("id") or "")):
        return landsat["path"] + landsat["row"]
    pieces = [
        "".join(
            text(item, f"{prefix}:{key}") for key in ("utm_zone", "latitude_band", "grid_square")
        )
        for prefix in ("mgrs", "sentinel")
    ]
    for candidate in (text(item, "grid:code"), text(item, "s2:mgrs_tile"), *pieces):
        if found := _MGRS.match(candidate):
            return found["zone"].zfill(2) + found["square"]
    return product(item).get("tile", "")


def acquired(item: Item, when: datetime) -> str:
    """Return the moment that stays the same when the acquisition is processed again.

    Sentinel-2: the start of the datatake, because a granule's own time moves by some
    milliseconds between baselines. Landsat: the day, as a path and row is seen once in 16.
    Elsewhere the sensing time to the second.
    """
    if start := product(item).get("start"):
        return start
    if landsat := _LANDSAT_PRODUCT.search(str(item.get("id") or "")):
        return landsat["day"]
    return when.strftime("%Y%m%dT%H%M%S")


def updated(item: Item) -> str:
    """Return when the item was last changed or made, in one spelling (UTC), or ''.

    >>> updated({"properties": {"updated": "2022-11-06T09:32:34.081877+00:00"}})
    '2022-11-06T09:32:34.081877Z'
    """
    for key in _UPDATED_KEYS:
        if raw := text(item, key):
            try:
                return spell_time(parse_time(raw))
            except ValueError:
                continue
    return ""


def spell_time(when: datetime) -> str:
    """Return a UTC time as RFC 3339 with microseconds."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def epsg(holder: Mapping[str, Any]) -> int | None:
    """Return the EPSG number in ``proj:code`` or ``proj:epsg`` of properties or an asset.

    >>> epsg({"proj:code": "EPSG:32631"})
    32631
    """
    code = str(holder.get("proj:code") or "").upper()
    number = code.removeprefix("EPSG:") if code.startswith("EPSG:") else holder.get("proj:epsg")
    try:
        return int(number) if number else None
    except (OverflowError, TypeError, ValueError):
        return None


def raster_band(asset: Mapping[str, Any], key: str) -> float | None:
    """Return scale, offset or nodata of an asset's only band, wherever STAC keeps it.

    STAC 1.1 writes them in the asset or its ``bands`` (``raster:scale``), earlier versions in
    ``raster:bands`` (``scale``). None where the item does not say.
    """
    values = [asset.get(f"raster:{key}"), asset.get(key) if key == "nodata" else None]
    for name in ("bands", "raster:bands"):
        listed = asset.get(name)
        if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], Mapping):
            values += [listed[0].get(f"raster:{key}"), listed[0].get(key)]
    numbers = (v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool))
    return next((float(value) for value in numbers if math.isfinite(value)), None)


def checksum(asset: Mapping[str, Any]) -> str:
    """Return the checksum the item gives for an asset's bytes, or ''."""
    return str(asset.get("file:checksum") or asset.get("checksum:multihash") or "")


def pruned(value: Any) -> Any:
    """Return a copy of JSON without nulls and empty objects: a parquet column keeps neither.

    >>> pruned({"a": None, "b": [{"c": {}}], "d": 0})
    {'b': [{}], 'd': 0}
    """
    if isinstance(value, dict):
        kept = {key: pruned(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not None and inner != {}}
    if isinstance(value, (list, tuple)):
        return [pruned(inner) for inner in value]
    return value
