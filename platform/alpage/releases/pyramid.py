"""The pyramid of a release: maps slot by slot, in squares, at coarser and coarser resolutions.

    maps/<calendar>/0        every layer at the cube's resolution
    maps/<calendar>/1 ...    at half the resolution of the one before, down to one small picture

Each level is cut in shards of as many pixels as a tile of the cube, so that one of a coarser
level is made of four of the finer one, and no more than one shard a level is in memory.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import icechunk
import numpy as np
import zarr
from affine import Affine
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from zarr.storage import MemoryStore

from alpage.cube.layout import write_ground
from alpage.cube.shards import (
    Shards,
    ShardShape,
    ShardWriter,
    create_layer,
    holds,
    inner_chunk,
    shape_of,
)
from alpage.grid import Grid, Tile
from alpage.releases.contents import Contents, Group, Variable
from alpage.releases.copy import METADATA, Documents
from alpage.releases.geozarr import geozarr_attributes, multiscales_attributes
from alpage.releases.shelf import Shelf
from alpage.releases.stac import MAPS
from alpage.science.overviews import halve_mean, halve_mode

SIDE_PX = 256
"""Of the squares, and of the coarsest level at most."""

Maps = tuple[NDArray[np.int64], NDArray[Any]]
"""Slots of a shard that hold anything, and their pixels (slots, y, x)."""


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


def write_maps(root: zarr.Group, contents: Contents, shelf: Shelf, target: str) -> Documents:
    """Write the pyramids of a cube's layers; return the metadata of all nodes, not written yet.

    Raises StorageError where the shelf cannot be written, CubeError for a damaged shard.
    """
    grids = levels(contents.grid)
    documents = _outlined(root, contents, grids, shelf, target)
    try:
        for group in contents.layers:
            for variable in group.variables:
                _write_layer(_Pyramid.of(root, group, variable, grids), shelf, target)
    except icechunk.IcechunkError as error:
        raise shelf.failure("draw maps of the cube to", target, error) from None
    return documents


@dataclass(frozen=True)
class _Pyramid:
    """One layer, to be read at the cube's resolution and written at all."""

    path: str
    cube: Shards
    shape: ShardShape
    """Of the shards of every level."""
    grids: tuple[Grid, ...]
    n_slots: int
    halve: Any

    @classmethod
    def of(
        cls, root: zarr.Group, group: Group, variable: Variable, grids: tuple[Grid, ...]
    ) -> "_Pyramid":
        array = root[f"{group.path}/{variable.name}"]
        cube = shape_of(array)
        return cls(
            f"{group.path}/{{level}}/{variable.name}",
            Shards(root.store, array.path, cube, array.shape[0]),
            map_first(cube),
            grids,
            array.shape[0],
            halve_mode if is_coded(variable) else halve_mean,
        )


def is_coded(variable: Variable) -> bool:
    """Tell whether a layer holds codes, which have no mean."""
    return not {"flag_values", "flag_masks"}.isdisjoint(variable.attributes)


def map_first(shape: ShardShape) -> ShardShape:
    """Return how the maps of a layer are cut, whose shards in the cube are cut like this.

    >>> map_first(ShardShape((192, 512, 512), (32, 128, 128), np.dtype("int16"), -1))
    ShardShape(shard=(32, 512, 512), inner=(1, 256, 256), dtype=dtype('int16'), fill=-1)
    """
    steps, tile = shape.inner[0], shape.shard[1]
    side = inner_chunk(tile, SIDE_PX)
    return replace(shape, shard=(steps, tile, tile), inner=(1, side, side))


