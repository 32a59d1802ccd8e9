from . import remote
from .cube.reader import Cube, open_cube
from .product import (
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
from .study import Study, make_study, read_study
from .timeaxis import Calendar
from .verbs import history, plan, release, rollback, run, search, series, status

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
    "remote",
    "rollback",
    "run",
    "search",
    "series",
    "status",
]
