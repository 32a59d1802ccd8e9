"""The pyramid of a release: maps slot by slot, in squares, at coarser and coarser resolutions.

    maps/<calendar>/0        every layer at the cube's resolution
    maps/<calendar>/1 ...    at half the resolution of the one before, down to one small picture

Each level is cut in shards of as many pixels as a tile of the cube, so that one of a coarser
level is made of four of the finer one, whose pixels are let go of one by one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import icechunk
import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from odc.geo.geobox import GeoBox
from zarr.storage import MemoryStore, ObjectStore

from alpage.cube.layout import write_ground
from alpage.cube.shards import (
    Shards,
    ShardShape,
    ShardWriter,
    create_layer,
    inner_chunk,
)
from alpage.grid import Grid, Tile
from alpage.releases.contents import Group
from alpage.releases.copy import METADATA, Documents
from alpage.releases.geozarr import geozarr_attributes, multiscales_attributes
from alpage.releases.pieces import Place
from alpage.releases.stac import MAPS
from alpage.science.overviews import halve_mean, halve_mode

SIDE_PX = 256
"""Of the squares, and of the coarsest level at most."""

LEVELS = 3
"""Of a piece, beside its base: 64 tiles of that make one of its last."""

Maps = dict[int, NDArray[Any]]
"""Pixels (y, x) by slot of the time axis, in order; those that hold anything."""


def levels(grid: Grid) -> tuple[Grid, ...]:
    """Return the grids of a pyramid, the cube's first, down to one that is a square at most.

    Tiles of an odd number of pixels share pixels of the next level: there is none then, but for
    a grid of a single tile.

    >>> grid = Grid(GeoBox((1000, 300), Affine(10, 0, 0, 0, -10, 0), "EPSG:32631"), 512)
    >>> [level.shape_yx for level in levels(grid)]
    [(1000, 300), (500, 150), (250, 75)]
    """
    found = [grid]
    while max(found[-1].shape_yx) > SIDE_PX and (grid.tile_px % 2 == 0 or grid.tiles_yx == (1, 1)):
        height, width = found[-1].shape_yx
        transform = found[-1].transform * Affine.scale(2)
        coarser = GeoBox((-(-height // 2), -(-width // 2)), transform, grid.geobox.crs)
        found.append(replace(grid, geobox=coarser))
    return tuple(found)


@dataclass(frozen=True)
class Branch:
    """A tile of a level, with all that it is made of down to a finer level that is there."""

    layer: str
    """Its path in the cube, such as day/ndvi."""
    row: int
    """Number of its shard along time."""
    tile: Tile
    level: int
    base: int
    """Level that it begins with: 0 is the cube's own, others the release's."""

    def write(self, place: Place) -> None:
        """Write the tile and what lies between it and its base; a base of 0 too."""
        try:
            _write_tile(_Pyramid.of(place, self.layer, self.base), self.row, self.tile, self.level)
        except (BaseError, icechunk.IcechunkError) as error:
            raise place.shelf.failure("draw maps of the cube to", place.target, error) from None


def branches(place: Place) -> Iterator[list[Branch]]:
    """Yield the pieces of all pyramids, in turns: those of one turn begin where others have ended.

    So many levels are in one piece that it is work, and so few that there are many pieces.
    """
    grids = levels(place.contents.grid)
    top = len(grids) - 1
    for base in range(0, max(top, 1), LEVELS):
        level = min(base + LEVELS, top)
        yield [
            Branch(path, row, tile, level, base)
            for path in place.contents.layer_paths
            for row in range(_Pyramid.of(place, path, base).n_rows)
            for tile in grids[level].tiles
        ]


def pixel_bytes(place: Place) -> int:
    """Return how many bytes all slots of all layers are, without compression."""
    pixels = math.prod(place.contents.grid.shape_yx)
    return sum(
        len(group.span) * pixels * np.dtype(variable.dtype).itemsize
        for group in place.contents.layers
        for variable in group.variables
    )


def peak_bytes(place: Place) -> int:
    """Return what the largest branch holds in memory: a shard as it is read, and one a level."""
    shards = (map_first(cut).n_bytes for cut in place.cuts.values())
    return max(shards, default=0) * (LEVELS + 2)


@dataclass(frozen=True)
class _Pyramid:
    """One layer, to be read at one level and written at those above."""

    place: Place
    layer: str
    base: int
    finest: Shards
    """Those of the base."""
    shape: ShardShape
    """Of the shards of every level."""
    grids: tuple[Grid, ...]
    n_slots: int
    halve: Callable[[NDArray[Any], int], NDArray[Any]]

    @classmethod
    def of(cls, place: Place, layer: str, base: int) -> "_Pyramid":
        array = place.root[layer]
        cube, n_slots = place.cuts[layer], array.shape[0]
        shape = map_first(cube)
        if base == 0:
            finest = Shards(place.root.store, layer, cube, n_slots)
        else:
            written = ObjectStore(place.shelf.store, read_only=True)
            key = place.shelf.key(f"{place.target}/{path_of(layer, base)}")
            finest = Shards(written, key, shape, n_slots)
        halve = halve_mode if is_coded(array.attrs) else halve_mean
        grids = levels(place.contents.grid)
        return cls(place, layer, base, finest, shape, grids, n_slots, halve)

    @property
    def n_rows(self) -> int:
        """Shards along time."""
        return -(-self.n_slots // self.shape.shard[0])

    def put(self, row: int, tile: Tile, level: int, maps: Maps) -> None:
        """Write a shard of a level."""
        writer = ShardWriter(self.shape)
        writer.add((slot - row * self.shape.shard[0] for slot in maps), maps.values())
        content = writer.finish()
        if content is not None:
            key = "/".join(map(str, (path_of(self.layer, level), "c", row, *tile)))
            self.place.shelf.put(f"{self.place.target}/{key}", bytes(content))


def path_of(layer: str, level: int) -> str:
    """Return where a level of a layer lies in a release's store.

    >>> path_of("day/ndvi", 2)
    'maps/day/2/ndvi'
    """
    group, name = layer.split("/")
    return f"{MAPS}/{group}/{level}/{name}"


def is_coded(attributes: Mapping[str, Any]) -> bool:
    """Tell by its attributes whether a layer holds codes, which have no mean."""
    return not {"flag_values", "flag_masks"}.isdisjoint(attributes)


def map_first(shape: ShardShape) -> ShardShape:
    """Return how the maps of a layer are cut, whose shards in the cube are cut like this.

    >>> map_first(ShardShape((192, 512, 512), (32, 128, 128), np.dtype("int16"), -1))
    ShardShape(shard=(32, 512, 512), inner=(1, 256, 256), dtype=dtype('int16'), fill=-1)
    """
    steps, tile = shape.inner[0], shape.shard[1]
    side = inner_chunk(tile, SIDE_PX)
    return replace(shape, shard=(steps, tile, tile), inner=(1, side, side))


def _write_tile(layer: _Pyramid, row: int, tile: Tile, level: int) -> Maps:
    """Write a tile and all below it; returns what it holds."""
    found = _read(layer, row, tile) if level == layer.base else _compose(layer, row, tile, level)
    if level == 0 or level > layer.base:
        layer.put(row, tile, level, found)
    return found


def _read(layer: _Pyramid, row: int, tile: Tile) -> Maps:
    first, steps = row * layer.shape.shard[0], layer.shape.shard[0]
    slots = range(first, min(first + steps, layer.n_slots))
    return layer.finest.read_held(slots, tile, *layer.grids[layer.base].tile_shape(tile))


def _compose(layer: _Pyramid, row: int, tile: Tile, level: int) -> Maps:
    """Make a tile of a level of the four below it."""
    shape, fill, size = layer.grids[level].tile_shape(tile), layer.shape.fill, layer.shape.shard[1]
    maps: Maps = {}
    n_rows, n_columns = layer.grids[level - 1].tiles_yx
    for down, right in np.ndindex(2, 2):
        finer = 2 * tile[0] + down, 2 * tile[1] + right
        if finer[0] >= n_rows or finer[1] >= n_columns:
            continue
        y, x = down * size // 2, right * size // 2
        for slot, pixels in _write_tile(layer, row, finer, level - 1).items():
            if slot not in maps:
                maps[slot] = np.full(shape, fill, dtype=layer.shape.dtype)
            halved = layer.halve(pixels, fill)
            maps[slot][y : y + halved.shape[0], x : x + halved.shape[1]] = halved
    return dict(sorted(maps.items()))


def outline(place: Place) -> Documents:
    """Write the coordinates of all levels; return the metadata of all nodes, not written yet."""
    grids = levels(place.contents.grid)
    memory: dict[str, Any] = {}
    maps = zarr.create_group(MemoryStore(memory))
    for group in place.contents.layers:
        pyramid = maps.create_group(
            group.path, attributes=multiscales_attributes(grids, _method(group))
        )
        source = place.root[group.path]
        for number, grid in enumerate(grids):
            level = pyramid.create_group(
                str(number),
                attributes={**source.attrs.asdict(), **geozarr_attributes(grid)},
            )
            _write_coordinates(level, source, grid)
            for variable in group.variables:
                attributes = {**variable.attributes, **geozarr_attributes(grid)}
                if number:
                    method = "area: mode" if is_coded(variable.attributes) else "area: mean"
                    told = f"{attributes.get('cell_methods', '')} {method}".strip()
                    attributes["cell_methods"] = told
                cut = map_first(place.cuts[f"{group.path}/{variable.name}"])
                shape_tyx = (len(group.span), *grid.shape_yx)
                create_layer(level, variable.name, shape_tyx, cut, attributes)
    documents = {}
    for key, found in memory.items():
        content, path = found.to_bytes(), f"{MAPS}/{key}"
        if key.rsplit("/", 1)[-1] == METADATA:
            documents[path] = content
        else:
            place.shelf.put(f"{place.target}/{path}", content)
    return documents


def _write_coordinates(level: zarr.Group, source: zarr.Group, grid: Grid) -> None:
    """Write those of time as the cube has them, those of the ground for this level."""
    for name, array in source.arrays():
        if array.metadata.dimension_names == ("time",):
            level.create_array(
                name,
                data=array[:],
                chunks=array.shape,
                fill_value=array.fill_value,
                dimension_names=("time",),
                attributes=array.attrs.asdict(),
            )
    write_ground(level, grid)


def _method(group: Group) -> str | None:
    """How all layers of a group are halved; None where they differ: each says it of itself."""
    methods = {
        "mode" if is_coded(variable.attributes) else "average" for variable in group.variables
    }
    return methods.pop() if len(methods) == 1 else None
