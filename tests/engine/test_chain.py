"""What the blocks of one task have in common."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alpage.engine.chain import Kept, follower
from alpage.product import Product
from alpage.products.lakes import lakes
from alpage.products.snow import snow
from alpage.products.vegetation import vegetation


@pytest.mark.parametrize(
    ("product", "first", "last"),
    [
        (vegetation, "observe", "smooth"),
        # It reads dekads, which come from more than one year of days.
        (vegetation, "smooth", None),
        # Their daily layers need what all tiles gathered: what observes has no follower.
        (snow, "observe", None),
        (lakes, "observe", None),
        (snow, "classify", "season"),
        (lakes, "classify", "year"),
    ],
)
def test_what_follows_reads_only_what_was_made(
    product: Product, first: str, last: str | None
) -> None:
    found = follower(product, product.stage(first))
    assert (None if found is None else found.name) == last


@given(
    days=st.sets(st.integers(0, 400), min_size=1, max_size=40),
    asked=st.sets(st.integers(0, 400), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_days_come_back_as_they_were_put(
    days: set[int], asked: set[int], batch: int, order: random.Random
) -> None:
    """Whatever batches they came in, and only those that were asked for."""
    values = np.arange(401, dtype=np.int16)[:, None, None] * np.ones((1, 2, 3), dtype=np.int16)
    kept = Kept(("day/ndvi",), sorted(asked))
    put = np.array(sorted(days))
    batches = [put[at : at + batch] for at in range(0, len(put), batch)]
    order.shuffle(batches)
    for one in batches:
        kept.put("day/ndvi", one, values[one])
        kept.put("day/other", one, values[one])
    told: list[int] = []

    def read(out: NDArray[np.int16], places: NDArray[np.int64], missing: NDArray[np.int64]) -> None:
        told.extend(missing.tolist())
        out[places] = values[missing]

    for _ in range(2):
        found = kept.complete("day/ndvi", (2, 3), values.dtype, read)
        np.testing.assert_array_equal(found, values[sorted(asked)])
    # Nothing that was put is read, and nothing twice.
    assert told == sorted(asked - days)
