"""A product whose blocks take their time and next to no processor, as those of a slow store do.

The blocks of one tile take several times as long as the others: every step ends with a tail.
"""

import time
from typing import Any

import numpy as np

from alpage.product import Band, Derive, Layer, Observation, Observe, Parameters, Product, Segment
from alpage.timeaxis import Calendar

EMPTY = -32768
RED = Layer("red", Calendar.DAY, "int16", EMPTY)
MOST = Layer("red_max", Calendar.YEAR, "int16", EMPTY)


class Pauses(Parameters):
    """Seconds that the work takes."""

    day_s: float
    """Of a day of imagery over a tile."""
    year_s: float
    """Of a year of a tile."""
    long_row: int
    """First row of the pixels of the tile that takes longer, in the whole grid."""
    long_column: int
    longer: float
    """How many times as long."""
    eats_mib: int = 0
    """Memory that the same tile takes, which no plan knows of."""


def observe(seen: Observation) -> dict[str, Any]:
    """Return the red band."""
    told = seen.context.parameters
    is_long = seen.origin_yx == (told.long_row, told.long_column)
    eaten = np.ones(told.eats_mib * 2**17 if is_long else 0)
    time.sleep(len(seen.days) * told.day_s * (told.longer if is_long else 1))
    assert eaten.all()
    return {"red": seen.bands["red"].astype("int16")}


def most(year: Segment) -> dict[str, Any]:
    """Return the largest value of each year."""
    time.sleep(year.context.parameters.year_s)
    return {"red_max": year.layers["day/red"].max(axis=0, keepdims=True)}


product = Product(
    name="patient",
    version="1",
    stages=(
        Observe("observe", (Band("red"),), (RED,), observe),
        Derive("most", ("day/red",), (MOST,), Calendar.YEAR, most),
    ),
    parameters=Pauses,
)
