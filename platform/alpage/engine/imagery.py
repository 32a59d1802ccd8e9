"""Scenes of some days over one tile, as the arrays that an observing stage sees."""

import functools
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from alpage.archive.sensors import QUALITY, SATURATION
from alpage.engine.cog import Reads, Request
from alpage.engine.header import BadCog
from alpage.engine.inspect import BandSource, SceneSource, kernels_of
from alpage.engine.storage import ReadCounters
from alpage.engine.warp import Need, is_large, need, read_onto
from alpage.errors import SceneError
from alpage.product import Band
from alpage.science.masks import Quality, qa_pixel_table, scl_table
from alpage.timeaxis import Dates

Array = NDArray[Any]
Day = tuple[np.datetime64, tuple[SceneSource, ...]]
"""A day and its scenes, in the order in which they are laid."""
Radiometry = tuple[float, float]
"""Gain and offset."""
Table = NDArray[np.uint8]
"""By code, bits of `Quality`."""
AS_TOLD: Table = np.arange(2**8, dtype=np.uint8)
"""The table of codes that are bits of `Quality` already."""
FILL = np.uint8(Quality.FILL)
SATURATED = np.uint8(Quality.SATURATED)
CLOUDED = np.uint8(Quality.CLOUD | Quality.CIRRUS | Quality.SHADOW)
DAYS_AHEAD = 8
"""Days on their way while one is laid: stores that answer late are asked early."""


@functools.cache
def quality_table(kind: str, nodata: float) -> Table:
    """Return the table from a sensor's quality values, up to 65535, to bits of `Quality`."""
    told = {"scl": scl_table, "qa_pixel": qa_pixel_table}[kind]()
    # Scene classes may come as uint16: what is no class is fill, as it is among the first 256.
    table = np.full(2**16, FILL)
    table[: len(told)] = told
    if 0 <= nodata < len(table):
        table[int(nodata)] = FILL
    return table


@dataclass(frozen=True)
class Imagery:
    """Arrays of some days: see `alpage.product.Observation`."""

    days: Dates
    bands: dict[str, NDArray[np.uint16]]
    gains: dict[str, NDArray[np.float32]]
    offsets: dict[str, NDArray[np.float32]]
    quality: NDArray[np.uint8]


def read_batches(
    batches: Sequence[Sequence[Day]],
    bands: tuple[Band, ...],
    geobox: GeoBox,
    counters: ReadCounters,
) -> Iterator[Imagery]:
    """Yield the imagery of batches of days on a geobox; the next days are fetched meanwhile.

    The scenes of a day are laid in their order: a pixel is taken, in all bands
    at once, from the first scene in which no band is empty and quality is not
    fill; where there is none, all bands are empty. Where the day's first pass
    saw clouds or their shadow, another pass that did not is taken instead. A
    further scene is read only where it may change something. Scenes of one day
    whose radiometry differs are brought to the gain of the first and the lowest
    offset among them, which is exact for one gain and integer offsets.

    The arrays are filled anew for the next batch. Raises SceneError naming the
    scene that could not be read.
    """
    if not batches:
        return
    mosaic = _Mosaic(bands, geobox, max(map(len, batches)), counters)
    first = (scenes[0] for _, scenes in chain.from_iterable(batches))
    with closing(_fetched_ahead(mosaic, first)) as fetches:
        for batch in batches:
            yield mosaic.lay(batch, fetches)


def _fetched_ahead(
    mosaic: "_Mosaic", scenes: Iterator[SceneSource]
) -> "Generator[_Fetch, None, None]":
    """Yield scenes whose bytes are on their way, as those of the next ones are meanwhile."""
    flying: deque[_Fetch] = deque()
    try:
        for scene in scenes:
            flying.append(mosaic.fetch(scene))
            if len(flying) > DAYS_AHEAD:
                yield flying[0]
                flying.popleft()
        while flying:
            yield flying[0]
            flying.popleft()
    finally:
        for fetch in flying:
            fetch.reads.close()


@dataclass(frozen=True)
class _Fetch:
    """The bands of a scene, on their way."""

    scene: SceneSource
    needs: Mapping[str, Need]
    """By band, those of quality among them."""
    numbers: Mapping[str, int]
    """Of each band's window among the reads; without those that are not fetched ahead."""
    reads: Reads


