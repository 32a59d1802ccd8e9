"""Synthetic Sentinel-2 archives, all bands of 10 m as COGs under STAC: meadows, and mountains."""

import datetime as dt
import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
import pystac
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from scipy import ndimage

from alpage.files import replacing
from alpage.simulate.files import write_cog
from alpage.simulate.spec import PIXEL_M, Tile

WORKERS = 2
COLLECTION = "sentinel-2-l2a"
REVISIT_DAYS = 5
# Of the sensor and the ground: raises the compressed size to that of real imagery.
NOISE_DN = 45
VEGETATION, CLOUD_SHADOW, CLOUD, CIRRUS, SNOW = 4, 3, 9, 10, 11
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class ArchiveSpec:
    """An archive of so many dates of a square of so many pixels; equal ones hold equal pixels."""

    size: int
    dates: int
    block_px: int = 512
    """Side of the COGs' internal tiles."""
    first_day: dt.date = dt.date(2018, 1, 2)

    kind: ClassVar[str] = "archive"
    bands: ClassVar[tuple[str, ...]] = ("red", "nir", "scl")

    @property
    def name(self) -> str:
        """The archive's folder."""
        block = "" if self.block_px == 512 else f"-blocks-of-{self.block_px}"
        return f"{self.kind}-{self.dates}x{self.size}{block}"

    @property
    def tile(self) -> Tile:
        """The pixels of every scene."""
        return Tile("31TGL", 32631, 699_960, 5_100_000, self.size, self.size)

    @property
    def days(self) -> list[dt.date]:
        """The day of every scene."""
        return [self.first_day + dt.timedelta(REVISIT_DAYS * n) for n in range(self.dates)]

    def pixels(self, number: int) -> dict[str, NDArray[np.unsignedinteger]]:
        """Meadows that green and fade over the year, under noise, with clouds and an edge."""
        ground, date = np.random.default_rng(1), np.random.default_rng((2, number))
        greenness = _smooth(ground, self.size, cells=48) * np.sin(np.pi * (number + 1) / self.dates)
        scl, thick = _sky(date, self.size)
        scl[(greenness < 0.05) & (scl == VEGETATION)] = SNOW
        reflectance = {
            "red": 800 - 550 * greenness + 4000 * thick,
            "nir": 1500 + 2600 * greenness + 3000 * thick,
        }
        return _noisy(reflectance, scl, date, number)

    def elevation(self) -> NDArray[np.float32] | None:
        """Metres above the sea, where there is a relief."""
        return None


class SnowSpec(ArchiveSpec):
    """Mountains under a snow line that comes down and goes up again, from September on."""

    kind: ClassVar[str] = "snow"
    bands: ClassVar[tuple[str, ...]] = ("green", "red", "swir16", "scl")

    def pixels(self, number: int) -> dict[str, NDArray[np.unsignedinteger]]:
        """Land, thin snow and snow by elevation, under noise, with clouds and an edge."""
        date = np.random.default_rng((3, number))
        scl, thick = _sky(date, self.size)
        line = 2600 - 1500 * np.sin(np.pi * (number + 1) / (self.dates + 1))
        above = self.elevation() - line
        kinds = [above > 150, above > 0]
        scl[kinds[0] & (scl == VEGETATION)] = SNOW
        reflectance = {
            "green": np.select(kinds, [7000, 1500], 900) * (1 - thick) + 5500 * thick,
            "red": np.select(kinds, [6800, 1300], 700) * (1 - thick) + 5600 * thick,
            "swir16": np.select(kinds, [900, 900], 2200) * (1 - thick) + 4000 * thick,
        }
        return _noisy(reflectance, scl, date, number)

    def elevation(self) -> NDArray[np.float32]:
        """Metres above the sea."""
        return 700 + 2400 * _smooth(np.random.default_rng(4), self.size, cells=12)


def make_archive(spec: ArchiveSpec, root: Path) -> Path:
    """Return the folder of the archive, written now unless it is there already.

    It holds `collection.json`, an item and a COG for each band and date, `area.geojson`, and
    `dem.tif` where there is a relief.
    """
    folder = root / spec.name
    if (folder / "collection.json").exists():
        return folder
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_write_scene, spec, n, folder) for n in range(spec.dates)]
        items = [job.result() for job in jobs]
    if (elevation := spec.elevation()) is not None:
        write_cog(folder / "dem.tif", elevation, spec.tile, spec.block_px, nodata=-9999)
    # Pixel centres lie within, and the grid that covers it is the scenes' own.
    area = shapely.geometry.mapping(_outline(spec.tile, inset_m=PIXEL_M / 5, points_a_side=64))
    (folder / "area.geojson").write_text(json.dumps(area))
    _write_collection(spec, items, folder)
    return folder


def add_late_scene(spec: ArchiveSpec, folder: Path, *, size: int, day: int) -> None:
    """Add a scene of the north-western corner, so many days after the first, to an archive."""
    late = replace(spec, size=size, dates=1, first_day=spec.first_day + dt.timedelta(day))
    name = _write_scene(late, 0, folder)
    items = [_name(spec, number) for number in range(spec.dates)]
    _write_collection(spec, [*items, name], folder)


def _name(spec: ArchiveSpec, number: int) -> str:
    return f"S2A_{spec.tile.mgrs}_{spec.days[number]:%Y%m%d}_0_L2A"


