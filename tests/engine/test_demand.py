"""What a bill counts of a file, against counting its tiles one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alpage.engine.demand import Demand
from alpage.engine.header import CogLevel

sides = st.integers(1, 9)
windows = st.tuples(st.integers(-12, 40), st.integers(-12, 40), st.integers(0, 30), sides)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.tuples(sides, sides),
    asked=st.lists(windows, min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_every_tile_is_counted_once_a_window(shape, tile, asked, seed) -> None:
    rows, columns = (-(-n // side) for n, side in zip(shape, tile, strict=True))
    counts = np.random.default_rng(seed).integers(0, 3, rows * columns).astype("uint32")
    demand = Demand()
    demand.add(CogLevel(shape, tile, counts, counts, False, 1, 1, ""), np.array(asked))
    requests = size = needed = 0
    for row, column, high, wide in asked:
        pixels = np.zeros(shape, dtype=bool)
        pixels[max(row, 0) : max(row + high, 0), max(column, 0) : max(column + wide, 0)] = True
        needed += int(pixels.sum())
        for number, count in enumerate(counts.tolist()):
            y, x = (n * side for n, side in zip(divmod(number, columns), tile, strict=True))
            if pixels[y : y + tile[0], x : x + tile[1]].any():
                requests += count > 0
                size += count
    assert (demand.requests, demand.read_bytes, demand.useful_px) == (requests, size, needed)
    assert demand.read_px == requests * tile[0] * tile[1]
