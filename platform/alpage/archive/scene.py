"""One scene: what the cube needs of a STAC item, immutable and checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from shapely.geometry.base import BaseGeometry

from alpage.archive import facts
from alpage.archive.footprint import centre_longitude, read_footprint
from alpage.archive.radiometry import offset_for
from alpage.archive.sensors import (
    QUALITY,
    QUALITY_BANDS,
    SATURATION,
    SENSORS,
    Sensor,
    recognise,
)
from alpage.errors import SceneError

if TYPE_CHECKING:
    import pystac

_DEGREES_PER_HOUR = 15.0
_REVISION_LENGTH = 32


@dataclass(frozen=True)
class Asset:
    """One band's image: reflectance × 10⁴ = DN·gain + offset, where DN is not ``nodata``."""

    href: str
    band: str
    gain: float
    offset: float
    nodata: float


@dataclass(frozen=True)
class Scene:
    """One item of the archive. Equal scenes hold equal pixels, by what the item tells.

    ``revision`` changes with the item's update time, baseline, checksums, hrefs (without their
    queries, which only sign them), radiometry, time and CRS. ``acquisition`` is what reprocessed
    copies of one image share. ``orbit``, ``tile``, ``baseline`` and ``updated`` are empty where
    the item does not tell.
    """

    id: str
    collection: str
    sensor: str
    datetime: datetime
    platform: str
    orbit: str
    tile: str
    baseline: str
    updated: str
    revision: str
    acquisition: tuple[str, ...]
    crs: int | None
    footprint: BaseGeometry
    assets: Mapping[str, Asset] = field(hash=False)
    warnings: tuple[str, ...] = ()

    @cached_property
    def solar_day(self) -> date:
        """The day at the scene's middle by the sun: one pass is one day at every longitude."""
        hours = centre_longitude(self.footprint) / _DEGREES_PER_HOUR
        return (self.datetime + timedelta(hours=hours)).date()

    @property
    def group(self) -> tuple[date, str, str]:
        """Scenes of one group are one pass, laid together in a mosaic."""
        return (self.solar_day, self.platform, self.orbit)


def describe(item: "pystac.Item | Mapping[str, Any]", base_href: str | None = None) -> Scene:
    """Return the scene a STAC item tells of.

    Parameters
    ----------
    item
        Of any STAC version from 0.7; only time, geometry and imagery are indispensable.
    base_href
        Where the item was read: relative asset hrefs start there.

    Raises
    ------
    SceneError
        Names what is missing: the sensor, the time, the geometry, or every usable asset.
    """
    if not isinstance(item, Mapping):
        base_href = base_href or item.get_self_href()
        item = item.to_dict(include_self_link=False, transform_hrefs=False)
    name = str(item.get("id") or "(without id)")
    assets_told = item.get("assets") or {}
    if not isinstance(assets_told, Mapping) or not all(
        isinstance(asset, Mapping) for asset in assets_told.values()
    ):
        raise SceneError(name, "its assets are no mapping of names to assets")
    sensor = recognise(item)
    if sensor is None:
        raise SceneError(name, _unknown(item))
    try:
        when = facts.sensing_time(item)
        footprint = read_footprint(item.get("geometry"))
    except ValueError as error:
        raise SceneError(name, str(error)) from error
    if when is None:
        raise SceneError(name, "it has no datetime: start and end alone do not place it on a day")
    when, assumed = _moment(when, footprint, sensor)
    assets, warnings = _read_assets(item, sensor, base_href)
    if assets.keys() <= set(QUALITY_BANDS):
        names = " or ".join(sensor.bands["red"].assets)
        raise SceneError(
            name, f"none of its assets is a reflectance band of {sensor.key}, as red is {names}"
        )
    crs = _crs(item, sensor)
    platform, tile, baseline, updated = (
        read(item) for read in (facts.platform, facts.tile, facts.baseline, facts.updated)
    )
    place = tile or f"{footprint.centroid.x:.2f},{footprint.centroid.y:.2f}"
    return Scene(
        id=name,
        collection=str(item.get("collection") or ""),
        sensor=sensor.key,
        datetime=when,
        platform=platform,
        orbit=facts.orbit(item),
        tile=tile,
        baseline=baseline,
        updated=updated,
        revision=_revision(item, sensor, assets, (baseline, updated, facts.spell_time(when), crs)),
        acquisition=(sensor.key, platform, place, facts.acquired(item, when)),
        crs=crs,
        footprint=footprint,
        assets=assets,
        warnings=assumed + warnings,
    )


