"""The greenest value of each month: a product in one file."""

import numpy as np

import alpage
from alpage.science.indices import normalized_difference
from alpage.science.masks import DEFAULT_MASK

EMPTY = -32768


def ndvi(calendar: alpage.Calendar, name: str) -> alpage.Layer:
    return alpage.Layer(
        name, calendar, "int16", fill=EMPTY, scale=1e-4, valid_range=(-10000, 10000)
    )


def observe(seen: alpage.Observation) -> dict[str, np.ndarray]:
    gains, offsets = seen.stacked("nir", "red")
    nir, red = seen.bands["nir"], seen.bands["red"]
    mask = int(DEFAULT_MASK)
    return {
        "ndvi": normalized_difference(
            nir, red, seen.quality, gains=gains, offsets=offsets, mask=mask
        )
    }


def greenest(month: alpage.Segment) -> dict[str, np.ndarray]:
    return {"ndvi_max": month.layers["day/ndvi"].max(axis=0, keepdims=True, initial=EMPTY)}


product = alpage.Product(
    name="monthly_ndvi",
    version="1",
    stages=(
        alpage.Observe(
            "observe",
            (alpage.Band("red"), alpage.Band("nir")),
            (ndvi(alpage.Calendar.DAY, "ndvi"),),
            observe,
        ),
        alpage.Derive(
            "greenest",
            ("day/ndvi",),
            (ndvi(alpage.Calendar.MONTH, "ndvi_max"),),
            alpage.Calendar.MONTH,
            greenest,
        ),
    ),
)
