"""The whole valley: an archive of scenes, its zones and elevation, and the truth about it."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from affine import Affine
from pyproj import Transformer
from shapely import Polygon

from alpage.files import replacing
from alpage.simulate.files import write_cog
from alpage.simulate.items import footprint, item_is_written, write_collection, write_item
from alpage.simulate.scenes import (
    Scene,
    first_scenes,
    late_scene,
    reprocessed_scene,
    write_assets,
)
from alpage.simulate.spec import PIXEL_M, ValleySpec, dem_tile, main_tile
from alpage.simulate.terrain import landscape
from alpage.simulate.truth import write_truth
from alpage.simulate.zones import make_zones, write_zones


@dataclass(frozen=True)
class Valley:
    """Where a simulated valley lies, on disk and on the ground."""

    folder: Path
    spec: ValleySpec

    @property
    def archive(self) -> Path:
        """Folder of the STAC catalogue and its COGs: upload it as it is."""
        return self.folder / "archive"

    @property
    def collection(self) -> Path:
        """collection.json, the root of the static catalogue."""
        return self.archive / "collection.json"

    @property
    def dem(self) -> Path:
        """Elevation in metres, float32, 10 m, the main grid with a margin."""
        return self.folder / "dem.tif"

    @property
    def zones(self) -> Path:
        """zones.geojson: id, name, kind and polygon in longitude and latitude."""
        return self.folder / "zones.geojson"

    @property
    def truth(self) -> Path:
        """Folder of the true tables and maps."""
        return self.folder / "truth"

    @property
    def crs(self) -> str:
        """CRS of the true grid."""
        return main_tile(self.spec).crs

    @property
    def transform(self) -> Affine:
        """Affine of the true grid at 10 m."""
        return main_tile(self.spec).transform()

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the true grid at 10 m."""
        return main_tile(self.spec).shape

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees: the largest box inside the true grid."""
        tile = main_tile(self.spec)
        side = self.spec.size_px * PIXEL_M
        to_degrees = Transformer.from_crs(tile.crs, "EPSG:4326", always_xy=True)
        west, east = tile.x0, tile.x0 + side
        north, south = tile.y0, tile.y0 - side
        lon, lat = to_degrees.transform([west, west, east, east], [north, south, north, south])
        return max(lon[:2]), max(lat[1], lat[3]), min(lon[2:]), min(lat[0], lat[2])

    @property
    def dates(self) -> tuple[date, ...]:
        """Acquisition dates, the one of the late scene included."""
        return self.spec.dates


@dataclass(frozen=True)
class Added:
    """A scene that came into the archive afterwards."""

    item_id: str
    day: date
    footprint: Polygon
    """Longitude and latitude."""


def simulate(folder: Path, spec: ValleySpec, *, workers: int = 1) -> Valley:
    """Make a valley in a folder, or find it there; the pixels depend on the spec alone.

    `workers` processes write the scenes. An interrupted simulation goes on where it stopped.
    Late and reprocessed scenes are left to `add_late_scene` and `add_reprocessed_scene`.

    Raises
    ------
    ValueError
        The folder holds a valley of another specification.
    """
    valley = Valley(folder, spec)
    _claim(folder, spec)
    if valley.collection.exists():
        return valley
    tile = dem_tile(spec)
    relief = landscape(spec, tile).z
    write_cog(valley.dem, relief, tile, spec.block_px, nodata=None, overview_resampling="average")
    zones = make_zones(spec)
    write_zones(valley.zones, zones)
    write_truth(valley.truth, spec, zones)
    _write_scenes(valley.archive, first_scenes(spec), workers)
    # The collection comes last: its presence says that everything else is there.
    write_collection(valley.archive)
    return valley


def add_late_scene(valley: Valley) -> tuple[Added, ...]:
    """Write the scene that was kept back into the catalogue; gives what came in."""
    return _add(valley, late_scene(valley.spec))


def add_reprocessed_scene(valley: Valley) -> tuple[Added, ...]:
    """Replace an item by a newer processing: same id, new `updated`, baseline and pixels.

    The older assets stay where they were; gives what came in.
    """
    return _add(valley, reprocessed_scene(valley.spec))


def _add(valley: Valley, scene: Scene) -> tuple[Added, ...]:
    _write_scene(valley.archive, scene)
    write_collection(valley.archive)
    return (Added(scene.id, scene.day, footprint(scene)),)


def _claim(folder: Path, spec: ValleySpec) -> None:
    """Write the specification into an empty folder, or compare it with the one found."""
    path = folder / "valley.json"
    if path.exists():
        found = ValleySpec.model_validate_json(path.read_text())
        if found != spec:
            raise ValueError(
                f"{folder} holds another valley ({found!r}), asked for was {spec!r}: "
                "choose another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(spec.model_dump_json(indent=1))


def _write_scenes(archive: Path, scenes: Sequence[Scene], workers: int) -> None:
    write = partial(_write_scene, archive)
    if workers == 1:
        for scene in scenes:
            write(scene)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(write, scenes):
            pass


def _write_scene(archive: Path, scene: Scene) -> None:
    if not item_is_written(archive, scene):
        item_folder = archive / "items" / scene.id
        write_item(archive, scene, write_assets(item_folder, scene))