def _unknown(item: Mapping[str, Any]) -> str:
    platform = facts.platform(item)
    for sensor in SENSORS.values():
        if sensor.platform.fullmatch(platform):
            return f"its platform is {platform}, but neither names nor assets tell {sensor.key}"
    known = ", ".join(SENSORS)
    return f"platform {platform or 'not given'} is none of the sensors known: {known}"


def _moment(
    when: datetime, footprint: BaseGeometry, sensor: Sensor
) -> tuple[datetime, tuple[str, ...]]:
    """Old USGS items give the day alone, as midnight: put them at the hour of the pass."""
    if when.time() != time(0):
        return when, ()
    hours = (sensor.crossing_hour - centre_longitude(footprint) / _DEGREES_PER_HOUR) % 24
    moved = when + timedelta(minutes=round(hours * 60))
    return moved, (f"its datetime is a day without hour: {moved:%H:%M} UTC is assumed",)


def _read_assets(
    item: Mapping[str, Any], sensor: Sensor, base_href: str | None
) -> tuple[dict[str, Asset], tuple[str, ...]]:
    listed = item.get("assets") or {}
    assets: dict[str, Asset] = {}
    # A dict keeps the order and drops what several bands say alike.
    warnings: dict[str, None] = {}
    for band, entry in sensor.bands.items():
        name = sensor.asset_name(item, band)
        if name is None:
            continue
        gain, offset, notes = offset_for(item, sensor, band)
        warnings.update(dict.fromkeys(notes))
        nodata = facts.raster_band(listed[name], "nodata")
        href = absolute_href(str(listed[name]["href"]), base_href)
        assets[band] = Asset(href, band, gain, offset, entry.nodata if nodata is None else nodata)
        if "jp2" in str(listed[name].get("type") or "").lower() or href.lower().endswith(".jp2"):
            warnings["its assets are JPEG 2000, not cloud-optimised GeoTIFF"] = None
    if QUALITY not in assets:
        warnings[f"it has no {sensor.quality_kind} asset: clouds cannot be masked"] = None
    if SATURATION in sensor.bands and SATURATION not in assets:
        name = sensor.bands[SATURATION].assets[0]
        warnings[f"it has no {name} asset: saturated pixels cannot be masked"] = None
    return assets, tuple(warnings)


def absolute_href(href: str, base_href: str | None) -> str:
    """Return a whole URL or local path: relative hrefs start where the item was read.

    An empty one stays so: it names nothing, not the item itself.

    >>> absolute_href("./B04.tif", "https://example.org/29/item.json")
    'https://example.org/29/B04.tif'
    """
    if href and base_href is not None and "://" not in href:
        from pystac.utils import make_absolute_href

        href = str(make_absolute_href(href, base_href))
    parts = urlsplit(href)
    is_local = parts.scheme == "file" and parts.netloc in ("", "localhost")
    return unquote(parts.path) if is_local else href


def _crs(item: Mapping[str, Any], sensor: Sensor) -> int | None:
    code = facts.epsg(facts.properties(item))
    if code is not None:
        return code
    names = (sensor.asset_name(item, band) for band in sensor.bands)
    codes = {facts.epsg(item["assets"][name]) for name in names if name is not None}
    return codes.pop() if len(codes) == 1 else None


def _revision(
    item: Mapping[str, Any], sensor: Sensor, assets: Mapping[str, Asset], stated: tuple[Any, ...]
) -> str:
    images = []
    for band, asset in sorted(assets.items()):
        listed = item["assets"][sensor.asset_name(item, band)]
        href = asset.href.split("?")[0] if "://" in asset.href else asset.href
        images.append((band, href, facts.checksum(listed), asset.gain, asset.offset, asset.nodata))
    told = json.dumps([*stated, images], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:_REVISION_LENGTH]