class _Mosaic:
    """One tile, on which scenes are laid day by day."""

    def __init__(
        self, bands: tuple[Band, ...], geobox: GeoBox, most_days: int, counters: ReadCounters
    ) -> None:
        self._names = tuple(band.name for band in bands)
        self._kernels = kernels_of(bands)
        self._geobox = geobox
        self._counters = counters
        self._shape: tuple[int, int] = geobox.shape.yx
        self._stack = np.empty((len(bands), most_days, *self._shape), dtype=np.uint16)
        self._quality = np.empty((most_days, *self._shape), dtype=np.uint8)

    def fetch(self, scene: SceneSource) -> _Fetch:
        """Return a scene with its bytes on the way."""
        names = (*self._names, *scene.quality_bands)
        needs = {name: self._need(scene, name) for name in names}
        numbers: dict[str, int] = {}
        requests: list[Request] = []
        for name, needed in needs.items():
            if not (needed.is_empty or is_large(needed)):
                numbers[name] = len(requests)
                requests.append((needed.header, 0, needed.window))
        return _Fetch(scene, needs, numbers, Reads(requests, self._counters))

    def lay(self, batch: Sequence[Day], first: Iterator[_Fetch]) -> Imagery:
        """Return the imagery of some days, whose first scenes come from those fetched ahead."""
        common = [[_common(scenes, name) for name in self._names] for _, scenes in batch]
        for t, (_, scenes) in enumerate(batch):
            quality = self._quality[t]
            fetch = next(first)
            self._take(fetch, common[t], self._stack[:, t])
            _lay(self._stack, t, quality, self._stack, t, *self._codes(fetch), True, FILL)
            for scene in scenes[1:]:
                open_to = FILL if scene.overpass == scenes[0].overpass else FILL | CLOUDED
                if not np.any(quality & open_to):
                    continue
                below = np.empty((len(self._stack), 1, *self._shape), dtype=np.uint16)
                fetch = self.fetch(scene)
                self._take(fetch, common[t], below[:, 0])
                _lay(self._stack, t, quality, below, 0, *self._codes(fetch), False, open_to)
        n = len(batch)
        return Imagery(
            np.array([day for day, _ in batch], dtype="datetime64[D]"),
            {name: self._stack[b, :n] for b, name in enumerate(self._names)},
            {n: np.array([c[b][0] for c in common], "float32") for b, n in enumerate(self._names)},
            {n: np.array([c[b][1] for c in common], "float32") for b, n in enumerate(self._names)},
            self._quality[:n],
        )

    def _need(self, scene: SceneSource, name: str) -> Need:
        try:
            return need(scene.bands[name].header, self._geobox, kernel=self._kernels[name])
        except BadCog as error:
            raise SceneError(scene.id, f"band {name}: {error}") from error

    def _take(self, fetch: _Fetch, common: Sequence[Radiometry], out: Array) -> None:
        """Fill `out` (band, y, x) with a scene's bands."""
        for b, name in enumerate(self._names):
            source = fetch.scene.bands[name]
            plain = source.header.dtype == "uint16" and source.nodata == 0
            if plain and (source.gain, source.offset) == common[b]:
                self._pixels(fetch, name, out[b])
            else:
                out[b] = _normalised(self._pixels(fetch, name, None), source, common[b])

    def _codes(self, fetch: _Fetch) -> tuple[Array, Table]:
        """Return a scene's quality as it is coded, and the table of the codes."""
        scene = fetch.scene
        codes = self._pixels(fetch, QUALITY, None)
        table = quality_table(scene.quality_kind, scene.bands[QUALITY].nodata)
        if SATURATION not in scene.bands:
            return codes, table
        told = self._pixels(fetch, SATURATION, None)
        found = table[codes]
        found[(told != 0) & (told != scene.bands[SATURATION].nodata)] |= SATURATED
        return found, AS_TOLD

    def _pixels(self, fetch: _Fetch, name: str, out: Array | None) -> Array:
        needed, number = fetch.needs[name], fetch.numbers.get(name)
        try:
            if number is not None and needed.warp is None:
                return fetch.reads.take(number, out)
            if number is not None:
                pixels = needed.onto(fetch.reads.take(number))
            elif needed.is_empty:
                pixels = needed.nothing()
            else:
                pixels = read_onto(
                    needed.header,
                    self._geobox,
                    kernel=self._kernels[name],
                    counters=self._counters,
                )
        except BadCog as error:
            where = None if is_large(needed) else (name, needed.window)
            raise SceneError(fetch.scene.id, f"band {name}: {error}", where) from error
        if out is not None:
            out[:] = pixels
        return pixels


def _common(scenes: tuple[SceneSource, ...], band: str) -> Radiometry:
    """The radiometry that all scenes of one day are brought to."""
    gain, _ = _unsigned(scenes[0].bands[band])
    return gain, min(_unsigned(scene.bands[band])[1] for scene in scenes)


def _unsigned(source: BandSource) -> Radiometry:
    """A band's radiometry, once its numbers are shifted so that none is below zero."""
    lowest = np.iinfo(source.header.dtype).min
    return source.gain, source.offset + lowest * source.gain


def _normalised(dn: Array, source: BandSource, common: Radiometry) -> NDArray[np.uint16]:
    gain, offset = common
    empty = dn == source.nodata
    shift = (source.offset - offset) / gain
    if source.gain == gain and shift.is_integer():
        dn = np.add(dn, int(shift), dtype=np.int32)
    else:
        dn = np.rint((dn * float(source.gain) + (source.offset - offset)) / gain)
    # From here on 0 is empty: what is as dark as that, or darker, was measured all the same.
    out = np.clip(dn, 1, 65535).astype(np.uint16)
    out[empty] = 0
    return out


@njit(cache=True, nogil=True)
def _lay(
    bands: Any,
    t: int,
    quality: Any,
    below: Any,
    s: int,
    raw: Any,
    table: Any,
    is_first: bool,
    open_to: Any,
) -> None:
    """Lay a scene where nothing is yet, or what is there has one of the bits of `open_to`.

    What is there gives way to a pixel that has none of these bits; an empty one to any. `bands`
    and `below` are (band, day, y, x), and one array for the first scene: whole, since a day's
    slice of them has no rows that the compiler knows to be contiguous.
    """
    height, width = quality.shape
    found = np.empty(width, dtype=np.uint8)
    for y in range(height):
        # Loops without branches, which the compiler turns into vectors; holes are rare.
        for x in range(width):
            found[x] = table[raw[y, x]]
        for b in range(len(below)):
            for x in range(width):
                found[x] |= FILL if below[b, s, y, x] == 0 else 0
        is_broken = not is_first
        for x in range(width):
            is_broken |= (found[x] & FILL) != 0
        if not is_broken:
            quality[y] = found
            continue
        for x in range(width):
            is_hole = (found[x] & FILL) != 0
            if not is_first:
                is_empty = (quality[y, x] & FILL) != 0
                if not (quality[y, x] & open_to and (is_empty or not found[x] & open_to)):
                    continue
            quality[y, x] = FILL if is_hole else found[x]
            for b in range(len(below)):
                bands[b, t, y, x] = 0 if is_hole else below[b, s, y, x]
