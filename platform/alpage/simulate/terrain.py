"""The unchanging landscape: relief, lake basin, land cover and fields, on any grid."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alpage.simulate.spec import Tile, ValleySpec, valley_coordinates

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

FLOOR_M, SUMMIT_M, LAKE_DEPTH_M = 640.0, 3000.0, 40.0
FLOOR_HALF_WIDTH = 0.125
LAKE_V, LAKE_HALF_WIDTH, LAKE_HALF_LENGTH = 0.25, 0.095, 0.17
# Fields lie side by side on the floor: (from, to) across the valley axis and along it.
FIELD_COLUMNS = ((-0.105, -0.038), (-0.033, 0.034), (0.039, 0.105))
FIELD_ROWS = ((0.50, 0.63), (0.64, 0.77), (0.78, 0.92))
# Slopes are shaded as if the valley were this wide, so that a small demo looks like a large one.
SHADING_WIDTH_M = 14_000.0

LAKE_BED, FOREST, PASTURE, ALP_MEADOW, ROCK, FIRST_FIELD = 1, 2, 3, 4, 5, 6
UNIT_COUNT = FIRST_FIELD + len(FIELD_COLUMNS) * len(FIELD_ROWS)


@dataclass(frozen=True)
class Landscape:
    """The ground of one tile; every array has the tile's shape."""

    u: F32
    """Position in the valley's frame, eastwards."""
    v: F32
    """Position in the valley's frame, southwards."""
    z: F32
    """Elevation of the ground in metres, the lake bed where there is a basin."""
    unit: NDArray[np.uint8]
    """Number of the land unit: LAKE_BED to ROCK, then the fields."""
    vigour: F32
    """Factor on the seasonal amplitude of NDVI, about 0.9 to 1.1."""
    texture: F32
    """Factor on the brightness of every band, about 0.85 to 1.15."""
    slope_east: F32
    """Rise per metre eastwards."""
    slope_south: F32
    """Rise per metre southwards."""


@lru_cache(maxsize=4)
def landscape(spec: ValleySpec, tile: Tile) -> Landscape:
    """The landscape of one tile, kept in memory because every date needs it again."""
    u, v = valley_coordinates(spec, tile)
    z = elevation(spec.seed, u, v).astype(np.float32)
    slope_east, slope_south = _slopes(z, u, v)
    # Grain is a matter of metres, not of the valley: at least six pixels long at any size.
    periods = spec.size_px / 1024
    grain = sample(noise(spec.seed, "grain"), periods * u, periods * v, order=1)
    return Landscape(
        u=u.astype(np.float32),
        v=v.astype(np.float32),
        z=z,
        unit=land_units(spec.seed, u, v, z),
        vigour=(1 + 0.04 * np.tanh(sample(noise(spec.seed, "vigour"), 0.4 * u, 0.4 * v))).astype(
            np.float32
        ),
        texture=(1 + 0.08 * np.tanh(grain)).astype(np.float32),
        slope_east=slope_east,
        slope_south=slope_south,
    )


def elevation(seed: int, u: F64, v: F64) -> F64:
    """Elevation in metres at valley coordinates: flat floor, lake basin, ridged flanks.

    >>> float(elevation(0, np.array([valley_axis(np.array(0.7))]), np.array([0.7]))[0])
    646.2...
    """
    across = np.abs(u - valley_axis(v)) - FLOOR_HALF_WIDTH
    reach = np.clip(across / 0.36, 0, None)
    climb = reach**2 / (reach + 0.12)
    relief = noise(seed, "relief")
    broad = np.tanh(sample(relief, 0.6 * u, 0.6 * v))
    # Folds of the noise make sharp crests; squares make the side valleys between them wide.
    ridges = (1 - np.abs(np.tanh(0.8 * sample(relief, 1.1 * u + 0.37, 1.1 * v + 0.21)))) ** 2
    rough = sample(relief, 3.0 * u + 0.11, 3.0 * v + 0.53)
    flank = np.minimum(2.5 * climb, 1.0)
    z = FLOOR_M + 25.0 * np.maximum(v - 0.45, 0) + 1600.0 * climb * (1 + 0.3 * broad)
    z += flank * (850.0 * ridges + 60.0 * rough)
    z = SUMMIT_M - 150.0 * np.logaddexp(0, (SUMMIT_M - z) / 150.0)
    z = np.maximum(z, FLOOR_M - LAKE_DEPTH_M)
    return z - LAKE_DEPTH_M * np.clip(1 - lake_radius(seed, u, v) ** 2, 0, None)


