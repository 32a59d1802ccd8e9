"""The sensor table: how an item is recognised, its bands by catalogue, and their defaults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from alpage.archive import facts

QUALITY = "quality"
SATURATION = "saturation"
"""Where it is not 0 a band of the pixel is saturated, or the pixel cannot be used otherwise."""
QUALITY_BANDS = (QUALITY, SATURATION)
"""Bands of codes, not of reflectance: what a scene has of them is read with any band."""


@dataclass(frozen=True)
class Band:
    """One band: its asset names in the known catalogues, best first, and how it is stored."""

    assets: tuple[str, ...]
    resolution_m: float
    dtype: str = "uint16"
    nodata: float = 0.0


@dataclass(frozen=True)
class Sensor:
    """A kind of imagery: surface reflectance bands under our common names, and `QUALITY_BANDS`.

    ``gain`` and ``offset`` are the defaults of the reflectance bands:
    reflectance × 10⁴ = DN·gain + offset. An item belongs to the sensor if its platform matches
    and either its names tell the level or one of the ``markers`` is among its assets.
    ``crossing_hour`` is the mean local solar time of its descending passes.
    """

    key: str
    platform: re.Pattern[str]
    level: re.Pattern[str]
    markers: tuple[str, ...]
    bands: Mapping[str, Band]
    quality_kind: str
    crossing_hour: float
    gain: float
    offset: float

    def asset_name(self, item: Mapping[str, Any], band: str) -> str | None:
        """Return the name of the asset that holds a band in this item, or None."""
        assets = item.get("assets") or {}
        names = self.bands[band].assets
        hrefs = ((name, (assets.get(name) or {}).get("href")) for name in names)
        return next((name for name, href in hrefs if href and isinstance(href, str)), None)

    def resolution_m(self, bands: tuple[str, ...]) -> float:
        """Return the finest native resolution among the bands, in metres.

        >>> SENSORS["sentinel-2-l2a"].resolution_m(("green", "swir16"))
        10.0
        """
        return min(self.bands[band].resolution_m for band in bands)


def _sentinel2(name: str, number: str, resolution_m: float, *more: str) -> Band:
    # Earth Search v1 and stactools; Earth Search v0 and Planetary Computer; Copernicus.
    return Band((name, number, f"{number}_{resolution_m:.0f}m", *more), resolution_m)


def _landsat(name: str, number: str) -> Band:
    # USGS, Earth Search, Planetary Computer; USGS before 2021; the same with the file's suffix.
    return Band((name, number, f"{number}.TIF"), 30.0)


SENTINEL_2 = Sensor(
    key="sentinel-2-l2a",
    platform=re.compile(r"sentinel-2[a-d]?"),
    level=re.compile(r"l2a|msi2a", re.IGNORECASE),
    markers=("scl", "SCL", "SCL_20m"),
    bands=MappingProxyType(
        {
            "coastal": _sentinel2("coastal", "B01", 60.0, "B01_20m"),
            "blue": _sentinel2("blue", "B02", 10.0),
            "green": _sentinel2("green", "B03", 10.0),
            "red": _sentinel2("red", "B04", 10.0),
            "rededge1": _sentinel2("rededge1", "B05", 20.0),
            "rededge2": _sentinel2("rededge2", "B06", 20.0),
            "rededge3": _sentinel2("rededge3", "B07", 20.0),
            "nir": _sentinel2("nir", "B08", 10.0),
            "nir08": _sentinel2("nir08", "B8A", 20.0),
            "nir09": _sentinel2("nir09", "B09", 60.0),
            "swir16": _sentinel2("swir16", "B11", 20.0),
            "swir22": _sentinel2("swir22", "B12", 20.0),
            QUALITY: Band(("scl", "SCL", "SCL_20m"), 20.0, "uint8"),
        }
    ),
    quality_kind="scl",
    crossing_hour=10.5,
    gain=1.0,
    offset=0.0,
)

LANDSAT_8_9 = Sensor(
    key="landsat-c2-l2",
    platform=re.compile(r"landsat-[89]"),
    level=re.compile(r"l2sp|l2sr|c2-?l2"),
    markers=(),
    bands=MappingProxyType(
        {
            "coastal": _landsat("coastal", "SR_B1"),
            "blue": _landsat("blue", "SR_B2"),
            "green": _landsat("green", "SR_B3"),
            "red": _landsat("red", "SR_B4"),
            # Catalogues call OLI's band 5 nir08 after its wavelength; it is the only NIR band.
            "nir": _landsat("nir08", "SR_B5"),
            "swir16": _landsat("swir16", "SR_B6"),
            "swir22": _landsat("swir22", "SR_B7"),
            # Fill pixels of QA_PIXEL have bit 0 set and no other.
            QUALITY: Band(("qa_pixel", "QA_PIXEL", "QA_PIXEL.TIF"), 30.0, nodata=1.0),
            SATURATION: _landsat("qa_radsat", "QA_RADSAT"),
        }
    ),
    quality_kind="qa_pixel",
    crossing_hour=10.2,
    gain=0.275,
    offset=-2000.0,
)

SENSORS: Mapping[str, Sensor] = MappingProxyType(
    {sensor.key: sensor for sensor in (SENTINEL_2, LANDSAT_8_9)}
)


def recognise(item: Mapping[str, Any]) -> Sensor | None:
    """Return the sensor an item belongs to, or None for one that the table does not know.

    >>> item = {"id": "LC08_L2SP_028030_20200114", "properties": {"platform": "LANDSAT_8"}}
    >>> recognise(item).key
    'landsat-c2-l2'
    """
    platform = facts.platform(item)
    level = facts.level_text(item)
    names = set(item.get("assets") or {})
    for sensor in SENSORS.values():
        if sensor.platform.fullmatch(platform) and (
            sensor.level.search(level) or names.intersection(sensor.markers)
        ):
            return sensor
    return None
