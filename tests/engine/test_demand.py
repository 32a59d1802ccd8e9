"""What a bill counts of a file, against counting its tiles one by one."""

import numpy as np
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from alpage.engine.demand import Demand, windows_under
from alpage.engine.header import CogHeader, CogLevel
from alpage.engine.positions import block_of
from alpage.engine.storage import REQUEST_BYTES, merge
from alpage.engine.warp import needed_window
from alpage.grid import Grid

sides = st.integers(1, 9)
windows = st.tuples(st.integers(-12, 40), st.integers(-12, 40), st.integers(0, 30), sides)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.tuples(sides, sides),
    asked=st.lists(windows, min_size=1, max_size=5),
    seed=st.integers(0, 99),
    fewest=st.integers(0, 1),
    size_bytes=st.sampled_from([1, 100_000]),
)
def test_every_tile_is_counted_once_a_window(shape, tile, asked, seed, fewest, size_bytes) -> None:
    rows, columns = (-(-n // side) for n, side in zip(shape, tile, strict=True))
    counts = np.random.default_rng(seed).integers(fewest, 3, rows * columns).astype("uint32")
    counts *= size_bytes
    demand = Demand()
    demand.add(CogLevel(shape, tile, counts, counts, False, 1, 1, ""), np.array(asked))
    requests = size = needed = 0
    for row, column, high, wide in asked:
        ranges: list[tuple[int, int]] = []
        pixels = np.zeros(shape, dtype=bool)
        pixels[max(row, 0) : max(row + high, 0), max(column, 0) : max(column + wide, 0)] = True
        needed += int(pixels.sum())
        for number, count in enumerate(counts.tolist()):
            y, x = (n * side for n, side in zip(divmod(number, columns), tile, strict=True))
            if count and pixels[y : y + tile[0], x : x + tile[1]].any():
                requests += 1
                ranges.append((int(counts[:number].sum()), count))
        size += sum(stop - start for start, stop in merge(ranges))
    assert (demand.requests, demand.useful_px) == (requests, needed)
    # What lies beside a tile that the file leaves out, or beyond the longest request, is not read.
    assert demand.read_bytes >= size
    if fewest and counts.sum() <= REQUEST_BYTES:
        assert demand.read_bytes == size
    assert demand.read_px == requests * tile[0] * tile[1]


@given(
    resolution=st.sampled_from([10.0, 20.0, 30.0, 60.0, 10.001]),
    moved=st.tuples(st.integers(-90, 90), st.sampled_from([0.0, 2.5, 5.0, 10.0])),
    crs=st.sampled_from([32632, 32631]),
    kernel=st.sampled_from(["nearest", "average", "bilinear", "cubic"]),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    tile_px=st.integers(16, 40),
    halo=st.integers(0, 3),
    data=st.data(),
)
def test_windows_of_all_tiles_are_those_of_each(
    resolution, moved, crs, kernel, shape, tile_px, halo, data
) -> None:
    x, y = 10.0 * moved[0] + moved[1], 10.0 * moved[0] - moved[1]
    corner = (resolution, 0.0, 300_000 + x, 0.0, -resolution, 5_100_000 + y)
    none = np.zeros(1, dtype="uint64")
    level = CogLevel((400, 300), (400, 300), none, none.astype("uint32"), False, 1, 1, "")
    header = CogHeader("a.tif", 1, "uint16", 1, 0.0, crs, corner, "<", (level,))
    lattice = Affine(10, 0, 300_000, 0, -10, 5_100_000)
    grid = Grid(GeoBox(shape, lattice, "EPSG:32632"), tile_px)
    tiles = list(grid.tiles)
    numbers = np.array(sorted(data.draw(st.sets(st.integers(0, len(tiles) - 1), min_size=1))))
    found = windows_under(header, kernel, grid, numbers, halo)
    for at, number in enumerate(numbers.tolist()):
        box = grid.tile_box(tiles[number], halo_px=halo)
        assert tuple(found[at]) == needed_window(header, block_of(box), kernel)