def valley_axis(v: F64) -> F64:
    """Position u of the valley's middle line at v."""
    return np.asarray(0.47 + 0.06 * np.sin(1.5 * np.pi * v + 0.6))


def lake_radius(seed: int, u: F64, v: F64) -> F64:
    """Distance from the middle of the lake basin, 1 on its rim."""
    ellipse = np.hypot((u - valley_axis(v)) / LAKE_HALF_WIDTH, (v - LAKE_V) / LAKE_HALF_LENGTH)
    return np.asarray(ellipse + 0.07 * np.tanh(sample(noise(seed, "shore"), u, v)))


def land_units(seed: int, u: F64, v: F64, z: F32) -> NDArray[np.uint8]:
    """Number of the land unit of every position: uint8, LAKE_BED to the last field."""
    patches = np.tanh(sample(noise(seed, "patches"), 1.5 * u, 1.5 * v))
    across = u - valley_axis(v)
    flank = np.abs(across) > FLOOR_HALF_WIDTH + 0.015 + 0.01 * patches
    unit = np.full(z.shape, PASTURE, np.uint8)
    unit[flank & (patches > -0.85)] = FOREST
    unit[flank & (z > 1650 + 160 * patches)] = ALP_MEADOW
    unit[flank & (z > 2250 + 180 * patches)] = ROCK
    for number, (west, east, north, south) in enumerate(field_edges(), start=FIRST_FIELD):
        unit[(across > west) & (across < east) & (v > north) & (v < south)] = number
    unit[lake_radius(seed, u, v) < 1] = LAKE_BED
    return unit


def field_edges() -> tuple[tuple[float, float, float, float], ...]:
    """(west, east, north, south) of every field: west and east count from the valley axis."""
    return tuple((*column, *row) for row in FIELD_ROWS for column in FIELD_COLUMNS)


@lru_cache(maxsize=32)
def noise(seed: int, name: str, size: int = 512) -> F64:
    """A periodic random field of zero mean and unit variance, shape (size, size).

    Its spectrum falls as a power of the frequency, the shape of terrain and clouds; name chooses
    the slope and an independent draw.
    """
    slope, lowest, highest = {
        "relief": (2.1, 2, 48),
        "shore": (1.6, 4, 24),
        "patches": (1.5, 4, 64),
        "vigour": (1.2, 4, 64),
        "grain": (0.8, 8, 160),
        "clouds": (1.75, 2, 160),
        "cirrus": (2.2, 1, 24),
        "errors": (0.7, 12, 120),
    }[name]
    rng = np.random.default_rng([seed, *name.encode()])
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2))
    band = (frequency >= lowest) & (frequency <= highest)
    power = np.where(band, np.maximum(frequency, 1) ** -slope, 0)
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * power).real
    return np.asarray((field - field.mean()) / field.std())


def sample(field: F64, u: F64, v: F64, *, order: int = 3) -> F64:
    """A periodic field read at positions counted in periods, by splines of that order."""
    size = field.shape[0]
    points = np.stack([v * size, u * size])
    return np.asarray(ndimage.map_coordinates(field, points, order=order, mode="grid-wrap"))


def _slopes(z: F32, u: F64, v: F64) -> tuple[F32, F32]:
    """Rise per metre along u and v, from differences along the rows and columns of a tile.

    The axes of a tile in another zone are turned against u and v: by one angle over so small an
    area, so the frame of the middle pixel serves for all.
    """
    rows, columns = np.gradient(z)
    y, x = z.shape[0] // 2, z.shape[1] // 2
    frame = np.array(
        [
            [u[y, x + 1] - u[y, x], v[y, x + 1] - v[y, x]],
            [u[y + 1, x] - u[y, x], v[y + 1, x] - v[y, x]],
        ]
    )
    inverse = np.linalg.inv(frame) / SHADING_WIDTH_M
    east = inverse[0, 0] * columns + inverse[0, 1] * rows
    south = inverse[1, 0] * columns + inverse[1, 1] * rows
    return east.astype(np.float32), south.astype(np.float32)
