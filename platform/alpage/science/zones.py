"""The pixels of zones within a block, for statistics by zone."""

from collections.abc import Mapping
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
    """Flattened (row-major) pixel numbers."""
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
