"""Look at scenes before their blocks: headers, and whether the radiometry can be believed.

What is found here does not depend on how the cube is cut: a scene is usable
whole or it is quarantined by name.
"""

from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from alpage.archive.radiometry import is_open, judge
from alpage.archive.scene import Scene
from alpage.archive.sensors import QUALITY, QUALITY_BANDS, SENSORS
from alpage.engine.cog import Window, read_window
from alpage.engine.header import BadCog, CogHeader
from alpage.engine.storage import ReadCounters, readers_for
from alpage.engine.tiff import read_header
from alpage.errors import SceneError, StorageError, UntrustedHref
from alpage.grid import project
from alpage.product import Band, Kernel

# Enough pixels for a percentile of a scene, few enough to be one or two requests.
LOOK_PX = 400


@dataclass(frozen=True)
class BandSource:
    """One band of one scene, ready to be read."""

    header: CogHeader
    gain: float
    offset: float
    nodata: float

    def __post_init__(self) -> None:
        """Have the header tell what only the item says: resampling goes by it."""
        object.__setattr__(self, "header", self.header.assuming_nodata(self.nodata))


@dataclass(frozen=True)
class SceneSource:
    """One scene, ready to be read."""

    id: str
    day: np.datetime64
    overpass: Hashable
    """Equal for scenes of one pass, which saw the same clouds."""
    quality_kind: str
    bands: Mapping[str, BandSource]
    """By common name, those of quality among them."""

    @classmethod
    def of(cls, scene: Scene, bands: Mapping[str, BandSource]) -> Self:
        """Return the source of a scene whose bands are these."""
        return cls(
            scene.id,
            np.datetime64(scene.solar_day, "D"),
            scene.group,
            SENSORS[scene.sensor].quality_kind,
            bands,
        )

    @property
    def quality_bands(self) -> tuple[str, ...]:
        """Which bands of quality it has."""
        return tuple(name for name in QUALITY_BANDS if name in self.bands)


Damage = tuple[str, Window]
"""A band, and the window of its file that a block could not read."""


def kernels_of(bands: Iterable[Band]) -> dict[str, Kernel]:
    """Return how each band of a scene is resampled, by name: codes are never mixed."""
    codes: dict[str, Kernel] = dict.fromkeys(QUALITY_BANDS, "nearest")
    return {band.name: band.kernel for band in bands} | codes


def inspect_scenes(
    scenes: Iterable[Scene],
    bands: tuple[Band, ...],
    counters: ReadCounters,
    damaged: Mapping[str, Damage],
) -> tuple[dict[str, SceneSource], dict[str, str]]:
    """Return the sources of usable scenes, and the reasons of the others, by scene id.

    Where a scene was `damaged` is looked at again: headers and overviews do not tell of it.
    """
    usable: dict[str, SceneSource] = {}
    rejected: dict[str, str] = {}

    def look(scene: Scene) -> tuple[str, SceneSource | str, ReadCounters]:
        own = ReadCounters()
        try:
            return scene.id, inspect(scene, bands, own, damaged.get(scene.id)), own
        except SceneError as error:
            return scene.id, error.reason, own

    scenes = list(scenes)
    hrefs = (asset.href for scene in scenes for asset in scene.assets.values())
    with ThreadPoolExecutor(readers_for(hrefs)) as pool:
        for scene_id, found, own in pool.map(look, scenes):
            counters.add(own)
            if isinstance(found, str):
                rejected[scene_id] = found
            else:
                usable[scene_id] = found
    return usable, rejected


def inspect(
    scene: Scene, bands: tuple[Band, ...], counters: ReadCounters, damage: Damage | None = None
) -> SceneSource:
    """Return a scene's source.

    Raises SceneError where a band is missing, is not a sound COG of 16-bit
    integers with a CRS, still cannot be read where it was damaged, or where pixels and declared
    offset disagree.
    """
    # Of the bands of quality one must be there.
    quality = (name for name in QUALITY_BANDS if name == QUALITY or name in scene.assets)
    names = (*(band.name for band in bands), *quality)
    sources = {name: _source(scene, name, counters) for name in names}
    if damage is not None:
        _look_again(scene, sources, damage, counters)
    source = SceneSource.of(scene, sources)
    if source.quality_kind == "scl":
        _check_offset(scene, sources, counters)
    return source


