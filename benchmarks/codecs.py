"""What encoding and decoding an inner chunk costs, by codec: why layers are plain Zstandard.

On NDVI of a real field (../shared beside the project, 57 dates) and on the noise that fused.py
reads; 32 days of which one in five is observed, as in a cube.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import rasterio
from numcodecs.blosc import BITSHUFFLE, SHUFFLE, Blosc
from rich.console import Console
from rich.table import Table

FILL = -32768
ARCHIVE = Path(__file__).resolve().parents[2] / "shared" / "archive" / "00002806639B424A"
ROUNDS = 20

Encode = Callable[[Any], Any]


def blosc(name: str, shuffle: int) -> tuple[Encode, Encode]:
    """Return Blosc's way there and back, with one thread."""
    codec = Blosc(name, 1, shuffle)
    return codec.encode, codec.decode


CODECS: dict[str, tuple[Encode, Encode]] = {
    "zstd 1": (lambda a: imagecodecs.zstd_encode(a, level=1), imagecodecs.zstd_decode),
    "zstd 3": (lambda a: imagecodecs.zstd_encode(a, level=3), imagecodecs.zstd_decode),
    "zstd 5": (lambda a: imagecodecs.zstd_encode(a, level=5), imagecodecs.zstd_decode),
    "blosc zstd 1, shuffle": blosc("zstd", SHUFFLE),
    "blosc zstd 1, bitshuffle": blosc("zstd", BITSHUFFLE),
    "blosc lz4, shuffle": blosc("lz4", SHUFFLE),
    "blosc lz4, bitshuffle": blosc("lz4", BITSHUFFLE),
}


def main() -> None:
    """Print speed, in MB/s of observed pixels, and ratio of each codec."""
    console = Console()
    chunks = {"noise": noise()}
    if ARCHIVE.is_dir():
        chunks["field"] = field()
    for name, (chunk, observed) in chunks.items():
        table = Table(title=f"{name}: {observed} of {len(chunk)} days observed, one thread")
        for heading in ("codec", "write MB/s", "read MB/s", "ratio"):
            table.add_column(heading, justify="left" if heading == "codec" else "right")
        useful = chunk[0].nbytes * observed
        for codec, (encode, decode) in CODECS.items():
            packed = bytes(encode(chunk))
            assert np.array_equal(np.frombuffer(decode(packed), chunk.dtype), chunk.ravel())
            table.add_row(
                codec,
                f"{useful / seconds(encode, chunk) / 1e6:.0f}",
                f"{useful / seconds(decode, packed) / 1e6:.0f}",
                f"{useful / len(packed):.2f}",
            )
        console.print(table)


def noise() -> tuple[np.ndarray, int]:
    """Return a chunk of greenness under noise, and the days observed in it."""
    rng = np.random.default_rng(1)
    chunk = np.full((32, 128, 128), FILL, dtype="int16")
    for day in range(2, 32, 5):
        red = 600 + 45 * rng.standard_normal((128, 128))
        nir = 2800 + 45 * rng.standard_normal((128, 128))
        chunk[day] = np.rint(10000 * (nir - red) / (nir + red))
    return chunk, 6


def field() -> tuple[np.ndarray, int]:
    """Return a chunk of real NDVI, as large as the field is, and the days observed in it."""
    dates = sorted(path.parent for path in ARCHIVE.glob("*/*B04*.tif"))[8:14]
    chunk = np.full((32, 64, 64), FILL, dtype="int16")
    for day, folder in zip(range(2, 32, 5), dates, strict=True):
        red, nir = (read(next(folder.glob(f"*{band}*.tif"))) for band in ("B04", "B08"))
        ndvi = np.rint(10000 * (nir - red) / np.maximum(nir + red, 1))
        chunk[day] = ndvi[:64, :64]
    return chunk, len(dates)


def read(path: Path) -> np.ndarray:
    """Return a band as float."""
    with rasterio.open(path) as image:
        return np.asarray(image.read(1), dtype="float64")


def seconds(function: Encode, value: Any) -> float:
    """Return the best time of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        function(value)
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
