"""The product that is measured: clear daily NDVI, and its mean and maximum over a year."""

from collections.abc import Mapping

import numpy as np
from numba import njit

from alpage.product import Array, Band, Derive, Layer, Observation, Observe, Product, Segment
from alpage.science.indices import normalized_difference
from alpage.science.masks import DEFAULT_MASK
from alpage.timeaxis import Calendar

FILL = -32768


def _layer(name: str, calendar: Calendar) -> Layer:
    return Layer(name, calendar, "int16", fill=FILL, scale=1e-4, valid_range=(-10_000, 10_000))


def observe(observation: Observation) -> Mapping[str, Array]:
    """NDVI of each date where the scene classes say clear."""
    gains, offsets = observation.stacked("nir", "red")
    ndvi = normalized_difference(
        observation.bands["nir"],
        observation.bands["red"],
        observation.quality,
        gains=gains,
        offsets=offsets,
        mask=DEFAULT_MASK,
        fill=FILL,
    )
    return {"ndvi": ndvi}


def statistics(segment: Segment) -> Mapping[str, Array]:
    """Mean and maximum of the year's clear observations."""
    mean, highest = _mean_and_max(segment.layers["day/ndvi"][segment.inner])
    return {"ndvi_mean": mean[None], "ndvi_max": highest[None]}


@njit(cache=True, nogil=True)
def _mean_and_max(values: Array) -> tuple[Array, Array]:
    steps, height, width = values.shape
    total = np.zeros((height, width), dtype=np.int32)
    count = np.zeros((height, width), dtype=np.int32)
    highest = np.full((height, width), FILL, dtype=np.int16)
    for t in range(steps):
        for y in range(height):
            for x in range(width):
                value = values[t, y, x]
                if value != FILL:
                    total[y, x] += value
                    count[y, x] += 1
                    highest[y, x] = max(highest[y, x], value)
    mean = np.full((height, width), FILL, dtype=np.int16)
    for y in range(height):
        for x in range(width):
            if count[y, x]:
                mean[y, x] = np.int16(np.rint(total[y, x] / count[y, x]))
    return mean, highest


ndvi_statistics = Product(
    name="ndvi_statistics",
    version="1",
    title="NDVI, its mean and maximum",
    stages=(
        Observe(
            "observe",
            bands=(Band("red"), Band("nir")),
            layers=(_layer("ndvi", Calendar.DAY),),
            function=observe,
        ),
        Derive(
            "statistics",
            reads=("day/ndvi",),
            layers=(_layer("ndvi_mean", Calendar.YEAR), _layer("ndvi_max", Calendar.YEAR)),
            segment=Calendar.YEAR,
            function=statistics,
        ),
    ),
)
