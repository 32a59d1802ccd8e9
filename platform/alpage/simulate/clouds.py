"""Clouds, their shadows, and the classification map that mostly agrees with them."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alpage.simulate.seasons import sun_position
from alpage.simulate.spec import Tile, ValleySpec
from alpage.simulate.terrain import F32, F64, landscape, noise, sample

# Below this opacity a cloud or shadow no longer counts as one in the truth.
CLOUD_LIMIT = 0.1
SHADOW_LIMIT = 0.3
CLOUD_HEIGHT = 0.035
SHADOW_DEPTH = 0.6

SCL_NODATA, SCL_DARK, SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER = 0, 2, 3, 4, 5, 6
SCL_CLOUD_MEDIUM, SCL_CLOUD_HIGH, SCL_CIRRUS, SCL_SNOW = 8, 9, 10, 11


@dataclass(frozen=True)
class Sky:
    """What hangs over a tile on one date, on its 20 m grid, all in 0 to 1."""

    cloud: F32
    """Opacity of the low clouds."""
    cirrus: F32
    """Opacity of the high thin clouds."""
    shadow: F32
    """Darkness of the cloud shadows, 0 under clouds."""

    @property
    def opacity(self) -> F32:
        """Opacity of all clouds together."""
        return np.asarray(1 - (1 - self.cloud) * (1 - self.cirrus), np.float32)

    @property
    def is_cloud(self) -> NDArray[np.bool_]:
        """Truth: pixels that a cloud spoils."""
        return np.asarray(self.opacity >= CLOUD_LIMIT)

    @property
    def is_shadow(self) -> NDArray[np.bool_]:
        """Truth: pixels in the shadow of a cloud."""
        return np.asarray((self.shadow >= SHADOW_LIMIT) & ~self.is_cloud)


@dataclass(frozen=True)
class Ground:
    """What lies on the ground of a tile on one date, on its 20 m grid."""

    snow: NDArray[np.bool_]
    water: NDArray[np.bool_]
    ndvi: F32
    dark: NDArray[np.bool_]
    """Slopes that hardly see the sun."""


def cloud_cover(spec: ValleySpec, day: date) -> float:
    """Fraction of the main tile under clouds: often 0 or 1, on average the spec's cloudiness."""
    mean = spec.cloudiness
    if mean in (0, 1):
        return float(mean)
    rng = np.random.default_rng([spec.seed, day.toordinal(), 10])
    cover = float(rng.beta(mean, 1 - mean))
    if cover < 0.04:
        return 0.0
    return 1.0 if cover > 0.96 else cover


def sky(spec: ValleySpec, tile: Tile, day: date) -> Sky:
    """Clouds and shadows over a tile; tiles of one date see the same clouds."""
    ground = landscape(spec, tile)
    u, v = _halved(ground.u), _halved(ground.v)
    cover = cloud_cover(spec, day)
    clear = np.zeros(u.shape, np.float32)
    if cover == 0:
        return Sky(clear, clear, clear)
    rng = np.random.default_rng([spec.seed, day.toordinal(), 11])
    wind = (float(rng.random()), float(rng.random()))
    cirrus = clear
    if rng.random() < 0.4:
        veil = sample(noise(spec.seed, "cirrus"), 0.4 * u + wind[1], 0.4 * v + wind[0], order=1)
        cirrus = np.clip(0.12 * (veil - 0.2), 0, 0.2).astype(np.float32)
    if cover == 1:
        return Sky(np.ones_like(clear), cirrus, clear)
    threshold = _threshold(spec.seed, wind, cover)
    cloud = _opacity(spec.seed, u + wind[0], v + wind[1], threshold)
    azimuth, height = np.radians(sun_position(day))
    reach = CLOUD_HEIGHT / np.tan(height)
    shifted_u = u + wind[0] + reach * np.sin(azimuth)
    shifted_v = v + wind[1] - reach * np.cos(azimuth)
    shadow = _opacity(spec.seed, shifted_u, shifted_v, threshold) * (1 - cloud)
    return Sky(cloud, cirrus, shadow)


def classify(seen: Sky, ground: Ground, errors: F64, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Scene classification of a 20 m grid, with the mistakes such maps make.

    Cloud and shadow edges are missed by one or two pixels, some thin clouds altogether, and some
    snow is taken for cloud. ``errors`` is noise of unit variance that decides where.
    """
    scl = np.where(ground.ndvi > 0.4, SCL_VEGETATION, SCL_BARE).astype(np.uint8)
    scl[ground.dark] = SCL_DARK
    scl[ground.snow] = SCL_SNOW
    scl[ground.water] = SCL_WATER
    scl[_shrunk(seen.is_shadow, errors)] = SCL_SHADOW
    scl[ground.snow & (scl == SCL_SNOW) & (errors > 1.9)] = SCL_CLOUD_MEDIUM
    scl[seen.cirrus >= CLOUD_LIMIT] = SCL_CIRRUS
    found = _shrunk(seen.cloud >= CLOUD_LIMIT, errors) & ~((seen.cloud < 0.4) & (errors > 0.9))
    scl[found] = np.where(seen.cloud[found] > 0.6, SCL_CLOUD_HIGH, SCL_CLOUD_MEDIUM)
    scl[~valid] = SCL_NODATA
    return scl


def error_pattern(spec: ValleySpec, tile: Tile, day: date, revision: int) -> F64:
    """Noise of unit variance on the 20 m grid, another one for every scene and revision."""
    ground = landscape(spec, tile)
    rng = np.random.default_rng([spec.seed, day.toordinal(), tile.epsg, revision, 12])
    shift_u, shift_v = rng.random(2)
    u, v = _halved(ground.u) + shift_u, _halved(ground.v) + shift_v
    return sample(noise(spec.seed, "errors"), u, v, order=1)


def _opacity(seed: int, u: F64, v: F64, threshold: float) -> F32:
    thickness = np.clip((_cloud_field(seed, u, v) - threshold) / 0.45, 0, 1)
    return np.asarray(thickness * (2 - thickness), np.float32)


def _cloud_field(seed: int, u: F64, v: F64) -> F64:
    return sample(noise(seed, "clouds"), 0.45 * u, 0.45 * v, order=1)


def _threshold(seed: int, wind: tuple[float, float], cover: float) -> float:
    """Value of the cloud field above which a fraction `cover` of the main tile lies."""
    u, v = np.meshgrid(*[np.linspace(0, 1, 64)] * 2)
    return float(np.quantile(_cloud_field(seed, u + wind[0], v + wind[1]), 1 - cover))


def _shrunk(mask: NDArray[np.bool_], errors: F64) -> NDArray[np.bool_]:
    once = ndimage.binary_erosion(mask, border_value=1)
    twice = ndimage.binary_erosion(once, border_value=1)
    return np.asarray(np.where(errors > 0.3, twice, once))


def _halved(field: F32) -> F64:
    # The middle of four evenly spaced positions lies halfway between two opposite ones.
    return 0.5 * (field[0::2, 0::2].astype(np.float64) + field[1::2, 1::2])
