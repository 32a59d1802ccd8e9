"""Scenes of some days over one tile, as the arrays that an observing stage sees."""

import functools
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from alpage.engine.header import BadCog
from alpage.engine.inspect import QUALITY, BandSource, SceneSource
from alpage.engine.storage import ReadCounters
from alpage.engine.warp import read_onto
from alpage.errors import SceneError
from alpage.product import Band
from alpage.science.masks import Quality, qa_pixel_table, scl_table
from alpage.timeaxis import Dates

Pixels = dict[str, NDArray[Any]]

Day = tuple[np.datetime64, tuple[SceneSource, ...]]
"""A day and its scenes, in the order in which they are laid."""


@functools.cache
def quality_table(kind: str) -> NDArray[np.uint8]:
    """Return the table from a sensor's quality values to bits of `Quality`."""
    return {"scl": scl_table, "qa_pixel": qa_pixel_table}[kind]()


@dataclass(frozen=True)
class Imagery:
    """Arrays of some days: see `alpage.product.Observation`."""

    days: Dates
    bands: dict[str, NDArray[np.uint16]]
    gains: dict[str, NDArray[np.float32]]
    offsets: dict[str, NDArray[np.float32]]
    quality: NDArray[np.uint8]


def read_days(
    days: Sequence[Day],
    bands: tuple[Band, ...],
    geobox: GeoBox,
    pool: Executor,
    counters: ReadCounters,
) -> Imagery:
    """Return the imagery of some days on a geobox.

    The scenes of a day are laid in their order: a pixel is taken, in all bands
    at once, from the first scene in which no band is empty and quality is not
    fill; where there is none, all bands are empty. A further scene is read only
    where a hole is left. Scenes of one day whose radiometry differs are brought
    to the lowest offset among them, which is exact for integer offsets.

    Raises SceneError naming the scene that could not be read.
    """
    shape = (len(days), *geobox.shape.yx)
    names = tuple(band.name for band in bands)
    kernels = {band.name: band.kernel for band in bands} | {QUALITY: "nearest"}
    radiometry = {name: [_common(scenes, name) for _, scenes in days] for name in names}

    def read(scene: SceneSource, name: str) -> tuple[NDArray[Any], ReadCounters]:
        own = ReadCounters()
        source = scene.bands[name]
        try:
            return read_onto(source.header, geobox, kernel=kernels[name], counters=own), own
        except BadCog as error:
            raise SceneError(scene.id, f"band {name}: {error}") from error

    def collect(scene: SceneSource, pixels: Pixels, day: int) -> Pixels:
        for name in names:
            source = scene.bands[name]
            pixels[name] = _normalised(pixels[name], source, radiometry[name][day])
        raw, source = pixels[QUALITY], scene.bands[QUALITY]
        coded = quality_table(scene.quality_kind)[raw]
        coded[raw == source.nodata] = Quality.FILL
        pixels[QUALITY] = coded
        return pixels

    arrays = {name: np.zeros(shape, dtype=np.uint16) for name in names}
    arrays[QUALITY] = np.full(shape, Quality.FILL, dtype=np.uint8)
    first = {
        (t, name): pool.submit(read, scenes[0], name)
        for t, (_, scenes) in enumerate(days)
        for name in (*names, QUALITY)
    }
    for t, (_, scenes) in enumerate(days):
        holes = np.ones(geobox.shape.yx, dtype=bool)
        for number, scene in enumerate(scenes):
            if number == 0:
                jobs = {name: first[t, name] for name in (*names, QUALITY)}
            elif not holes.any():
                break
            else:
                jobs = {name: pool.submit(read, scene, name) for name in (*names, QUALITY)}
            answers = {name: job.result() for name, job in jobs.items()}
            for _, own in answers.values():
                counters.add(own)
            pixels = collect(scene, {name: found for name, (found, _) in answers.items()}, t)
            fills = holes & ~_holes(pixels, names)
            for name, array in arrays.items():
                np.copyto(array[t], pixels[name], where=fills)
            holes &= ~fills
    quality = arrays.pop(QUALITY)
    return Imagery(
        np.array([day for day, _ in days], dtype="datetime64[D]"),
        arrays,
        {name: np.array([gain for gain, _ in radiometry[name]], "float32") for name in names},
        {name: np.array([offset for _, offset in radiometry[name]], "float32") for name in names},
        quality,
    )


def _common(scenes: tuple[SceneSource, ...], band: str) -> tuple[float, float]:
    """The radiometry that all scenes of one day are brought to: that of the lowest offset."""
    return min(
        ((scene.bands[band].gain, scene.bands[band].offset) for scene in scenes),
        key=lambda pair: (pair[1], pair[0]),
    )


def _normalised(
    dn: NDArray[Any], source: BandSource, common: tuple[float, float]
) -> NDArray[np.uint16]:
    gain, offset = common
    empty = dn == source.nodata
    own_gain, own_offset = source.gain, source.offset
    if (own_gain, own_offset) != common:
        moved = np.rint((dn * float(own_gain) + (own_offset - offset)) / gain)
        dn = np.clip(moved, 1, 65535)
    out = dn.astype(np.uint16)
    out[empty] = 0
    return out


def _holes(pixels: Pixels, names: tuple[str, ...]) -> NDArray[np.bool_]:
    holes: NDArray[np.bool_] = (pixels[QUALITY] & Quality.FILL) != 0
    for name in names:
        holes |= pixels[name] == 0
    return holes
