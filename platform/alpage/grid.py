"""Where: the cube's pixels, cut in square tiles. Nothing else does pixel arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

Tile = tuple[int, int]
"""Row and column of a tile, from the top left."""


@dataclass(frozen=True)
class Grid:
    """CRS, resolution and origin of a cube, cut in square tiles from the top left."""

    geobox: GeoBox
    tile_px: int

    @property
    def crs(self) -> str:
        """The CRS as an authority code where it has one, else as WKT."""
        return str(self.geobox.crs)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns of the whole grid."""
        return self.geobox.shape.yx  # type: ignore[no-any-return]

    @property
    def transform(self) -> Affine:
        """From (column, row) to (x, y); pixel corners."""
        return self.geobox.transform

    @property
    def pixel_area_m2(self) -> float:
        """Area of a pixel in square units of the CRS, metres for projected ones."""
        return float(abs(self.transform.a * self.transform.e))

    @cached_property
    def tiles_yx(self) -> tuple[int, int]:
        """Number of tile rows and columns."""
        return -(-self.shape_yx[0] // self.tile_px), -(-self.shape_yx[1] // self.tile_px)

    def number(self, tile: Tile) -> int:
        """Return the place of a tile among all of them, row by row.

        >>> grid = Grid(GeoBox((70, 90), Affine(10, 0, 0, 0, -10, 0), "EPSG:32632"), 32)
        >>> [grid.number(tile) for tile in grid.tiles] == list(range(9))
        True
        """
        return tile[0] * self.tiles_yx[1] + tile[1]

    @property
    def tiles(self) -> Iterator[Tile]:
        """Every tile, row by row."""
        rows, columns = self.tiles_yx
        return ((row, column) for row in range(rows) for column in range(columns))

    def slices(self, tile: Tile) -> tuple[slice, slice]:
        """Return the rows and columns of a tile, clipped at the grid's edge."""
        (height, width), size = self.shape_yx, self.tile_px
        return (
            slice(tile[0] * size, min((tile[0] + 1) * size, height)),
            slice(tile[1] * size, min((tile[1] + 1) * size, width)),
        )

    def tile_box(self, tile: Tile, *, halo_px: int = 0) -> GeoBox:
        """Return the geobox of a tile, widened by a halo that may leave the grid.

        >>> from odc.geo.geobox import GeoBox
        >>> grid = Grid(GeoBox.from_bbox((0, 0, 1000, 700), "EPSG:32631", resolution=10), 64)
        >>> grid.tile_box((1, 1), halo_px=2).shape
        Shape2d(x=40, y=10)
        """
        transform = self.tile_transform(tile, halo_px=halo_px)
        return GeoBox(self.tile_shape(tile, halo_px=halo_px), transform, self.geobox.crs)

    def tile_shape(self, tile: Tile, *, halo_px: int = 0) -> tuple[int, int]:
        """Return rows and columns of a tile's geobox."""
        rows, columns = self.slices(tile)
        return rows.stop - rows.start + 2 * halo_px, columns.stop - columns.start + 2 * halo_px

    def tile_transform(self, tile: Tile, *, halo_px: int = 0) -> Affine:
        """Return the transform of a tile's geobox."""
        rows, columns = self.slices(tile)
        a, b, c, d, e, f = tuple(self.transform)[:6]
        x0, y0 = columns.start - halo_px, rows.start - halo_px
        return Affine(a, b, a * x0 + b * y0 + c, d, e, d * x0 + e * y0 + f)

    def outlines(self, tiles: Sequence[Tile], *, halo_px: int = 0) -> NDArray[Any]:
        """Return the outlines of tiles as polygons in the grid's CRS, in their order."""
        rows, columns = np.array(tiles, dtype=np.int64).reshape(-1, 2).T
        (height, width), size = self.shape_yx, self.tile_px
        a, _, c, _, e, f = tuple(self.transform)[:6]
        left, right = columns * size - halo_px, np.minimum((columns + 1) * size, width) + halo_px
        top, bottom = rows * size - halo_px, np.minimum((rows + 1) * size, height) + halo_px
        return np.asarray(shapely.box(c + a * left, f + e * bottom, c + a * right, f + e * top))

    def tiles_touching(self, geometry_4326: BaseGeometry, *, halo_px: int = 0) -> set[Tile]:
        """Return the tiles that a geometry in EPSG:4326 touches, or touches the halo of."""
        geometry = self.project(geometry_4326)
        rows, columns = self.tiles_yx
        inverse = ~self.transform
        x0, y0, x1, y1 = geometry.bounds
        (c0, r0), (c1, r1) = inverse @ (x0, y1), inverse @ (x1, y0)
        tiles = [
            (row, column)
            for row in self._numbers(r0 - halo_px, r1 + halo_px, rows)
            for column in self._numbers(c0 - halo_px, c1 + halo_px, columns)
        ]
        shapely.prepare(geometry)
        touched = shapely.intersects(geometry, self.outlines(tiles, halo_px=halo_px))
        return set(compress(tiles, touched))

    def _numbers(self, first_px: float, last_px: float, n_tiles: int) -> range:
        """Rows or columns of tiles between two pixels, of the `n_tiles` there are."""
        first, last = int(first_px // self.tile_px), int(last_px // self.tile_px)
        return range(max(first, 0), min(last + 1, n_tiles))

    def project(self, geometry_4326: BaseGeometry) -> BaseGeometry:
        """Return a geometry of EPSG:4326 in the grid's CRS."""
        return project(geometry_4326, self.crs)

    @cached_property
    def x(self) -> NDArray[np.float64]:
        """Pixel-centre coordinates along columns."""
        return np.asarray(self.geobox.coordinates[self.geobox.dimensions[1]].values)

    @cached_property
    def y(self) -> NDArray[np.float64]:
        """Pixel-centre coordinates along rows, downwards."""
        return np.asarray(self.geobox.coordinates[self.geobox.dimensions[0]].values)

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the grid: two grids with equal JSON line up pixel for pixel."""
        return {
            "crs": self.crs,
            "transform": list(self.transform)[:6],
            "shape_yx": list(self.shape_yx),
            "tile_px": self.tile_px,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Grid":
        """Rebuild a grid from `to_json`."""
        geobox = GeoBox(tuple(value["shape_yx"]), Affine(*value["transform"]), value["crs"])
        return cls(geobox, value["tile_px"])


def project(geometry_4326: BaseGeometry, crs: Any) -> BaseGeometry:
    """Return a geometry of EPSG:4326 in another CRS, edges densified to 0.01 degrees first."""
    transformer = _from_4326(str(crs))
    dense = shapely.segmentize(geometry_4326, 0.01)
    projected: BaseGeometry = shapely.transform(
        dense,
        transformer.transform,  # type: ignore[arg-type]
        interleaved=False,
    )
    return projected


@lru_cache(maxsize=32)
def _from_4326(crs: str) -> Transformer:
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)


def grid_over(
    geometry_4326: BaseGeometry,
    *,
    crs: Any,
    resolution: float,
    tile_px: int,
    anchor_xy: tuple[float, float] = (0.0, 0.0),
    align_px: int = 1,
) -> Grid:
    """Return the smallest grid over an area whose pixel corners fall on the anchor's lattice.

    With `align_px` it begins further up and left where it has more than one tile: on the anchor's
    lattice of so many pixels.

    Parameters
    ----------
    geometry_4326
        The area.
    crs, resolution
        Of the cube; the resolution is in units of the CRS.
    tile_px
        Side of a tile; smaller where the whole grid is smaller.
    anchor_xy
        Any pixel corner of the lattice, such as a scene's origin.
    align_px
        A side of which `tile_px` is a multiple, such as that of the internal tiles of a scene's
        files: none of them then lies under two tiles.

    >>> from shapely.geometry import box
    >>> grid = grid_over(box(3.02, 50.81, 3.03, 50.82), crs="EPSG:32631", resolution=10, tile_px=9)
    >>> grid.transform.c % 10, grid.shape_yx
    (0.0, (112, 72))
    """
    ax, ay = anchor_xy
    # Borders that fall on the lattice but for rounding do not add a row of pixels.
    slack = 1e-6 * resolution
    x0, y0, x1, y1 = project(geometry_4326, crs).bounds
    left = np.floor((x0 - ax + slack) / resolution)
    right = np.ceil((x1 - ax - slack) / resolution)
    bottom = np.floor((y0 - ay + slack) / resolution)
    top = np.ceil((y1 - ay - slack) / resolution)
    height, width = max(int(top - bottom), 1), max(int(right - left), 1)
    if max(height, width) > tile_px:
        height += int(-top % align_px)
        width += int(left % align_px)
        left, top = left - left % align_px, top + -top % align_px
    transform = Affine(resolution, 0, ax + left * resolution, 0, -resolution, ay + top * resolution)
    geobox = GeoBox((height, width), transform, crs)
    return Grid(geobox, min(tile_px, max(height, width)))
