"""What blocks ask of imagery and elevation, counted for the bill without reading a pixel.

Files of one grid lie alike under every tile: where is worked out once for all of them, and each
file is then counted for all of its tiles at once. A plan has a few grids and millions of windows.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.cube.ledger import BlockId
from alpage.engine.cog import Window
from alpage.engine.header import CogHeader, CogLevel
from alpage.engine.inspect import SceneSource, kernels_of
from alpage.engine.positions import Block, are_parallel, source_of
from alpage.engine.rasters import ELEVATION_KERNEL
from alpage.engine.shared import Shared
from alpage.engine.storage import MERGE_GAP
from alpage.engine.warp import needed_window
from alpage.engine.work import Work
from alpage.grid import Grid
from alpage.product import Context, Kernel, Observe

Windows = NDArray[np.int64]
"""(n, 4): row, column, height and width of each, in pixels of the file; may leave the image."""


@dataclass
class Demand:
    """Tiles of COGs, their bytes and pixels, and the pixels of them that are needed."""

    requests: int = 0
    read_bytes: int = 0
    read_px: int = 0
    useful_px: int = 0
    scenes: set[str] = field(default_factory=set)

    def add(self, level: CogLevel, windows: Windows) -> None:
        """Count what lies under windows of a file's image, and what is fetched with it.

        >>> counts = np.array([5, 0, 7, 9], dtype="uint32")
        >>> level = CogLevel((8, 8), (4, 4), counts, counts, False, 1, 1, "")
        >>> demand = Demand()
        >>> demand.add(level, np.array([[0, 0, 8, 4], [6, 6, 9, 9]]))
        >>> demand.requests, demand.read_bytes, demand.read_px, demand.useful_px
        (3, 21, 48, 36)
        """
        sides, shape = np.array(level.tile_yx), np.array(level.shape_yx)
        start = np.maximum(windows[:, :2], 0)
        stop = np.minimum(windows[:, :2] + windows[:, 2:], shape)
        inside = (start < stop).all(axis=1)
        start, stop = start[inside], stop[inside]
        counts = level.bytecounts.reshape(level.tiles_yx).astype(np.int64)
        first, last = start // sides, -(-stop // sides)
        filled = _sums(counts > 0, first, last)
        self.requests += filled
        self.read_bytes += _sums(counts, first, last) + _between(counts, first, last)
        self.read_px += filled * int(sides.prod())
        self.useful_px += int((stop - start).prod(axis=1).sum())


def demand_of(
    work: Work,
    blocks: Mapping[str, Collection[BlockId]],
    sources: Mapping[str, SceneSource],
    shared: Shared,
) -> Demand:
    """Return what blocks, by step, ask for at most."""
    demand, grid, context = Demand(), work.layout.grid, shared.context
    for step, of_step in blocks.items():
        stage = work.stage(step)
        if isinstance(stage, Observe):
            _add_imagery(demand, work, stage, of_step, sources, context)
        if shared.dem is not None and of_step and not work.is_total(step):
            halo = stage.halo_px(context) if isinstance(stage, Observe) else 0
            numbers = np.array([grid.number(block.tile) for block in of_step])
            tiles, at = np.unique(numbers, return_inverse=True)
            windows = windows_under(shared.dem, ELEVATION_KERNEL, grid, tiles, halo)
            demand.add(shared.dem.levels[0], windows[at])
    return demand


def _add_imagery(
    demand: Demand,
    work: Work,
    stage: Observe,
    blocks: Collection[BlockId],
    sources: Mapping[str, SceneSource],
    context: Context,
) -> None:
    grid, halo = work.layout.grid, stage.halo_px(context)
    tiles_of: dict[str, list[int]] = defaultdict(list)
    for block in blocks:
        number = grid.number(block.tile)
        for _, scenes in work.index.scenes(block.tile, block.block):
            for scene in scenes:
                tiles_of[scene.id].append(number)
    kernels = kernels_of(stage.bands)
    alike: dict[tuple[Kernel, object], list[tuple[CogHeader, list[int]]]] = defaultdict(list)
    for scene_id, tiles in tiles_of.items():
        source = sources[scene_id]
        for name in (*(band.name for band in stage.bands), *source.quality_bands):
            header, kernel = source.bands[name].header, kernels[name]
            lies = header.crs, header.transform, header.shape_yx
            alike[kernel, lies].append((header, tiles))
    demand.scenes |= tiles_of.keys()
    for (kernel, _), files in alike.items():
        numbers = np.unique(np.concatenate([tiles for _, tiles in files]))
        windows = windows_under(files[0][0], kernel, grid, numbers, halo)
        for header, tiles in files:
            demand.add(header.levels[0], windows[np.searchsorted(numbers, tiles)])


def windows_under(
    header: CogHeader, kernel: Kernel, grid: Grid, numbers: NDArray[np.int64], halo: int
) -> Windows:
    """Return the windows of a file that tiles of a grid need, by their numbers row by row."""

    def window(row: int, column: int) -> Window:
        transform = tuple(grid.tile_transform((row, column), halo_px=halo))[:6]
        shape = grid.tile_shape((row, column), halo_px=halo)
        return needed_window(header, Block(grid.crs, transform, shape), kernel)

    rows, columns = np.divmod(numbers, grid.tiles_yx[1])
    if not are_parallel(source_of(header), grid.crs):
        both = zip(rows.tolist(), columns.tolist(), strict=True)
        return np.array([window(*tile) for tile in both], dtype=np.int64)
    # Where a tile lies along one axis then depends on its number along that axis alone.
    known_rows, row_at = np.unique(rows, return_inverse=True)
    known_columns, column_at = np.unique(columns, return_inverse=True)
    down = np.array([window(row, int(columns[0])) for row in known_rows.tolist()])
    across = np.array([window(int(rows[0]), column) for column in known_columns.tolist()])
    found = np.empty((len(numbers), 4), dtype=np.int64)
    found[:, ::2], found[:, 1::2] = down[row_at, ::2], across[column_at, 1::2]
    return found


def _between(counts: NDArray[np.int64], first: Windows, last: Windows) -> int:
    """The bytes between the rows of tiles under windows, where both rows are fetched as one.

    Tiles lie in a COG row by row.
    """
    columns = counts.shape[1]
    upto = np.concatenate([[0], counts.ravel().cumsum()])
    total = 0
    for row in range(int((last[:, 0] - first[:, 0]).max(initial=1)) - 1):
        has_next = first[:, 0] + row + 1 < last[:, 0]
        start = (first[has_next, 0] + row) * columns
        gaps = upto[start + columns + first[has_next, 1]] - upto[start + last[has_next, 1]]
        total += int(gaps[gaps <= MERGE_GAP].sum())
    return total


def _sums(values: NDArray[Any], first: Windows, last: Windows) -> int:
    """The sum over rectangles of an array, which may overlap, from its sums up to each corner."""
    upto = np.zeros(tuple(n + 1 for n in values.shape), dtype=np.int64)
    upto[1:, 1:] = values.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    (top, left), (bottom, right) = first.T, last.T
    found = upto[bottom, right] - upto[top, right] - upto[bottom, left] + upto[top, left]
    return int(found.sum())
