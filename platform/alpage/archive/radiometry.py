"""From digital numbers to reflectance: what the metadata promise, and whether pixels agree.

Reflectance × 10⁴ = DN·gain + offset, everywhere. Rules by catalogue: ALGORITHMS.md §0, after
Element84/earth-search#66 and #71, cirrus-geo/cirrus-earth-search#21 and #26,
microsoft/PlanetaryComputer#134, torchgeo/torchgeo#3224. The sensing date never decides:
Collection-1 reprocessing puts the offset on scenes of every year.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.archive import facts
from alpage.archive.sensors import QUALITY_BANDS, Sensor

Item = Mapping[str, Any]
Integers = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]

BOA_ADD_OFFSET = -1000.0
OFFSET_SINCE_BASELINE = 4.0
TOOLBOX_BASELINE = 99.0
REFLECTANCE_SCALE = 1e4

LIE_FRACTION = 0.05
LIE_MIN_PIXELS = 200
MISSING_FLOOR_DN = 900
MISSING_PERCENTILE = 1.0
MISSING_MIN_PIXELS = 1000
SCL_VEGETATION = 4
SCL_CLEAR_LAND = (4, 5)
# Dark ground and water are where a missing offset shows best; cloud, shadow of cloud and snow
# are left out because nothing dark is expected under them.
SCL_CLEAR = (2, 4, 5, 6)

_APPLIED_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


@dataclass(frozen=True)
class Catalogue:
    """One way of publishing Sentinel-2 L2A. ``rule`` is ``flag``, ``baseline`` or ``declared``."""

    key: str
    holds: Callable[[Item], bool]
    rule: str


@dataclass(frozen=True)
class Verdict:
    """What the pixels say: the offset to use, and a note when it is not the declared one."""

    offset_to_use: float
    note: str | None = None


def _is_flagged(item: Item) -> bool:
    return any(isinstance(facts.properties(item).get(flag), bool) for flag in _APPLIED_FLAGS)


def _is_cdse(item: Item) -> bool:
    return "B04_10m" in (item.get("assets") or {}) or "SCL_20m" in (item.get("assets") or {})


def _is_planetary_computer(item: Item) -> bool:
    names = item.get("assets") or {}
    return bool(facts.text(item, "s2:mgrs_tile")) and ("B04" in names or "SCL" in names)


def _is_earth_search_v0(item: Item) -> bool:
    return bool(facts.text(item, "sentinel:product_id"))


# First match counts. Earth Search v0 shifted no scene without flagging it. Its Collection-1 items
# and SAFE conversions carry no flag and an honest offset: they fall through to `declared`, as do
# archives of one's own.
SENTINEL_2_CATALOGUES = (
    Catalogue("earth-search", _is_flagged, "flag"),
    Catalogue("cdse", _is_cdse, "baseline"),
    Catalogue("planetary-computer", _is_planetary_computer, "baseline"),
    Catalogue("earth-search-v0", _is_earth_search_v0, "baseline"),
    Catalogue("other", lambda _: True, "declared"),
)


def catalogue_of(item: Item) -> Catalogue:
    """Return the catalogue an item was published by, told from its properties and assets.

    >>> catalogue_of({"properties": {"earthsearch:boa_offset_applied": True}}).key
    'earth-search'
    """
    return next(catalogue for catalogue in SENTINEL_2_CATALOGUES if catalogue.holds(item))


def offset_for(item: Item, sensor: Sensor, band: str) -> tuple[float, float, tuple[str, ...]]:
    """Return gain, offset and warnings of one band: reflectance × 10⁴ = DN·gain + offset.

    Quality bands are (1, 0). Landsat Collection 2 has one scale for all. For Sentinel-2 the
    catalogue's rule decides, and what the asset itself declares is the cross-check (or, for an
    unknown archive, the rule).

    >>> from alpage.archive.sensors import SENSORS
    >>> item = {"properties": {"s2:processing_baseline": "05.11"}, "assets": {"B04": {}}}
    >>> offset_for(item, SENSORS["sentinel-2-l2a"], "red")
    (1.0, -1000.0, ())
    """
    if band in QUALITY_BANDS:
        return 1.0, 0.0, ()
    name = sensor.asset_name(item, band)
    asset = (item.get("assets") or {}).get(name) or {}
    scale, add = facts.raster_band(asset, "scale"), facts.raster_band(asset, "offset")
    declared = None if add is None else _in_units(add)
    gain, warnings = _gain(sensor, scale)
    if sensor.quality_kind != "scl":
        offset = sensor.offset if declared is None else declared
        if offset != sensor.offset:
            warnings += (f"offset {offset:g} declared where {sensor.key} has {sensor.offset:g}",)
        return gain, offset, warnings
    offset, more = _sentinel_offset(item, declared)
    return gain, offset, warnings + more


def _in_units(reflectance: float) -> float:
    # Rounded, so that 2.75e-5 × 10⁴ is 0.275 and equal everywhere.
    return round(reflectance * REFLECTANCE_SCALE, 9)


def _gain(sensor: Sensor, scale: float | None) -> tuple[float, tuple[str, ...]]:
    gain = sensor.gain if scale is None else _in_units(scale)
    if gain == sensor.gain:
        return gain, ()
    return gain, (f"scale {scale:g} declared where {sensor.key} has {sensor.gain / 1e4:g}",)


def _sentinel_offset(item: Item, declared: float | None) -> tuple[float, tuple[str, ...]]:
    rule = catalogue_of(item).rule
    number, warnings = _baseline_number(item)
    if rule == "flag" and _is_applied(item):
        # raster:bands says −0.1 here too, for pixels that are shifted already.
        return 0.0, warnings
    by_baseline = None
    if number is not None:
        by_baseline = BOA_ADD_OFFSET if number >= OFFSET_SINCE_BASELINE else 0.0
    first, second = (declared, by_baseline) if rule == "declared" else (by_baseline, declared)
    offset = first if first is not None else second
    if offset is None:
        return 0.0, (*warnings, "neither baseline nor offset is given: none is applied")
    if second is not None and second != offset:
        stated = f"baseline {facts.baseline(item)}, declared offset {declared:g}"
        warnings += (f"{stated} disagree: {offset:g} is applied",)
    return offset, warnings


def _is_applied(item: Item) -> bool:
    return any(facts.properties(item).get(flag) is True for flag in _APPLIED_FLAGS)


def _baseline_number(item: Item) -> tuple[float | None, tuple[str, ...]]:
    stated = facts.baseline(item)
    try:
        number = float(stated)
    except ValueError:
        return None, (f"baseline {stated[:20]!r} is no number",) if stated else ()
    if number >= TOOLBOX_BASELINE:
        return number, (f"baseline {stated} is not one of ESA's: taken as 04.00 or later",)
    return number, ()


def offset_lies(red_dn: Integers, nir_dn: Integers, clear_land: Mask, offset: float) -> bool:
    """Return True if applying ``offset`` drives over 5 % of clear land below zero.

    Parameters
    ----------
    red_dn, nir_dn
        B04 and B08 as stored, any one shape; 0 is nodata.
    clear_land
        True where the scene classification says vegetation or bare soil, same shape.
    offset
        What would be added to the numbers.

    False where fewer than 200 pixels can be judged. Land that is truly dark in the red lies
    near zero, so a few negatives are legal; one in twenty is not.

    Source: ALGORITHMS.md §0, after Element84/earth-search#71.

    >>> dn = np.full((20, 20), 400, dtype="uint16")
    >>> offset_lies(dn, dn * 7, dn > 0, -1000.0)
    True
    """
    judged = clear_land & (red_dn > 0) & (nir_dn > 0)
    count = np.count_nonzero(judged)
    if count < LIE_MIN_PIXELS:
        return False
    darkest = np.minimum(red_dn[judged], nir_dn[judged]).astype(np.float64)
    return bool(np.count_nonzero(darkest + offset < 0) > LIE_FRACTION * count)


def offset_missing(red_dn: Integers, nir_dn: Integers, scl: Integers) -> bool:
    """Return True if the numbers still carry +1000 although no offset is declared.

    Both must hold: over at least 1000 pixels of vegetation the first percentile of the red is
    900 or more, and so is that of the darker of red and near infrared over all clear ground and
    water. Green leaves absorb the red (0.02 to 0.06) and water the near infrared, so without
    the shift some of a scene lies far below 0.09; with it nothing does.

    How sure: on 57 vegetated dates of a Flemish crop patch (baseline 02.12) the first
    percentile of the red never exceeded 589, and every one is caught once 1000 is added. In a
    scene of dry grassland alone, without one dark pixel in a hundred, the test may be wrong:
    hence the second condition, and never a verdict on bare or snowy scenes.

    >>> red = np.full((40, 40), 1300, dtype="uint16")
    >>> offset_missing(red, red * 3, np.full((40, 40), 4, dtype="uint8"))
    True
    """
    if not is_open(scl, 0.0, red_dn):
        return False
    clear = (red_dn > 0) & (nir_dn > 0) & np.isin(scl, SCL_CLEAR)
    if np.count_nonzero(clear) < MISSING_MIN_PIXELS:
        return False
    return not _has_dark(np.minimum(red_dn[clear], nir_dn[clear]))


def is_open(scl: Integers, declared_offset: float, red_dn: Integers | None = None) -> bool:
    """Return whether `judge` could still note something, by what was read of a scene so far.

    Under cloud and snow the classes alone say that nothing can be judged, and where no offset is
    declared the dark red of vegetation says that none is missing: most scenes need not be read
    further.

    >>> is_open(np.full((40, 40), 9, dtype="uint8"), -1000.0)
    False
    """
    if declared_offset < 0:
        return bool(np.count_nonzero(np.isin(scl, SCL_CLEAR_LAND)) >= LIE_MIN_PIXELS)
    if declared_offset > 0:
        return False
    vegetation = scl == SCL_VEGETATION
    if red_dn is not None:
        vegetation &= red_dn > 0
    if np.count_nonzero(vegetation) < MISSING_MIN_PIXELS:
        return False
    return red_dn is None or not _has_dark(red_dn[vegetation])


def _has_dark(dn: Integers) -> bool:
    """Whether the first percentile lies below the floor."""
    # Nearly always far more lie below it, and to count them is quicker than to sort.
    below = np.count_nonzero(dn < MISSING_FLOOR_DN)
    if below > 1 + len(dn) * MISSING_PERCENTILE / 100:
        return True
    return bool(np.percentile(dn, MISSING_PERCENTILE) < MISSING_FLOOR_DN)


def judge(red_dn: Integers, nir_dn: Integers, scl: Integers, declared_offset: float) -> Verdict:
    """Return the offset that the pixels of a whole Sentinel-2 scene support, with a note.

    Parameters
    ----------
    red_dn, nir_dn, scl
        One shape, any resolution: a coarse overview of the whole scene is best, since the
        verdict must not depend on how the cube is cut in tiles.
    declared_offset
        What `offset_for` found: 0 or −1000.

    A note means that metadata and pixels disagree: the scene is to be flagged or quarantined.

    Raises
    ------
    ValueError
        The arrays differ in shape.

    >>> dn = np.full((20, 20), 400, dtype="uint16")
    >>> judge(dn, dn * 7, np.full((20, 20), 4, dtype="uint8"), -1000.0).offset_to_use
    0.0
    """
    if not red_dn.shape == nir_dn.shape == scl.shape:
        raise ValueError(
            f"red {red_dn.shape}, nir {nir_dn.shape} and scl {scl.shape} must have one shape"
        )
    if declared_offset < 0 and offset_lies(
        red_dn, nir_dn, np.isin(scl, SCL_CLEAR_LAND), declared_offset
    ):
        note = (
            f"the offset {declared_offset:g} makes over {LIE_FRACTION:.0%} of clear land"
            " negative: it was applied already"
        )
        return Verdict(0.0, note)
    if declared_offset == 0 and offset_missing(red_dn, nir_dn, scl):
        note = (
            f"no offset is declared, yet no vegetation is darker than {MISSING_FLOOR_DN} in the"
            f" red: {BOA_ADD_OFFSET:g} was not applied"
        )
        return Verdict(BOA_ADD_OFFSET, note)
    return Verdict(declared_offset)
