"""Living datacubes of lakes, snow and vegetation from cloud-optimised satellite imagery."""

from alpage.cube.reader import Cube, open_cube
from alpage.product import (
    Band,
    Context,
    Derive,
    Gather,
    Layer,
    Observation,
    Observe,
    Parameters,
    Product,
    Segment,
    Series,
    Summarise,
    Table,
)
from alpage.study import Study, make_study, read_study
from alpage.timeaxis import Calendar
from alpage.verbs import history, plan, release, rollback, run, search, series, status

__all__ = [
    "Band",
    "Calendar",
    "Context",
    "Cube",
    "Derive",
    "Gather",
    "Layer",
    "Observation",
    "Observe",
    "Parameters",
    "Product",
    "Segment",
    "Series",
    "Study",
    "Summarise",
    "Table",
    "history",
    "make_study",
    "open_cube",
    "plan",
    "read_study",
    "release",
    "rollback",
    "run",
    "search",
    "series",
    "status",
]
