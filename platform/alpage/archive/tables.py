"""STAC items in stac-geoparquet tables."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import stac_geoparquet.arrow as stac_arrow

from alpage.archive.facts import pruned
from alpage.errors import ArchiveError

_NEEDED_COLUMNS = frozenset({"id", "geometry", "bbox", "assets", "datetime"})


def read_items(
    source: Path | bytes, name: str, instants: tuple[datetime, datetime] | None = None
) -> list[dict[str, Any]]:
    """Return the STAC items of a stac-geoparquet file, without the nulls a table adds.

    Parameters
    ----------
    source
        The file, or what it holds.
    name
        The file, for messages.
    instants
        Only items between these times, and those that name no time.

    Raises
    ------
    ArchiveError
        The file is not stac-geoparquet.
    """
    opened = pa.BufferReader(source) if isinstance(source, bytes) else pa.memory_map(str(source))
    chosen = None
    if instants is not None:
        when = pc.field("datetime")
        start, end = (pa.scalar(instant) for instant in instants)
        chosen = when.is_null() | ((when >= start) & (when <= end))
    try:
        table = pq.read_table(opened, filters=chosen)
    except pa.ArrowException as error:
        raise ArchiveError(f"{name} is not stac-geoparquet: {error}") from error
    if missing := _NEEDED_COLUMNS.difference(table.column_names):
        raise ArchiveError(f"{name} is not stac-geoparquet: it has no {sorted(missing)}")
    if table.num_rows == 0:
        return []
    return [pruned(item) for item in stac_arrow.stac_table_to_items(table)]


def write_items(items: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write STAC items as stac-geoparquet.

    Raises
    ------
    ArchiveError
        The items cannot be held in one table.
    """
    try:
        table = stac_arrow.parse_stac_items_to_arrow([dict(item) for item in items])
        stac_arrow.to_parquet(table, path)
    except (pa.ArrowException, ValueError) as error:
        raise ArchiveError(
            f"the items cannot be held in one table ({error}):"
            " search one collection at a time, or have the archive write its fields alike"
        ) from error
