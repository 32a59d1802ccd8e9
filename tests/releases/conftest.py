"""A small cube of a product of the tests' own, written without the engine."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import box

from alpage.archive.scene import describe
from alpage.archive.scenes import SceneList
from alpage.cube import layout as cube_layout
from alpage.cube.axes import axes_for
from alpage.cube.store import CubeStore
from alpage.grid import Grid
from alpage.product import Band, Derive, Layer, Observe, Product, Series, Summarise, Zone
from alpage.releases.publish import publish_release
from alpage.releases.stac import About
from alpage.timeaxis import Calendar, covering

NDVI = Layer(
    "ndvi", Calendar.DAY, "int16", -32768, scale=1e-4, long_name="NDVI", valid_range=(-10000, 10000)
)
STATE = Layer(
    "state", Calendar.DAY, "uint8", 255, flags={"land": 0, "snow": 1, "cloud": 2, "nodata": 255}
)
DURATION = Layer("duration", Calendar.SEASON, "int16", -1, units="d", long_name="snow duration")
PRODUCT = Product(
    "moss",
    "3",
    (
        Observe("look", (Band("red"),), (NDVI, STATE), lambda observation: {}),
        Derive("melt", ("day/ndvi",), (DURATION,), Calendar.SEASON, lambda segment: {}),
        Summarise(
            "means",
            ("day/ndvi",),
            (Series("mean_ndvi", "1", "mean NDVI"), Series("cloud_share")),
            lambda context: (2,),
            lambda segment: np.zeros(0),
            lambda table, context: {},
        ),
    ),
)
TRANSFORM = Affine(10, 0, 600_000, 0, -10, 5_000_000)
GRID = Grid(GeoBox((90, 70), TRANSFORM, "EPSG:32631"), 64)
PERIOD = covering(Calendar.DAY, "2020-01-05", "2020-01-25")
ZONES = (Zone("a", "Lac d'Été", 4000.0, 40), Zone("b", "b", 100.0, 1))
OUTLINES = {"a": box(4.269, 45.145, 4.272, 45.147), "b": box(4.272, 45.147, 4.273, 45.148)}
AXES = axes_for(PRODUCT, PERIOD, 32)
LAYOUT = cube_layout.Layout(PRODUCT, GRID, AXES, ZONES, {"means": (2,)})
IDENTITY = {
    "product": "moss",
    "version": "3",
    "parameters": {"depth": 2},
    "grid": GRID.to_json(),
    "period": ["2020-01-05", "2020-01-25"],
    "quarantined": {"bad": "band red: /home/me/archive/B04.tif: truncated"},
}
ABOUT = About(
    id="moss-of-the-alps",
    title="Moss of the Alps",
    keywords=("moss",),
    archive="https://me:pw@stac.example.org/v1?key=secret",
    preview="day/ndvi",
    zones=OUTLINES,
)


def slot_of(day: str) -> int:
    """Place of a day on the cube's own axis."""
    return int(np.datetime64(day).astype(int)) - AXES[Calendar.DAY].span.start


@dataclass
class Written:
    """A cube, the snapshots it has, and the pixels that were put in."""

    url: str
    first: str
    second: str
    ndvi: np.ndarray = field(repr=False)

    @property
    def store(self) -> CubeStore:
        return CubeStore.open(self.url)


def stored_ndvi() -> np.ndarray:
    """A ramp from the top left, with a hole."""
    y, x = np.mgrid[0:90, 0:70]
    ramp = (y * 60 + x * 30).astype("int16")
    ramp[20:40, 30:50] = -32768
    return ramp


def begin(
    url: str, layout: cube_layout.Layout, identity: dict[str, Any]
) -> tuple[CubeStore, icechunk.Session, zarr.Group]:
    """A new cube, the session that lays it out, and its root to write to."""
    store = CubeStore.create(url)
    session = store.repository.writable_session("main")
    cube_layout.create(session, layout, identity)
    return store, session, zarr.open_group(session.store, mode="r+")