def _write_layer(layer: _Pyramid, shelf: Shelf, target: str) -> None:
    """Write all levels of a layer, several shards of time and tiles of the coarsest at once."""
    top = len(layer.grids) - 1
    rows = range(-(-layer.n_slots // layer.shape.shard[0]))
    branches = [(row, tile) for row in rows for tile in layer.grids[top].tiles]
    # A shard as it is read, and one a level.
    held = math.prod(layer.shape.shard) * layer.shape.dtype.itemsize * (top + 2)
    n_threads = max(1, min(CPU_COUNT, MEMORY_LIMIT // 2 // held))

    def write(branch: tuple[int, Tile]) -> None:
        row, tile = branch
        _write_branch(layer, row, tile, top, shelf, target)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(write, branches))


def _write_branch(
    layer: _Pyramid, row: int, tile: Tile, level: int, shelf: Shelf, target: str
) -> Maps | None:
    """Write a tile of a level and all below it; returns what it holds, None if nothing."""
    if level == 0:
        found = _read(layer, row, tile)
    else:
        found = _compose(layer, row, tile, level, shelf, target)
    if found is None:
        return None
    writer = ShardWriter(layer.shape)
    writer.add(*found)
    content = writer.finish()
    if content is not None:
        key = "/".join(map(str, (row, *tile)))
        shelf.put(f"{target}/{MAPS}/{layer.path.format(level=level)}/c/{key}", bytes(content))
    return found


def _read(layer: _Pyramid, row: int, tile: Tile) -> Maps | None:
    steps = layer.shape.shard[0]
    slots = np.arange(row * steps, min((row + 1) * steps, layer.n_slots))
    values = layer.cube.read(slots, tile, *layer.grids[0].tile_shape(tile))
    held = np.flatnonzero([holds(one, layer.shape.fill) for one in values])
    return (held, values[held]) if held.size else None


def _compose(
    layer: _Pyramid, row: int, tile: Tile, level: int, shelf: Shelf, target: str
) -> Maps | None:
    """Make a tile of a level of the four below it."""
    steps, size, _ = layer.shape.shard
    (rows, columns), fill = layer.grids[level].tile_shape(tile), layer.shape.fill
    whole = np.full((steps, rows, columns), fill, dtype=layer.shape.dtype)
    is_held = np.zeros(steps, dtype=bool)
    n_rows, n_columns = layer.grids[level - 1].tiles_yx
    for down, right in np.ndindex(2, 2):
        finer = 2 * tile[0] + down, 2 * tile[1] + right
        if finer[0] >= n_rows or finer[1] >= n_columns:
            continue
        found = _write_branch(layer, row, finer, level - 1, shelf, target)
        if found is None:
            continue
        slots, values = found
        halved = layer.halve(values, fill)
        y, x = down * size // 2, right * size // 2
        whole[slots, y : y + halved.shape[1], x : x + halved.shape[2]] = halved
        is_held[slots] = True
    held = np.flatnonzero(is_held)
    return (held, whole[held]) if held.size else None


def _outlined(
    root: zarr.Group, contents: Contents, grids: tuple[Grid, ...], shelf: Shelf, target: str
) -> Documents:
    """Write the coordinates of all levels; gives the metadata of these, the groups and layers."""
    memory: dict[str, Any] = {}
    maps = zarr.create_group(MemoryStore(memory))
    for group in contents.layers:
        pyramid = maps.create_group(
            group.path, attributes=multiscales_attributes(grids, _method(group))
        )
        source = root[group.path]
        for number, grid in enumerate(grids):
            level = pyramid.create_group(
                str(number),
                attributes={**source.attrs.asdict(), **geozarr_attributes(grid)},
            )
            _write_coordinates(level, source, grid)
            for variable in group.variables:
                attributes = {**variable.attributes, **geozarr_attributes(grid)}
                if number:
                    method = "area: mode" if is_coded(variable) else "area: mean"
                    told = f"{attributes.get('cell_methods', '')} {method}".strip()
                    attributes["cell_methods"] = told
                array = source[variable.name]
                shape_tyx = (array.shape[0], *grid.shape_yx)
                create_layer(
                    level, variable.name, shape_tyx, map_first(shape_of(array)), attributes
                )
    documents = {}
    for key, found in memory.items():
        content, path = found.to_bytes(), f"{MAPS}/{key}"
        if key.rsplit("/", 1)[-1] == METADATA:
            documents[path] = content
        else:
            shelf.put(f"{target}/{path}", content)
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
    methods = {"mode" if is_coded(variable) else "average" for variable in group.variables}
    return methods.pop() if len(methods) == 1 else None
