"""The cube's values depend on scenes and parameters alone, not on how the work is cut."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import from_bounds

import alpage
from alpage.clusters import open_cluster
from alpage.engine.memory import BASE_BYTES, USABLE
from alpage.engine.work import Work
from alpage.simulate.valley import Valley
from alpage.study import ClusterChoice

CUTS = ((512, 192), (48, 32), (32, 96))


@pytest.mark.parametrize("product", ["monthly_ndvi", "snow", "lakes", "vegetation"])
def test_tiles_and_windows_leave_no_trace(
    product: str, study_of: Callable[..., Any], cells: Callable[..., Any], same_values: Any
) -> None:
    made = []
    for tile_px, window_days in CUTS:
        study = study_of(
            product,
            f"{product}-{tile_px}",
            grid={"tile_px": tile_px, "window_days": window_days},
        )
        report = alpage.run(study)
        assert not report.quarantined
        made.append(cells(study.cube))
    filled = {
        path: (made[0].arrays[path] != made[0].fills[path]).mean() for path in made[0].values()
    }
    assert min(filled.values()) > 0, filled
    for other in made[1:]:
        same_values(made[0], other)
