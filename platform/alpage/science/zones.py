"""The pixels of zones within a block, for statistics by zone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ZoneIndex:
    """The pixels of each zone within one block, as compressed rows. Zones may overlap."""

    zones: NDArray[np.int32]
    """Ids of the zones with at least one pixel in the block, ascending."""
    starts: NDArray[np.int64]
    """Zone number k owns ``pixels[starts[k]:starts[k + 1]]``."""
    pixels: NDArray[np.int32]
    """Flattened (row-major) pixel numbers, ascending within each zone."""
    shape_yx: tuple[int, int]
    """Shape of the block."""


def zone_index(masks: Mapping[int, NDArray[np.bool_]], shape_yx: tuple[int, int]) -> ZoneIndex:
    """Return the index of zones given as boolean masks, shape (y, x), by zone id.

    Zones without a pixel in the block are left out. Raises ValueError where a mask has
    another shape than the block.

    >>> index = zone_index({7: np.array([[True, False], [True, True]])}, (2, 2))
    >>> index.zones, index.pixels
    (array([7], dtype=int32), array([0, 2, 3], dtype=int32))
    """
    zones, rows = [], []
    for zone in sorted(masks):
        if masks[zone].shape != shape_yx:
            raise ValueError(
                f"the mask of zone {zone} has shape {masks[zone].shape}, the block {shape_yx}: "
                "rasterise zones on the grid of the block"
            )
        pixels = np.flatnonzero(masks[zone]).astype(np.int32)
        if pixels.size:
            zones.append(zone)
            rows.append(pixels)
    starts = np.zeros(len(zones) + 1, np.int64)
    starts[1:] = np.cumsum([row.size for row in rows])
    pixels = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return ZoneIndex(np.array(zones, np.int32), starts, pixels, shape_yx)


def zones_by_rows(index: ZoneIndex, rows: Sequence[slice]) -> Iterator[ZoneIndex]:
    """Yield the index of the same zones within each of some runs of rows, counted from their first.

    >>> index = zone_index({7: np.array([[True, False], [True, True]])}, (2, 2))
    >>> [part.pixels.tolist() for part in zones_by_rows(index, [slice(0, 1), slice(1, 2)])]
    [[0], [0, 1]]
    """
    height, width = index.shape_yx
    numbers = np.arange(len(index.zones))
    # Pixels ascend within a zone, so these do throughout.
    places = np.repeat(numbers, np.diff(index.starts)) * (height * width) + index.pixels
    for part in rows:
        first, last = (
            np.searchsorted(places, numbers * (height * width) + row * width)
            for row in (part.start, part.stop)
        )
        sizes = last - first
        (there,) = np.nonzero(sizes)
        runs = [index.pixels[first[n] : last[n]] for n in there]
        pixels = np.concatenate(runs) if runs else index.pixels[:0]
        starts = np.concatenate([[0], np.cumsum(sizes[there])]).astype(np.int64)
        shape = (part.stop - part.start, width)
        yield ZoneIndex(index.zones[there], starts, pixels - np.int32(part.start * width), shape)


def zone_index_from_labels(labels: NDArray[np.int32], background: int = 0) -> ZoneIndex:
    """Return the index of the zones of a label image, shape (y, x); `background` is no zone.

    >>> index = zone_index_from_labels(np.array([[5, 0], [2, 5]], dtype="int32"))
    >>> index.zones, index.starts, index.pixels
    (array([2, 5], dtype=int32), array([0, 1, 3]), array([2, 0, 3], dtype=int32))
    """
    flat = labels.reshape(-1)
    inside = np.flatnonzero(flat != background).astype(np.int32)
    pixels = inside[np.argsort(flat[inside], kind="stable")]
    zones, sizes = np.unique(flat[inside], return_counts=True)
    starts = np.zeros(zones.size + 1, np.int64)
    starts[1:] = np.cumsum(sizes)
    return ZoneIndex(zones.astype(np.int32), starts, pixels, (labels.shape[0], labels.shape[1]))
