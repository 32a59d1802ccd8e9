"""COGs as the valley's scenes have them."""

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from alpage.files import replacing
from alpage.simulate.spec import PIXEL_M, Tile


def write_cog(
    path: Path,
    array: NDArray[np.generic],
    tile: Tile,
    block_px: int,
    *,
    nodata: float | None,
    overview_resampling: str = "nearest",
) -> None:
    """Write one band as a cloud-optimised GeoTIFF with at least one overview.

    The pixel size follows from the array's width over the tile's.
    """
    height, width = array.shape
    overviews = 1
    while min(height, width) >> overviews > block_px:
        overviews += 1
    with (
        replacing(path) as temporary,
        rasterio.open(
            temporary,
            "w",
            driver="COG",
            height=height,
            width=width,
            count=1,
            dtype=array.dtype,
            crs=tile.crs,
            transform=tile.transform(PIXEL_M * tile.width // width),
            nodata=nodata,
            blocksize=block_px,
            compress="DEFLATE",
            level=1,
            predictor="YES",
            overview_count=overviews,
            overview_resampling=overview_resampling,
        ) as target,
    ):
        target.write(array, 1)