def _source(scene: Scene, name: str, counters: ReadCounters) -> BandSource:
    header, asset = read_band(scene, name, counters), scene.assets[name]
    expected = ("uint8", "uint16") if name in QUALITY_BANDS else ("uint16", "int16")
    if header.dtype not in expected:
        raise SceneError(
            scene.id, f"band {name}: expected {' or '.join(expected)}, got {header.dtype}"
        )
    nodata = asset.nodata if header.nodata is None else header.nodata
    if not np.isfinite(nodata):
        raise SceneError(scene.id, f"band {name}: nodata is {nodata} in a file of integers")
    return BandSource(header, asset.gain, asset.offset, nodata)


def read_band(scene: Scene, name: str, counters: ReadCounters) -> CogHeader:
    """Return the header of a scene's band.

    Raises SceneError where the band is missing, is not a sound COG, or does not lie where the
    item says.
    """
    if name not in scene.assets:
        there = ", ".join(sorted(scene.assets)) or "none"
        raise SceneError(scene.id, f"band {name} is missing; there are {there}")
    try:
        header = read_header(scene.assets[name].href, counters)
    except (BadCog, UntrustedHref) as error:
        raise SceneError(scene.id, f"band {name}: {error}") from error
    if isinstance(header.crs, int) and scene.crs not in (None, header.crs):
        raise SceneError(
            scene.id, f"band {name} is in EPSG:{header.crs}, its item says EPSG:{scene.crs}"
        )
    (a, b, c, d, e, f), (height, width) = header.transform, header.shape_yx
    corners = [
        (a * column + b * row + c, d * column + e * row + f)
        for row, column in ((0, 0), (0, width), (height, width), (height, 0))
    ]
    told = _outline(scene.footprint, header.crs)
    # Infinite where the footprint has no place in the file's CRS.
    if not (np.isfinite(told.bounds).all() and told.intersects(Polygon(corners))):
        raise SceneError(scene.id, f"band {name} lies outside the footprint that its item gives")
    return header


@lru_cache(maxsize=64)
def _outline(footprint: BaseGeometry, crs: int | str) -> BaseGeometry:
    """A footprint in a CRS: the bands of a scene share it."""
    return project(footprint, crs)


def _look_again(
    scene: Scene, sources: Mapping[str, BandSource], damage: Damage, counters: ReadCounters
) -> None:
    name, window = damage
    try:
        read_window(sources[name].header, window, counters=counters)
    except BadCog as error:
        raise SceneError(scene.id, f"band {name}: {error}", damage) from error


def _check_offset(scene: Scene, sources: Mapping[str, BandSource], counters: ReadCounters) -> None:
    """Judge by red and near infrared, be they among the bands that are asked for or not.

    Of those that are not a mirror may have none, or half a file: then nothing is judged.
    """
    if not {"red", "nir"} <= scene.assets.keys():
        return
    is_read = {"red", "nir"} <= sources.keys()
    try:
        red = sources.get("red") or _source(scene, "red", counters)
        shape = _look_at(red.header)[1]
        classes = _match(_look(sources[QUALITY].header, counters), shape)
        if not is_open(classes, red.offset):
            return
        red_dn = _look(red.header, counters)
        if not is_open(classes, red.offset, red_dn):
            return
        nir = sources.get("nir") or _source(scene, "nir", counters)
        nir_dn = _match(_look(nir.header, counters), shape)
    except BadCog as error:
        if is_read:
            raise SceneError(scene.id, str(error)) from error
        return
    except (SceneError, StorageError):
        if is_read:
            raise
        return
    if (note := judge(red_dn, nir_dn, classes, red.offset).note) is not None:
        raise SceneError(scene.id, f"its radiometry cannot be believed: {note}")


def _look_at(header: CogHeader) -> tuple[int, tuple[int, int], int]:
    """The finest overview that is small; rows and columns of it; and every which one is looked at.

    Thinned where none is small.
    """
    small = [n for n, level in enumerate(header.levels) if max(level.shape_yx) <= LOOK_PX]
    level = small[0] if small else len(header.levels) - 1
    height, width = header.levels[level].shape_yx
    step = max(1, -(-max(height, width) // LOOK_PX))
    return level, (-(-height // step), -(-width // step)), step


def _look(header: CogHeader, counters: ReadCounters) -> np.ndarray:
    """Read a scene's band, coarse."""
    level, _, step = _look_at(header)
    height, width = header.levels[level].shape_yx
    pixels = read_window(header, (0, 0, height, width), level=level, counters=counters)
    return pixels[::step, ::step]


def _match(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if pixels.shape == shape:
        return pixels
    rows, columns = (
        np.minimum(np.arange(n) * size // n, size - 1)
        for n, size in zip(shape, pixels.shape, strict=True)
    )
    return pixels[np.ix_(rows, columns)]