@pytest.fixture(scope="session")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The cube: one observed day in a first snapshot, two in a second."""
    url = str(tmp_path_factory.mktemp("cube") / "moss")
    store, session, root = begin(url, LAYOUT, IDENTITY)
    ndvi, day = stored_ndvi(), slot_of("2020-01-05")
    root["day/ndvi"][day] = ndvi
    root["day/observed"][day] = 1
    root["zones/day/mean_ndvi"][:, day] = [0.25, np.nan]
    first = session.commit("one day")
    session = store.repository.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    day = slot_of("2020-01-15")
    root["day/ndvi"][day] = np.where(ndvi < 0, ndvi, ndvi // 2)
    root["day/state"][day] = np.where(ndvi < 0, 255, np.digitize(ndvi, (2000, 5000)))
    root["day/observed"][day] = 2
    root["season/duration"][0, 10:20, 10:20] = 120
    root["zones/day/mean_ndvi"][:, day] = [0.5, 0.75]
    root["zones/day/cloud_share"][:, day] = [0.1, np.nan]
    return Written(url, first, session.commit("two days"), ndvi)


@pytest.fixture(scope="session")
def scenes() -> SceneList:
    """One scene with a signed href, as a catalogue may give it."""
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_31TFL_20200105_0_L2A",
        "collection": "sentinel-2-l2a",
        "geometry": box(4.2, 45.1, 4.3, 45.2).__geo_interface__,
        "bbox": [4.2, 45.1, 4.3, 45.2],
        "properties": {
            "datetime": dt.datetime(2020, 1, 5, 10, 46, 1).isoformat() + "Z",
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "proj:epsg": 32631,
            "s2:processing_baseline": "02.13",
        },
        "links": [],
        "assets": {
            "red": {
                "href": "https://imagery.example.org/B04.tif?sig=secret",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            }
        },
    }
    return SceneList.of([(describe(item), item)])


@pytest.fixture
def destination(tmp_path: Path) -> str:
    return str(tmp_path / "releases")


# Two tiles by three, the last ones cut; levels of 600, 300 and 150 rows.
NOISE_GRID = Grid(GeoBox((600, 1111), Affine(10, 0, 600_000, 0, -10, 5_000_000), "EPSG:32631"), 512)
NOISE_PERIOD = covering(Calendar.DAY, "2020-01-05", "2020-03-25")
NOISE_DAYS = ("2020-01-05", "2020-01-06", "2020-03-20")
STATES = (0, 1, 2, 255)


@dataclass
class Published:
    """A cube's pixels as they were put in, by layer, and its release."""

    pixels: dict[str, np.ndarray]
    slots: list[int]
    """Of the days that hold any."""
    cube: str
    snapshot: str
    store: str
    """Of the release."""


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A release of noise with holes, and of a map that lies in one tile alone."""
    axes = axes_for(PRODUCT, NOISE_PERIOD, 96)
    layout = cube_layout.Layout(PRODUCT, NOISE_GRID, axes, ZONES, {"means": (2,)})
    identity = {**IDENTITY, "grid": NOISE_GRID.to_json(), "period": list(NOISE_DAYS[::2])}
    url = str(tmp_path_factory.mktemp("cube") / "moss")
    store, session, root = begin(url, layout, identity)
    random = np.random.default_rng(5)
    start = axes[Calendar.DAY].span.start
    slots = [int(np.datetime64(day).astype(int)) - start for day in NOISE_DAYS]
    pixels = {path: root[path][:] for path in ("day/ndvi", "day/state", "season/duration")}
    for slot in slots[:2]:
        noise = random.integers(-9000, 9000, NOISE_GRID.shape_yx)
        holes = random.random(NOISE_GRID.shape_yx) < 0.3
        pixels["day/ndvi"][slot] = np.where(holes, -32768, noise)
        pixels["day/state"][slot] = random.choice(STATES, NOISE_GRID.shape_yx)
    pixels["day/ndvi"][slots[2], 520:530, 1030:1040] = 4321
    pixels["season/duration"][0] = random.integers(0, 200, NOISE_GRID.shape_yx)
    for path, values in pixels.items():
        root[path][:] = values
    root["day/observed"][slots] = 1
    snapshot = session.commit("noise")
    destination = str(tmp_path_factory.mktemp("published"))
    release = publish_release(store.url, snapshot, destination, scenes=None, about=ABOUT)
    return Published(pixels, slots, store.url, snapshot, release.store)
