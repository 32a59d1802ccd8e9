"""Real STAC items of every catalogue at hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import stac_geoparquet.arrow as stac_arrow

Items = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def items(shared: Path) -> Items:
    """Items of a file below shared/: one feature, a collection of them, or stac-geoparquet."""

    def read(name: str) -> list[dict[str, Any]]:
        path = shared / name
        if path.suffix == ".parquet":
            return list(stac_arrow.stac_table_to_items(pq.read_table(path)))
        document = json.loads(path.read_bytes())
        return list(document.get("features", [document]))

    return read


@pytest.fixture
def flemish(shared: Path) -> Path:
    """The static collection of 118 real Sentinel-2 scenes of one crop patch."""
    path = shared / "archive" / "00002806639B424A" / "collection.json"
    if not path.is_file():
        pytest.skip("needs shared/archive/00002806639B424A")
    return path
