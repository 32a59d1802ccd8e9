"""Arrays of tasks that are done are let go of, whoever keeps the frames that knew them."""

import gc
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import psutil
import pytest

from alpage.engine.leftovers import drop_leftovers
from alpage.engine.memory import BASE_BYTES


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


class RefusedError(Exception):
    """An exception that knows itself, as some do that numba raises while it compiles."""

    def __init__(self) -> None:
        self.itself = self


def _task(size: int) -> None:
    imagery = np.ones(size, dtype=np.uint8)
    with suppress(RefusedError):
        raise RefusedError
    assert imagery.all()


@pytest.fixture
def _no_luck() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_luck")
def test_what_a_task_left_in_a_cycle_goes_before_the_next() -> None:
    drop_leftovers()
    before = _resident_bytes()
    _task(BASE_BYTES)
    assert _resident_bytes() > before + 0.9 * BASE_BYTES
    drop_leftovers()
    assert _resident_bytes() < before + 0.1 * BASE_BYTES
