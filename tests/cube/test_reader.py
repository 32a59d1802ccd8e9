"""Reading a cube: values by arithmetic on what was stored, and by plain icechunk and xarray."""

import json
from pathlib import Path

import icechunk
import numpy as np
import pytest
import rioxarray  # noqa: F401 - gives datasets their .rio
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

from alpage.cube import layout as cube_layout
from alpage.cube.axes import axes_for
from alpage.cube.reader import Cube, open_cube
from alpage.cube.store import CubeStore
from alpage.errors import CubeError
from alpage.grid import Grid
from alpage.product import Band, Derive, Layer, Observe, Product, Series, Summarise, Zone
from alpage.timeaxis import Calendar, covering

NDVI = Layer("ndvi", Calendar.DAY, "int16", -32768, scale=1e-4, long_name="NDVI")
STATE = Layer("state", Calendar.DAY, "uint8", 255, flags={"land": 0, "snow": 1, "nodata": 255})
PEAK = Layer("peak", Calendar.YEAR, "int16", -32768, scale=1e-4)
PRODUCT = Product(
    "moss",
    "3",
    (
        Observe("look", (Band("red"),), (NDVI, STATE), lambda observation: {}),
        Derive("year", ("day/ndvi",), (PEAK,), Calendar.YEAR, lambda segment: {}),
        Summarise(
            "means",
            ("day/ndvi",),
            (Series("mean_ndvi"),),
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """URL of a cube, a first snapshot with one pixel, a second with two."""
    url = str(tmp_path_factory.mktemp("reader") / "cube")
    store = CubeStore.create(url)
    axes = axes_for(PRODUCT, PERIOD, 32)
    layout = cube_layout.Layout(PRODUCT, GRID, axes, ZONES, {"means": (2,)})
    session = store.repository.writable_session("main")
    identity = {"product": "moss", "version": "3", "grid": GRID.to_json()}
    cube_layout.create(session, layout, {**identity, "period": ["2020-01-05", "2020-01-25"]})
    root = zarr.open_group(session.store, mode="r+")
    slot = PERIOD.start - axes[Calendar.DAY].span.start
    root["day/ndvi"][slot, 80, 3] = 4321
    root["day/state"][slot, 80, 3] = 1
    root["day/observed"][slot] = 2
    root["zones/day/mean_ndvi"][1, slot] = 0.25
    first = session.commit("one pixel")
    session = store.repository.writable_session("main")
    zarr.open_group(session.store, mode="r+")["day/ndvi"][slot, 0, 0] = -1
    return url, first, session.commit("two pixels")


@pytest.fixture
def cube(written: tuple[str, str, str]) -> Cube:
    return open_cube(written[0])


def test_groups_and_layers_are_listed(cube: Cube) -> None:
    assert cube.groups == ("day", "year")
    assert cube.layers == ("day/ndvi", "day/state", "year/peak")
    assert list(cube) == ["day", "year"]
    assert "day/state" in cube
    assert "ledger" not in cube


def test_a_layer_is_decoded(cube: Cube) -> None:
    ndvi = cube["day/ndvi"].sel(time="2020-01-05")
    assert ndvi.chunks is not None
    assert float(ndvi[80, 3]) == pytest.approx(0.4321)
    assert float(ndvi[0, 0]) == pytest.approx(-0.0001)
    assert int(ndvi.notnull().sum()) == 2


def test_flags_keep_their_codes(cube: Cube) -> None:
    state = cube["day/state"].sel(time="2020-01-05")
    assert state.dtype == np.uint8
    assert int(state[80, 3]) == 1
    assert int(state[0, 0]) == 255


def test_pixels_are_where_the_grid_says(cube: Cube) -> None:
    ndvi = cube["day/ndvi"]
    assert ndvi.rio.crs.to_epsg() == 32631
    assert tuple(ndvi.rio.transform())[:6] == (10, 0, 600_000, 0, -10, 5_000_000)
    assert float(ndvi.x[0]) == 600_005
    assert float(ndvi.y[0]) == 4_999_995


def test_sel_observed_keeps_days_with_a_scene(cube: Cube) -> None:
    days = cube.sel_observed()["time"].to_numpy().astype("datetime64[D]")
    assert days.tolist() == [np.datetime64("2020-01-05").item()]
    assert cube.sel_observed("year").sizes == cube["year"].sizes


def test_series_by_zone(cube: Cube) -> None:
    series = cube.zones("day")
    assert series["zone"].to_numpy().tolist() == ["a", "b"]
    assert series["zone_name"].to_numpy().tolist() == ["Lac d'Été", "b"]
    mean = series["mean_ndvi"].sel(zone="b")
    assert float(mean.sel(time="2020-01-05")) == 0.25
    assert int(mean.notnull().sum()) == 1


def test_a_snapshot_shows_its_own_state(written: tuple[str, str, str]) -> None:
    url, first, second = written
    old = open_cube(url, snapshot=first)
    assert old.snapshot == first
    assert open_cube(url).snapshot == second
    assert int(old["day/ndvi"].notnull().sum()) == 1


def test_plain_icechunk_and_xarray_open_it(written: tuple[str, str, str]) -> None:
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(written[0]))
    session = repository.readonly_session("main")
    with xr.open_zarr(session.store, group="day", consolidated=False) as dataset:
        value = dataset["ndvi"].sel(time="2020-01-05")[80, 3]
        assert float(value) == pytest.approx(0.4321)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        pytest.param("day/nvdi", "groups day, year and layers day/ndvi", id="layer"),
        pytest.param("ledger", "no 'ledger'", id="not-a-group"),
        pytest.param("day/", "no 'day/'", id="empty-name"),
    ],
)
def test_what_is_not_there_is_told(cube: Cube, path: str, told: str) -> None:
    with pytest.raises(CubeError, match=told):
        cube[path]


def test_missing_series_are_told(cube: Cube) -> None:
    with pytest.raises(CubeError, match="no series by 'year'; there are day"):
        cube.zones("year")


def test_sel_observed_of_a_layer_is_refused(cube: Cube) -> None:
    with pytest.raises(CubeError, match="expected a group such as day, got layer day/ndvi"):
        cube.sel_observed("day/ndvi")


def test_unknown_snapshot_is_told(written: tuple[str, str, str]) -> None:
    with pytest.raises(CubeError, match="has no snapshot ABCDEFGHJKMNPQRSTVW0"):
        open_cube(written[0], snapshot="ABCDEFGHJKMNPQRSTVW0")


def test_a_foreign_store_is_told(tmp_path: Path) -> None:
    store = CubeStore.create(str(tmp_path / "cube"))
    session = store.repository.writable_session("main")
    zarr.create_group(session.store)
    session.commit("not a cube")
    with pytest.raises(CubeError, match="alpage did not write it"):
        open_cube(str(tmp_path / "cube"))


def test_repr_tells_what_and_when(cube: Cube) -> None:
    text = repr(cube)
    assert "alpage.Cube moss 3" in text
    assert "2020-01-05 to 2020-01-25" in text
    assert "day (time: 64, y: 90, x: 70): ndvi, state" in text
    assert json.dumps(cube.about["grid"])
