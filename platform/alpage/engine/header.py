"""What must be known of a COG before its pixels: read once, kept with the frozen scene list."""

import json
import struct
import zlib
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

MAGIC = b"ALCOG1"

Transform = tuple[float, float, float, float, float, float]


class BadCog(ValueError):  # noqa: N818
    """A file that is not a usable COG. `name` is its href without secrets."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def can_hold(dtype: "np.dtype[Any]", value: float) -> bool:
    """Return whether a file of a dtype may have a value as its nodata.

    >>> can_hold(np.dtype("uint16"), -9999.0), can_hold(np.dtype("int16"), -9999.0)
    (False, True)
    """
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max) and float(value).is_integer()


@dataclass(frozen=True, eq=False)
class CogLevel:
    """One resolution: the image itself or an overview. Strips are tiles as wide as the image."""

    shape_yx: tuple[int, int]
    tile_yx: tuple[int, int]
    offsets: NDArray[np.uint64]
    """Where each tile starts in the file, row by row."""
    bytecounts: NDArray[np.uint32]
    """Compressed bytes of each tile; 0 where all of it is nodata."""
    strips: bool
    compression: int
    """TIFF tag 259."""
    predictor: int
    why_slow: str
    """Why only GDAL reads this level; empty when we do."""

    @property
    def tiles_yx(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        (height, width), (rows, columns) = self.shape_yx, self.tile_yx
        return -(-height // rows), -(-width // columns)


@dataclass(frozen=True, eq=False)
class CogHeader:
    """A COG without its pixels. Picklable, 1-2 kB as bytes for a Sentinel-2 band."""

    href: str
    size_bytes: int
    dtype: str
    """numpy's name, native byte order."""
    bands: int
    """Only the first is ever read."""
    nodata: float | None
    """May be NaN. None when the file states none, or one that its dtype cannot hold."""
    crs: int | str
    """EPSG code, else WKT."""
    transform: Transform
    """a, b, c, d, e, f of x = a*column + b*row + c, y = d*column + e*row + f; pixel corners."""
    byteorder: str
    """'<' or '>'."""
    levels: tuple[CogLevel, ...]
    """Full resolution first, then overviews, largest first. Masks are left out."""
    measured_at_xy: tuple[float, float] | None = None
    """Where, in its CRS, the size of a cube's pixels is measured; None for the image's centre."""

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns of the full resolution."""
        return self.levels[0].shape_yx

    @property
    def fast(self) -> bool:
        """Whether every level is read without GDAL."""
        return not self.why_slow

    @property
    def why_slow(self) -> str:
        """The first reason why GDAL has to read a level, or nothing."""
        return next((level.why_slow for level in self.levels if level.why_slow), "")

    @property
    def fill(self) -> Any:
        """The value of pixels that are not in the file, as a numpy scalar: nodata or 0."""
        return np.dtype(self.dtype).type(0 if self.nodata is None else self.nodata)

    def assuming_nodata(self, nodata: float) -> Self:
        """Return the header with the nodata that is known otherwise of a file that states none.

        As it is where the file states its own, or its dtype cannot hold the other.
        """
        if self.nodata is not None or not can_hold(np.dtype(self.dtype), nodata):
            return self
        return replace(self, nodata=nodata)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as one buffer: Dask sends each small array of a task as a frame of its own."""
        return _unpacked, (self.to_bytes(),)

    def to_bytes(self) -> bytes:
        """Return the header as bytes that `from_bytes` reads."""
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        # Every task that reads the file takes it along, and it is kept beside the scene list.
        fields: dict[str, Any] = {
            one.name: getattr(self, one.name) for one in dataclass_fields(self)
        }
        levels, arrays = [], []
        for level in fields.pop("levels"):
            plain = dict(vars(level))
            offsets, counts = plain.pop("offsets").astype("<u8"), plain.pop("bytecounts")
            # Tiles mostly follow each other: what lies between them compresses to almost nothing.
            gaps = np.diff(offsets, prepend=np.uint64(0))
            gaps[1:] -= counts[:-1].astype("<u8")
            arrays += [gaps.tobytes(), counts.astype("<u4").tobytes()]
            levels.append(plain | {"tiles": len(offsets)})
        head = json.dumps(fields | {"levels": levels}).encode()
        return MAGIC + zlib.compress(struct.pack("<I", len(head)) + head + b"".join(arrays))

    @classmethod
    def from_bytes(cls, packed: bytes) -> Self:
        """Return the header that `to_bytes` packed. Raises `ValueError` for other bytes."""
        if not packed.startswith(MAGIC):
            raise ValueError("expected a COG header packed by this version: read it again")
        data = zlib.decompress(packed[len(MAGIC) :])
        (length,) = struct.unpack_from("<I", data)
        fields = json.loads(data[4 : 4 + length])
        position, levels = 4 + length, []
        for plain in fields.pop("levels"):
            tiles = plain.pop("tiles")
            gaps = np.frombuffer(data, "<u8", tiles, position).astype(np.uint64)
            counts = np.frombuffer(data, "<u4", tiles, position + 8 * tiles).astype(np.uint32)
            gaps[1:] += counts[:-1]
            position += 12 * tiles
            offsets = np.cumsum(gaps, dtype=np.uint64)
            shapes: dict[str, Any] = {key: tuple(plain.pop(key)) for key in ("shape_yx", "tile_yx")}
            levels.append(CogLevel(offsets=offsets, bytecounts=counts, **shapes, **plain))
        for key in ("transform", "measured_at_xy"):
            if fields.get(key) is not None:
                fields[key] = tuple(fields[key])
        return cls(levels=tuple(levels), **fields)


@lru_cache(maxsize=4096)
def _unpacked(packed: bytes) -> CogHeader:
    """Return a header that came with a task; the tasks of one scene bring the same."""
    return CogHeader.from_bytes(packed)
