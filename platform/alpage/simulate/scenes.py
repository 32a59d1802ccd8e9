"""Scenes of the archive: which there are, and their pixels as cloud-optimised GeoTIFFs."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alpage.simulate.clouds import classify, cloud_cover, error_pattern, sky
from alpage.simulate.files import write_cog
from alpage.simulate.optics import (
    BANDS,
    BANDS_20M,
    band_reflectance,
    ground_20m,
    mean_20m,
    seen_reflectance,
    state,
)
from alpage.simulate.spec import EAST_EPSG, Tile, ValleySpec, east_tile, main_tile
from alpage.simulate.terrain import F32, landscape

FILES = {
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "nir": "B08",
    "swir16": "B11",
    "swir22": "B12",
    "scl": "SCL",
}
SCALE, OFFSET_DN = 1e-4, 1000
NOISE_FLOOR, NOISE_SHARE = 0.0015, 0.006
BASELINE_OLDEST, BASELINE_BEFORE = "02.14", "03.01"
BASELINE_OFFSET, BASELINE_AFTER, BASELINE_NEWEST = "04.00", "05.09", "05.11"
# Every fourth pass the swath ends inside the north-western corner, where u + v is this small.
SWATH_PASSES, SWATH_EDGE = 4, 0.25


@dataclass(frozen=True)
class Scene:
    """One product of the archive: a tile, a date and a way of processing."""

    spec: ValleySpec
    tile: Tile
    day: date
    baseline: str
    updated: datetime
    sequence: int = 0
    revision: int = 0
    """Number of the processing: another one has slightly other pixels."""

    @property
    def platform(self) -> str:
        """sentinel-2a and sentinel-2b take turns."""
        return f"sentinel-2{'ab'[self._pass % 2]}"

    @property
    def id(self) -> str:
        """Item id as Earth Search writes it."""
        unit = self.platform[-1].upper()
        return f"S2{unit}_{self.tile.mgrs}_{self.day:%Y%m%d}_{self.sequence}_L2A"

    @property
    def sensed(self) -> datetime:
        """Time of sensing; the eastern tile follows three seconds later."""
        return sensing_time(self.day) + timedelta(seconds=3 * (self.tile.epsg == EAST_EPSG))

    @property
    def offset_dn(self) -> int:
        """What baselines from 04.00 on add to the digital numbers."""
        return OFFSET_DN if self.baseline >= BASELINE_OFFSET else 0

    @property
    def swath_edge(self) -> float | None:
        """Positions with u + v below this were not seen; None when the swath covers all."""
        return SWATH_EDGE if self._pass % SWATH_PASSES == SWATH_PASSES - 1 else None

    @property
    def _pass(self) -> int:
        return (self.day - self.spec.start).days // self.spec.revisit_days


def sensing_time(day: date) -> datetime:
    """Time at which the main tile is sensed."""
    return datetime.combine(day, time(10, 38, 21, 24000), UTC)


def first_scenes(spec: ValleySpec) -> tuple[Scene, ...]:
    """Scenes of the first catalogue: both tiles of all dates, one duplicate, without the late one.

    >>> spec = ValleySpec(size_px=128, start=date(2022, 1, 1), end=date(2022, 2, 9))
    >>> len(spec.dates), len(first_scenes(spec))
    (8, 16)
    """
    late, double = late_scene(spec).day, _clearest(spec)[1]
    scenes = []
    for day in spec.dates:
        scenes.append(_scene(spec, east_tile(spec), day))
        if day == double:
            scenes += _duplicates(spec, day)
        elif day != late:
            scenes.append(_scene(spec, main_tile(spec), day))
    return tuple(scenes)


def late_scene(spec: ValleySpec) -> Scene:
    """The scene that reaches the archive after the others: clear, in the second half."""
    return _scene(spec, main_tile(spec), _clearest(spec)[2], updated=_after(spec, days=20))


def reprocessed_scene(spec: ValleySpec) -> Scene:
    """A new processing of a clear scene of the first half: same id, newer baseline, new pixels."""
    return Scene(
        spec=spec,
        tile=main_tile(spec),
        day=_clearest(spec)[0],
        baseline=BASELINE_NEWEST,
        updated=_after(spec, days=200),
        revision=2,
    )


def asset_path(scene: Scene, asset: str) -> Path:
    """Path of an asset relative to the folder of its item."""
    return Path(f"N{scene.baseline.replace('.', '')}") / f"{FILES[asset]}.tif"


def write_assets(folder: Path, scene: Scene) -> NDArray[np.uint8]:
    """Write the seven assets of a scene under its item's folder; gives the classification."""
    block_px = scene.spec.block_px
    scl = None
    for asset, array in render(scene):
        path = folder / asset_path(scene, asset)
        path.parent.mkdir(parents=True, exist_ok=True)
        how = "nearest" if asset == "scl" else "average"
        write_cog(path, array, scene.tile, block_px, nodata=0, overview_resampling=how)
        scl = array if asset == "scl" else scl
    assert scl is not None
    return scl.astype(np.uint8, copy=False)


