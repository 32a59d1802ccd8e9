"""The greenest value of each month: a product in one file."""

from alpage import Band, Calendar, Derive, Layer, Observation, Observe, Product, Segment
from alpage.science.indices import normalized_difference
from alpage.science.masks import DEFAULT_MASK

EMPTY = -32768
DAILY = Layer("ndvi", Calendar.DAY, "int16", EMPTY, scale=1e-4, valid_range=(-10000, 10000))
GREENEST = Layer("ndvi_max", Calendar.MONTH, "int16", EMPTY, scale=1e-4)


def observe(seen: Observation) -> dict:
    gains, offsets = seen.stacked("nir", "red")
    ndvi = normalized_difference(
        seen.bands["nir"],
        seen.bands["red"],
        seen.quality,
        gains=gains,
        offsets=offsets,
        mask=int(DEFAULT_MASK),
    )
    return {"ndvi": ndvi}


def greenest(month: Segment) -> dict:
    return {"ndvi_max": month.layers["day/ndvi"].max(axis=0, keepdims=True, initial=EMPTY)}


product = Product(
    name="monthly_ndvi",
    version="1",
    stages=(
        Observe("observe", (Band("red"), Band("nir")), (DAILY,), observe),
        Derive("greenest", ("day/ndvi",), (GREENEST,), Calendar.MONTH, greenest),
    ),
)
