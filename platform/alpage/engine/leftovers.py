"""What a worker still holds of tasks that are done."""

import gc

import psutil

from alpage.engine.memory import BASE_BYTES

MOST_BYTES = 64 * 2**20
"""What may come on top of what a search for garbage has left, until the next."""

_tolerated_bytes = BASE_BYTES


def drop_leftovers() -> None:
    """Find garbage where a worker holds more than a plan counts before a task begins.

    An exception that a library catches may stay in a cycle, with the frames that led to it and
    their arrays: numba compiles so. Python looks for cycles when many objects have come, and
    arrays are few: a block's imagery would lie beside that of the next one. Looking costs 0.1 to
    0.2 s, so it is not done for nothing.
    """
    global _tolerated_bytes
    if _resident_bytes() > _tolerated_bytes:
        gc.collect()
        _tolerated_bytes = max(BASE_BYTES, _resident_bytes() + MOST_BYTES)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