def render(scene: Scene) -> Iterator[tuple[str, NDArray[np.uint16] | NDArray[np.uint8]]]:
    """Give (asset, pixels) one by one: uint16 digital numbers at 10 or 20 m, uint8 classes.

    Digital numbers are ``reflectance * 1e4 + offset_dn``; 0 is nodata.
    """
    spec, tile = scene.spec, scene.tile
    now, seen = state(spec, tile, scene.day), sky(spec, tile, scene.day)
    valid = _seen_by_swath(scene)
    valid_20m = mean_20m(valid) == 1
    seed = [spec.seed, scene.day.toordinal(), tile.epsg, scene.revision, 20]
    rng = np.random.default_rng(seed)
    gain = np.float32(1 + 0.004 * scene.revision)
    for band in BANDS:
        reflectance = seen_reflectance(band_reflectance(spec, tile, band, now), seen, band) * gain
        coarse = band in BANDS_20M
        reflectance = mean_20m(reflectance) if coarse else reflectance
        noise = rng.standard_normal(reflectance.shape, np.float32)
        reflectance += noise * (NOISE_FLOOR + NOISE_SHARE * reflectance)
        yield band, _encode(reflectance, scene.offset_dn, valid_20m if coarse else valid)
    errors = error_pattern(spec, tile, scene.day, scene.revision)
    yield "scl", classify(seen, ground_20m(now), errors, valid_20m)


def _encode(reflectance: F32, offset_dn: int, valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    dn = np.rint(reflectance * np.float32(1 / SCALE)) + np.float32(offset_dn)
    return np.where(valid, np.clip(dn, 1, 65535), 0).astype(np.uint16)


def _seen_by_swath(scene: Scene) -> NDArray[np.bool_]:
    if scene.swath_edge is None:
        return np.ones(scene.tile.shape, bool)
    ground = landscape(scene.spec, scene.tile)
    return ground.u + ground.v >= scene.swath_edge


def _scene(spec: ValleySpec, tile: Tile, day: date, *, updated: datetime | None = None) -> Scene:
    return Scene(
        spec=spec,
        tile=tile,
        day=day,
        baseline=BASELINE_AFTER if day >= spec.baseline_change else BASELINE_BEFORE,
        updated=updated or sensing_time(day) + timedelta(hours=9),
    )


def _duplicates(spec: ValleySpec, day: date) -> list[Scene]:
    """The same acquisition twice: an older processing and the one that replaces it."""
    kept = _scene(spec, main_tile(spec), day)
    older = BASELINE_OLDEST if kept.baseline < BASELINE_OFFSET else BASELINE_OFFSET
    return [
        Scene(spec, kept.tile, day, older, kept.updated, sequence=0, revision=1),
        Scene(spec, kept.tile, day, kept.baseline, kept.updated + timedelta(days=40), sequence=1),
    ]


def _clearest(spec: ValleySpec) -> tuple[date, date, date]:
    """The two clearest dates of the first half and the clearest of the second."""
    dates = spec.dates
    half = len(dates) // 2
    first, second, *_ = sorted(dates[:half], key=lambda day: cloud_cover(spec, day))
    return first, second, min(dates[half:], key=lambda day: cloud_cover(spec, day))


def _after(spec: ValleySpec, *, days: int) -> datetime:
    return sensing_time(spec.end) + timedelta(days=days)
