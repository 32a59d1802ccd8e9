"""What a cube holds before a run, placed on the axes that it will have after it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from alpage.cube.axes import axes_from_json
from alpage.cube.layout import Layout, table_rows, zone_steps
from alpage.cube.ledger import Ledger, voided
from alpage.cube.shards import check_encoding
from alpage.errors import CubeError
from alpage.product import Gather
from alpage.study import Study
from alpage.timeaxis import Calendar


@dataclass(frozen=True)
class Before:
    """A cube as a plan finds it."""

    root: zarr.Group
    layout: Layout
    zones_changed: bool
    """Whether the study's zones are others than those that it was built with."""
    scenes_digest: str | None
    """Of the scenes that it was built from."""

    def joined(self, asked: Layout) -> Layout:
        """Return the layout that holds both what is there and what is asked for."""
        there = self.layout.axes
        axes = {calendar: axis.joined(there[calendar]) for calendar, axis in asked.axes.items()}
        return replace(asked, axes=axes)

    def ledger(self, layout: Layout) -> Ledger:
        """Return the cube's record, on the axes of a layout that holds its own."""
        ledger = Ledger.empty(layout)
        for step, calendar in layout.steps.items():
            shift = self.layout.axes[calendar].first_block - layout.axes[calendar].first_block
            old = self.root[f"ledger/{step}/fingerprint"][:]
            if self.zones_changed and step in zone_steps(layout.product):
                old = voided(old)
            ledger.fingerprints[step][shift : shift + len(old)] = old
        return ledger

    def fill(self, result: NDArray[np.float64], gather: Gather, layout: Layout) -> None:
        """Write into a gathered table, a row for each day of a layout, what the cube has of it."""
        if gather.by_zone and self.zones_changed:
            return
        old = self.root[f"ledger/{gather.name}/result"][:]
        axes = self.layout.axes[Calendar.DAY], layout.axes[Calendar.DAY]
        shift = axes[0].span.start - axes[1].span.start
        result[shift : shift + len(old)] = old


def find_before(
    study: Study, asked: Layout, root: zarr.Group, cube: Mapping[str, Any], about: Mapping[str, Any]
) -> Before:
    """Return the cube that a study goes on with.

    `cube` is what it says of itself, `about` what the study would have it say. Raises CubeError
    where it is cut or encoded in another way than this study's would be.
    """
    old = axes_from_json(cube["axes"])
    if (window := old[Calendar.DAY].window) != study.grid.window_days:
        raise CubeError(
            f"grid.window_days: {study.cube} has windows of {window} days, this study asks "
            f"for {study.grid.window_days}; give it another cube, or the cube's own"
        )
    layout = replace(asked, axes=old)
    for layer in asked.product.layers:
        check_encoding(root[layer.path], layout.shard_shape(layer))
    _check_tables(study, asked, root)
    return Before(root, layout, cube["zones"] != about["zones"], cube.get("scenes"))


def _check_tables(study: Study, asked: Layout, root: zarr.Group) -> None:
    """Raises CubeError where the product's tables have rows of another shape than the cube's."""
    for name, path, before_row in table_rows(asked.product):
        there, row = root[path].shape[before_row:], asked.table_shapes[name]
        if there != row:
            raise CubeError(
                f"cube: {study.cube} was made with rows of shape {there} in table {name}, the "
                f"product now has {row}; give the product another version and the study another "
                "cube, or change it back"
            )