def _write_scene(spec: ArchiveSpec, number: int, folder: Path) -> str:
    scene = folder / _name(spec, number)
    scene.mkdir(parents=True, exist_ok=True)
    for name, pixels in spec.pixels(number).items():
        write_cog(scene / f"{name}.tif", pixels, spec.tile, spec.block_px, nodata=0)
    item = _item(spec, number, scene.name)
    with replacing(scene / f"{scene.name}.json") as temporary:
        temporary.write_text(json.dumps(item.to_dict(transform_hrefs=False), indent=1))
    return scene.name


def _sky(date: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scene classes of a date's clouds and their shadows, and how thick the clouds are."""
    cloud = _smooth(date, size, cells=6) - date.uniform(0.2, 1)
    scl = np.full((size, size), VEGETATION, dtype=np.uint8)
    scl[np.roll(cloud, size // 20, axis=(0, 1)) > 0] = CLOUD_SHADOW
    scl[cloud > -0.05] = CIRRUS
    scl[cloud > 0] = CLOUD
    return scl, np.clip(cloud * 4, 0, 1)


def _noisy(
    reflectance: Mapping[str, NDArray[np.floating]],
    scl: NDArray[np.uint8],
    date: np.random.Generator,
    number: int,
) -> dict[str, NDArray[np.unsignedinteger]]:
    """Digital numbers under noise, empty beyond a slanted edge that moves with the date."""
    size = scl.shape[0]
    empty = np.add.outer(np.arange(size), np.arange(size)) < size // 8 * (number % 3)
    scl[empty] = 0
    bands: dict[str, NDArray[np.unsignedinteger]] = {"scl": scl}
    for name, band in reflectance.items():
        noise = NOISE_DN * date.standard_normal(band.shape, dtype=np.float32)
        numbers = np.clip(np.rint(band + noise), 1, 16_000)
        bands[name] = np.where(empty, 0, numbers).astype(np.uint16)
    return bands


def _smooth(rng: np.random.Generator, size: int, *, cells: int) -> NDArray[np.float32]:
    """A field from 0 to 1 without edges."""
    knots = rng.random((cells + 1, cells + 1), dtype=np.float32)
    field = ndimage.zoom(knots, size / (cells + 1), order=1, grid_mode=True, mode="nearest")
    return np.asarray(field)


def _item(spec: ArchiveSpec, number: int, name: str) -> pystac.Item:
    outline = _outline(spec.tile)
    moment = dt.datetime.combine(spec.days[number], dt.time(10, 30), dt.UTC)
    item = pystac.Item(
        id=name,
        geometry=shapely.geometry.mapping(outline),
        bbox=list(outline.bounds),
        datetime=moment,
        properties={
            "created": moment.isoformat(),
            "updated": moment.isoformat(),
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "eo:cloud_cover": 30.0,
            "grid:code": f"MGRS-{spec.tile.mgrs}",
            "proj:code": spec.tile.crs,
            "s2:processing_baseline": "02.14",
            "s2:product_type": "S2MSI2A",
            "sat:relative_orbit": 108,
        },
        stac_extensions=[
            f"https://stac-extensions.github.io/{extension}/schema.json"
            for extension in ("eo/v1.1.0", "projection/v2.0.0", "raster/v1.1.0", "sat/v1.0.0")
        ],
        collection=COLLECTION,
    )
    for band in spec.bands:
        item.add_asset(band, _asset(spec, band))
    item.add_link(
        pystac.Link(pystac.RelType.COLLECTION, "../collection.json", pystac.MediaType.JSON)
    )
    return item


def _asset(spec: ArchiveSpec, band: str) -> pystac.Asset:
    raster = {"nodata": 0, "data_type": "uint8", "spatial_resolution": PIXEL_M}
    if band != "scl":
        raster |= {"data_type": "uint16", "scale": 1e-4, "offset": 0}
    return pystac.Asset(
        href=f"./{band}.tif",
        media_type=COG_TYPE,
        roles=["data"],
        extra_fields={
            "proj:shape": list(spec.tile.shape),
            "proj:transform": [int(value) for value in spec.tile.transform()[:6]],
            "raster:bands": [raster],
        },
    )


def _write_collection(spec: ArchiveSpec, items: list[str], folder: Path) -> None:
    days = [dt.datetime.combine(day, dt.time(10, 30), dt.UTC) for day in spec.days]
    collection = pystac.Collection(
        id=COLLECTION,
        description="Noise in the form of Sentinel-2 Level-2A, to measure with.",
        license="CC0-1.0",
        extent=pystac.Extent(
            pystac.SpatialExtent([list(_outline(spec.tile).bounds)]),
            pystac.TemporalExtent([[days[0], days[-1]]]),
        ),
    )
    for name in items:
        href = f"./{name}/{name}.json"
        collection.add_link(pystac.Link(pystac.RelType.ITEM, href, "application/geo+json"))
    with replacing(folder / "collection.json") as temporary:
        temporary.write_text(json.dumps(collection.to_dict(transform_hrefs=False), indent=1))


def _outline(tile: Tile, *, inset_m: float = 0, points_a_side: int = 1) -> shapely.Polygon:
    """The tile's square in EPSG:4326, made smaller by a margin.

    With a point at each corner, as catalogues give footprints, its edges lie off by some metres.
    """
    side = tile.width * PIXEL_M
    square = shapely.box(tile.x0, tile.y0 - side, tile.x0 + side, tile.y0).buffer(
        -inset_m, join_style="mitre"
    )
    to_degrees = Transformer.from_crs(tile.crs, "EPSG:4326", always_xy=True)
    dense = shapely.segmentize(square, side / points_a_side)
    return shapely.transform(dense, to_degrees.transform, interleaved=False)
