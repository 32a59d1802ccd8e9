"""What a valley is made of: its specification, its dates and its pixel grids."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyproj import Transformer

PIXEL_M = 10
# Corners of Sentinel-2 tiles lie on multiples of 60 m, so that 10, 20 and 60 m grids nest.
SNAP_M = 60
CENTRE_X, CENTRE_Y = 733_320, 5_070_000
MAIN_EPSG, EAST_EPSG = 32631, 32632


class ValleySpec(BaseModel):
    """One valley: the same specification gives the same pixels, whoever computes them.

    >>> spec = ValleySpec(size_px=128, start=date(2022, 1, 1), end=date(2022, 1, 18))
    >>> [d.day for d in spec.dates]
    [1, 6, 11, 16]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: Annotated[int, Field(ge=128, le=4096, multiple_of=2)] = 512
    """Width and height of the main tile in pixels of 10 m."""
    start: date = date(2021, 9, 1)
    end: date = date(2022, 12, 31)
    """Last day, inclusive."""
    revisit_days: Annotated[int, Field(ge=1)] = 5
    seed: Annotated[int, Field(ge=0)] = 0
    block_px: Annotated[int, Field(ge=16, multiple_of=16)] = 256
    """Side of the internal tiles of the COGs."""
    cloudiness: Annotated[float, Field(ge=0, le=1)] = 0.45
    """Mean cloud cover over the dates; 0 has no cloud at all."""
    baseline_change: date = date(2022, 1, 25)
    """Scenes sensed from this day on carry processing baseline 05.09, so DN are shifted by 1000."""

    @model_validator(mode="after")
    def _has_scenes(self) -> Self:
        if len(self.dates) < 4:
            raise ValueError(
                f"a valley needs at least 4 acquisition dates, {self.start} to {self.end} every "
                f"{self.revisit_days} days gives {len(self.dates)}: lengthen the period"
            )
        return self

    @property
    def dates(self) -> tuple[date, ...]:
        """Acquisition dates, the late one included."""
        count = (self.end - self.start).days // self.revisit_days + 1
        return tuple(self.start + timedelta(days=i * self.revisit_days) for i in range(count))

    @property
    def days(self) -> tuple[date, ...]:
        """Every day of the period."""
        return days_between(self.start, self.end)


def days_between(first: date, last: date) -> tuple[date, ...]:
    """All days from first to last, both included.

    >>> len(days_between(date(2021, 9, 1), date(2022, 8, 31)))
    365
    """
    return tuple(first + timedelta(days=i) for i in range((last - first).days + 1))


@dataclass(frozen=True)
class Tile:
    """A north-up grid of 10 m pixels in one UTM zone."""

    mgrs: str
    epsg: int
    x0: int
    y0: int
    width: int
    height: int

    @property
    def crs(self) -> str:
        """CRS as an authority code."""
        return f"EPSG:{self.epsg}"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels of 10 m."""
        return self.height, self.width

    def transform(self, pixel_m: int = PIXEL_M) -> Affine:
        """Affine from pixel corner (column, row) to CRS coordinates, for pixels of that size."""
        return Affine(pixel_m, 0.0, self.x0, 0.0, -pixel_m, self.y0)


def main_tile(spec: ValleySpec) -> Tile:
    """The tile that is the study area, in zone 31.

    >>> tile = main_tile(ValleySpec(size_px=512))
    >>> tile.crs, tile.shape, tile.x0 % 60
    ('EPSG:32631', (512, 512), 0)
    """
    half = spec.size_px * PIXEL_M // 2
    return Tile(
        mgrs="31TGL",
        epsg=MAIN_EPSG,
        x0=_snap(CENTRE_X - half),
        y0=_snap(CENTRE_Y + half),
        width=spec.size_px,
        height=spec.size_px,
    )


def east_tile(spec: ValleySpec) -> Tile:
    """The tile of the neighbouring zone 32 that covers the eastern half of the main tile."""
    main = main_tile(spec)
    side = spec.size_px * PIXEL_M
    to_east = Transformer.from_crs(MAIN_EPSG, EAST_EPSG, always_xy=True)
    xs, ys = to_east.transform(
        [main.x0 + side // 2, main.x0 + side] * 2,
        [main.y0, main.y0, main.y0 - side, main.y0 - side],
    )
    x0, y0 = _snap(min(xs)), _snap(max(ys)) + SNAP_M
    return Tile(
        mgrs="32TKR",
        epsg=EAST_EPSG,
        x0=x0,
        y0=y0,
        width=2 * int(np.ceil((max(xs) - x0) / (2 * PIXEL_M))),
        height=2 * int(np.ceil((y0 - min(ys)) / (2 * PIXEL_M))),
    )


def dem_tile(spec: ValleySpec) -> Tile:
    """The main tile with a margin that contains the eastern tile too."""
    main = main_tile(spec)
    margin = 6 * (spec.size_px // 48 + 2)
    return Tile(
        mgrs=main.mgrs,
        epsg=main.epsg,
        x0=main.x0 - margin * PIXEL_M,
        y0=main.y0 + margin * PIXEL_M,
        width=main.width + 2 * margin,
        height=main.height + 2 * margin,
    )


def valley_coordinates(
    spec: ValleySpec, tile: Tile
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position of the pixel centres of a tile in the valley's own frame.

    Returns (u, v), each of the tile's shape: u eastwards and v southwards, both 0 to 1 over the
    main tile, whatever its size and whatever the tile's CRS.
    """
    main = main_tile(spec)
    side = spec.size_px * PIXEL_M
    x, y = np.meshgrid(
        tile.x0 + PIXEL_M * (np.arange(tile.width) + 0.5),
        tile.y0 - PIXEL_M * (np.arange(tile.height) + 0.5),
    )
    if tile.epsg != main.epsg:
        x, y = Transformer.from_crs(tile.epsg, main.epsg, always_xy=True).transform(x, y)
    return (x - main.x0) / side, (main.y0 - y) / side


def _snap(coordinate: float) -> int:
    return int(coordinate // SNAP_M) * SNAP_M
