"""Releases: read back by independent readers, published once, never half."""

import asyncio
import contextlib
import dataclasses
import io
import json
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import geopandas
import numpy as np
import obstore
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives datasets their .rio
import xarray as xr
import zarr
from matplotlib import image
from obstore.store import MemoryStore
from rasterio.errors import RasterioIOError
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype

from alpage.archive.scene import describe
from alpage.archive.scenes import SceneList
from alpage.cube.reader import open_cube
from alpage.errors import CubeBusy, CubeError, StorageError
from alpage.releases import preview
from alpage.releases import publish as publishing
from alpage.releases.contents import read_contents
from alpage.releases.preview import draw_preview
from alpage.releases.publish import Release, publish_on, publish_release
from alpage.releases.shelf import Shelf, shelf_at
from alpage.releases.validate import validate_collection, validate_node

from .conftest import ABOUT, IDENTITY, LAYOUT, OUTLINES, begin, slot_of

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def release(cube, scenes, tmp_path_factory) -> Release:
    destination = tmp_path_factory.mktemp("published") / "releases"
    return publish_release(cube.url, cube.second, str(destination), scenes=scenes, about=ABOUT)


def contents_of(folder: str) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with what changes when it is written."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("group", ["day", "season"])
def test_xarray_reads_what_the_cube_holds(cube, release: Release, group: str) -> None:
    with xr.open_zarr(release.store, group=group, consolidated=True, decode_coords="all") as got:
        expected = open_cube(cube.url, snapshot=cube.second)[group]
        xr.testing.assert_identical(
            got.set_coords([name for name in ("observed",) if name in got]).drop_attrs(),
            expected.drop_attrs(),
        )


def test_values_are_those_that_were_stored(cube, release: Release) -> None:
    with xr.open_zarr(release.store, group="day", consolidated=True) as dataset:
        ndvi = dataset["ndvi"].sel(time="2020-01-05").to_numpy()
    filled = cube.ndvi != -32768
    np.testing.assert_array_equal(np.isnan(ndvi), ~filled)
    np.testing.assert_allclose(ndvi[filled], cube.ndvi[filled] * 1e-4, rtol=1e-12)


def test_what_is_time_first_in_the_cube_is_copied_byte_by_byte(cube, release: Release) -> None:
    ours = cube.store.read(snapshot=cube.second)
    theirs = zarr.open_group(release.store, mode="r")
    for key in ("shape", "codecs", "fill_value", "chunk_grid", "data_type"):
        told = theirs["season/duration"].metadata.to_dict()[key]
        assert told == ours["season/duration"].metadata.to_dict()[key], key
    key = "season/duration/c/0/0/0"
    stored = asyncio.run(ours.store.get(key, default_buffer_prototype()))
    assert stored is not None
    assert (Path(release.store) / key).read_bytes() == stored.to_bytes()


def test_the_ledger_stays_behind(release: Release) -> None:
    names = {path.name for path in Path(release.store).iterdir()}
    assert names == {"day", "maps", "season", "zarr.json", "zones"}


def test_rioxarray_places_it(release: Release) -> None:
    with xr.open_zarr(release.store, group="day", decode_coords="all") as dataset:
        assert dataset["ndvi"].rio.crs.to_epsg() == 32631
        transform = tuple(dataset["ndvi"].rio.transform())[:6]
        assert transform == (10, 0, 600_000, 0, -10, 5_000_000)


def test_every_node_follows_the_conventions(release: Release) -> None:
    layers = ("day", "day/ndvi", "day/state", "season", "season/duration")
    maps = ("maps/day", "maps/season", "maps/day/0", "maps/day/0/ndvi", "maps/season/0/duration")
    for path in ("", *layers, *maps):
        document = json.loads((Path(release.store) / path / "zarr.json").read_text())
        validate_node(document)
    time = json.loads((Path(release.store) / "day/time/zarr.json").read_text())
    assert "zarr_conventions" not in time["attributes"]


def test_gdal_reads_it_from_the_version_that_the_readme_names_on(cube, release: Release) -> None:
    (named,) = re.findall(r"GDAL from (\d+\.\d+) read", README)
    place = f'ZARR:"{release.store}":/day/ndvi:{slot_of("2020-01-05")}'
    if tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < tuple(
        map(int, named.split("."))
    ):
        with pytest.raises(RasterioIOError, match="sharding_indexed"):
            rasterio.open(place)
    else:
        with rasterio.open(place) as opened:
            assert opened.crs.to_epsg() == 32631
            np.testing.assert_array_equal(opened.read(1), cube.ndvi)


# Of netCDF4 about what xarray asks of it.
@pytest.mark.filterwarnings("ignore:endian-ness of dtype")
def test_a_group_becomes_netcdf_as_the_readme_says(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = re.search(r'```python\n(day = .*?to_netcdf\("day.nc"\)\n)```', README, re.S)
    assert lines is not None
    exec(lines[1].replace("cubes/flanders.release/<release>/cube.zarr", release.store), {"xr": xr})
    with (
        xr.open_zarr(release.store, group="day", decode_coords="all") as expected,
        xr.open_dataset("day.nc", decode_coords="all", engine="netcdf4") as got,
    ):
        xr.testing.assert_equal(got, expected)
        assert got["ndvi"].attrs["long_name"] == "NDVI"
        assert got["ndvi"].rio.crs.to_epsg() == 32631


def test_consolidated_metadata_hold_every_node(release: Release) -> None:
    document = json.loads((Path(release.store) / "zarr.json").read_text())
    nodes = document["consolidated_metadata"]["metadata"]
    assert {"day/ndvi", "season/duration", "zones/day/mean_ndvi", "day/spatial_ref"} <= set(nodes)
    assert {"maps", "maps/day", "maps/day/0/ndvi", "maps/day/0/time"} <= set(nodes)
    assert not any(node.startswith("ledger") for node in nodes)


def test_fsspec_and_zarr_series_open(release: Release) -> None:
    mapper = fsspec.get_mapper(f"file://{release.store}")
    with xr.open_zarr(mapper, group="zones/day", consolidated=True) as series:
        assert series["mean_ndvi"].sel(time="2020-01-15").to_numpy().tolist() == [0.5, 0.75]


def test_geopandas_reads_the_series(release: Release) -> None:
    table = geopandas.read_parquet(f"{release.url}/series-day.parquet")
    assert set(table.columns) == {
        "zone",
        "name",
        "area_m2",
        "time",
        "mean_ndvi",
        "cloud_share",
        "geometry",
    }
    assert table.crs.to_string() == "OGC:CRS84"
    assert table["zone"].tolist() == ["a", "a", "b"]
    assert table["name"].tolist() == ["Lac d'Été", "Lac d'Été", "b"]
    assert table["time"].dt.strftime("%Y-%m-%d").tolist() == [
        "2020-01-05",
        "2020-01-15",
        "2020-01-15",
    ]
    assert table["mean_ndvi"].tolist() == [0.25, 0.5, 0.75]
    assert table["cloud_share"].isna().tolist() == [True, False, True]
    assert table.geometry.iloc[0].equals(OUTLINES["a"])


def test_scenes_are_the_inputs_without_what_signs_them(release: Release, scenes) -> None:
    path = f"{release.url}/scenes.parquet"
    assert SceneList.load(path).digest == scenes.digest
    assert "secret" not in str(pq.read_table(path).to_pylist())


def test_scenes_of_this_machine_are_told_by_their_names(cube, scenes, destination: str) -> None:
    item = json.loads(json.dumps(scenes.items[0]))
    home = "/home/someone/archive"
    item["assets"] = {
        "red": {**item["assets"]["red"], "href": f"{home}/S2A/B04.tif"},
        "nir": {**item["assets"]["red"], "href": f"file://{home}/S2A/B08.tif"},
    }
    item["links"] = [
        {"rel": "collection", "href": f"{home}/collection.json"},
        {"rel": "via", "href": "https://me:pw@catalogue.example.org/item?sig=secret"},
    ]
    local = SceneList.of([(describe(item), item)])
    release = publish_release(cube.url, cube.first, destination, scenes=local, about=ABOUT)
    path = f"{release.url}/scenes.parquet"
    (told,) = SceneList.load(path).items
    assert {name: asset["href"] for name, asset in told["assets"].items()} == {
        "red": "B04.tif",
        "nir": "B08.tif",
    }
    assert [link["href"] for link in told["links"]] == ["https://catalogue.example.org/item"]
    assert "someone" not in str(pq.read_table(path).to_pylist())
    assert [scene.id for scene in SceneList.load(path).scenes] == [scenes.scenes[0].id]


def test_no_folder_of_this_machine_is_told_of_bad_scenes(release: Release) -> None:
    document = json.loads((Path(release.store) / "zarr.json").read_text())
    told = document["attributes"]["alpage"]["quarantined"]
    assert told == {"bad": "band red: B04.tif: truncated"}
    assert "/home/me" not in json.dumps(document)


def test_pystac_reaches_every_asset_from_the_pointer(release: Release) -> None:
    pointer = pystac.Collection.from_file(release.collection)
    maps = {"maps-day", "maps-season"}
    assert set(pointer.assets) == {"day", "season", "series-day", "scenes", "preview"} | maps
    for asset in pointer.assets.values():
        href = asset.get_absolute_href()
        assert href is not None
        assert Path(href).exists(), href
    canonical = pointer.get_single_link("canonical")
    assert pystac.Collection.from_file(canonical.get_absolute_href()).id == "moss-of-the-alps"
    for path in (release.collection, f"{release.url}/collection.json"):
        validate_collection(json.loads(Path(path).read_text()))


def test_the_preview_is_a_picture_with_a_hole(release: Release) -> None:
    picture = image.imread(f"{release.url}/preview.png")
    assert picture.shape[2] == 4
    assert min(picture.shape[:2]) > 300
    # The corner is the page, the middle the plot: both may show what lies behind.
    assert picture[0, 0, 3] == 0
    opaque = picture[..., 3] == 1
    assert 0.2 < opaque.mean() < 0.9


def test_a_preview_of_flags(cube) -> None:
    root = cube.store.read(snapshot=cube.second)
    png = draw_preview(root, read_contents(root), "day/state", "Moss")
    assert png is not None
    assert image.imread(io.BytesIO(png)).shape[2] == 4


def test_a_large_grid_is_thinned_evenly_across_tiles(cube, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tiles of 64 pixels, every third pixel: the step does not divide the tile.
    monkeypatch.setattr(preview, "LONGEST_SIDE_PX", 30)
    root = cube.store.read(snapshot=cube.first)
    picture = preview._latest(root, read_contents(root), "day/ndvi")
    assert picture is not None
    np.testing.assert_array_equal(picture.pixels, cube.ndvi[::3, ::3])


def test_no_preview_of_what_is_empty(cube) -> None:
    root = cube.store.read(snapshot=cube.first)
    assert draw_preview(root, read_contents(root), "season/duration", "Moss") is None


def test_publishing_twice_writes_nothing(cube, scenes, destination: str) -> None:
    def publish() -> Release:
        return publish_release(cube.url, cube.second, destination, scenes=scenes, about=ABOUT)

    once = publish()
    before = contents_of(destination)
    twice = publish()
    assert contents_of(destination) == before
    assert dataclasses.replace(once, written=False) == twice
    assert once.written


def test_the_newest_is_what_readers_open(cube, destination: str) -> None:
    def version() -> str:
        return json.loads((Path(destination) / "collection.json").read_text())["version"]

    old = publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    kept = contents_of(old.url)
    new = publish_release(cube.url, cube.second, destination, scenes=None, about=ABOUT)
    assert version() == new.id
    assert contents_of(old.url) == kept
    pointer = pystac.Collection.from_file(new.collection)
    assert pointer.get_single_link("predecessor-version").href.endswith(f"{old.id}/collection.json")
    back = publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    assert version() == old.id == back.id
    assert not back.written
    with xr.open_zarr(old.store, group="day") as dataset:
        assert int((dataset["observed"] > 0).sum()) == 1


@pytest.mark.parametrize(
    "step", ["copy_groups", "outline", "write_here", "_write_tables", "draw_preview", "_switch"]
)
def test_a_crash_leaves_readers_where_they_were(
    cube, scenes, destination: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = publish_release(cube.url, cube.first, destination, scenes=scenes, about=ABOUT)
    before = contents_of(old.collection) | contents_of(old.url)
    pointer = Path(old.collection).read_bytes()

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publishing, step, crash)
        with pytest.raises(KeyboardInterrupt):
            publish_release(cube.url, cube.second, destination, scenes=scenes, about=ABOUT)
    assert Path(old.collection).read_bytes() == pointer
    assert contents_of(old.collection) | contents_of(old.url) == before
    new = publish_release(cube.url, cube.second, destination, scenes=scenes, about=ABOUT)
    assert new.written is (step != "_switch")
    assert json.loads(Path(new.collection).read_text())["version"] == new.id
    with xr.open_zarr(new.store, group="day", consolidated=True) as dataset:
        assert int((dataset["observed"] > 0).sum()) == 2


def test_another_cubes_releases_are_left_alone(cube, destination: str) -> None:
    publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    other = dataclasses.replace(ABOUT, id="lichen")
    with pytest.raises(StorageError, match=r"to be of lichen, it is of moss-of-the-alps"):
        publish_release(cube.url, cube.second, destination, scenes=None, about=other)


def test_a_cube_of_the_same_name_is_another(cube, tmp_path: Path, destination: str) -> None:
    release = publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    kept = contents_of(destination)
    other, session, _ = begin(str(tmp_path / "other" / "moss"), LAYOUT, IDENTITY)
    snapshot = session.commit("laid out")
    with pytest.raises(
        StorageError, match=r"another cube of that name, made .* elsewhere; give each"
    ):
        publish_release(other.url, snapshot, destination, scenes=None, about=ABOUT)
    assert contents_of(destination) == kept

    # As releases were before they told it: by name.
    pointer = json.loads(Path(release.collection).read_text())
    del pointer["alpage:cube"]
    Path(release.collection).write_text(json.dumps(pointer))
    assert publish_release(other.url, snapshot, destination, scenes=None, about=ABOUT).written


def test_a_cube_that_was_moved_goes_on(cube, tmp_path: Path, destination: str) -> None:
    old = publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    moved = shutil.copytree(cube.url, tmp_path / "elsewhere" / "moss")
    new = publish_release(str(moved), cube.second, destination, scenes=None, about=ABOUT)
    link = pystac.Collection.from_file(new.collection).get_single_link("predecessor-version")
    assert link.href.endswith(f"{old.id}/collection.json")


def test_a_cube_made_anew_in_its_place_goes_on(cube, tmp_path: Path, destination: str) -> None:
    url = str(shutil.copytree(cube.url, tmp_path / "moss"))
    old = publish_release(url, cube.first, destination, scenes=None, about=ABOUT)
    shutil.rmtree(url)
    _, session, _ = begin(url, LAYOUT, IDENTITY)
    anew = session.commit("laid out")
    new = publish_release(url, anew, destination, scenes=None, about=ABOUT)
    link = pystac.Collection.from_file(new.collection).get_single_link("predecessor-version")
    assert link.href.endswith(f"{old.id}/collection.json")


def test_an_unknown_snapshot_is_told(cube, destination: str) -> None:
    with pytest.raises(CubeError, match="has no snapshot"):
        publish_release(cube.url, "ABCDEFGHJKMNPQRSTVW0", destination, scenes=None, about=ABOUT)
    assert contents_of(destination) == {}


def test_layers_of_another_encoding_are_refused(tmp_path: Path, destination: str) -> None:
    store, session, root = begin(str(tmp_path / "moss"), LAYOUT, IDENTITY)
    layer = root["day/ndvi"]
    root.create_array(
        "day/ndvi",
        shape=layer.shape,
        chunks=layer.chunks,
        shards=layer.shards,
        dtype=layer.dtype,
        fill_value=layer.fill_value,
        compressors=BloscCodec(),
        dimension_names=("time", "y", "x"),
        overwrite=True,
    )
    snapshot = session.commit("as it once was")
    with pytest.raises(CubeError, match="day/ndvi was written by another version"):
        publish_release(store.url, snapshot, destination, scenes=None, about=ABOUT)
    assert not (Path(destination) / "collection.json").exists()


def test_a_store_that_fails_midway_is_named(cube, destination: str) -> None:
    release = publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    pointer = Path(release.collection).read_bytes()
    other = publish_release(cube.url, cube.second, destination, scenes=None, about=ABOUT)
    Path(other.collection).write_bytes(pointer)
    shutil.rmtree(other.url)
    Path(other.url).mkdir()
    Path(other.store).write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot copy the cube to .*cube\.zarr"):
        publish_release(cube.url, cube.second, destination, scenes=None, about=ABOUT)
    assert Path(release.collection).read_bytes() == pointer


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that refuses what is larger, as a full one does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "what"), [(500, "copy the cube to"), (12_000, "write")])
def test_why_a_disk_refuses_is_told(cube, destination: str, size: int, what: str) -> None:
    old = publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)
    pointer = Path(old.collection).read_bytes()
    told = rf"cannot {what} .*: File too large: check .* that there is room$"
    with files_of_at_most(size), pytest.raises(StorageError, match=told):
        publish_release(cube.url, cube.second, destination, scenes=None, about=ABOUT)
    assert Path(old.collection).read_bytes() == pointer
    assert publish_release(cube.url, cube.second, destination, scenes=None, about=ABOUT).written


def test_it_publishes_inside_a_running_event_loop(cube, destination: str) -> None:
    async def notebook() -> Release:
        return publish_release(cube.url, cube.first, destination, scenes=None, about=ABOUT)

    assert asyncio.run(notebook()).written


def memory_shelf() -> Shelf:
    """An object store with conditional PUT, without a server."""
    return Shelf("s3://bucket/moss", MemoryStore(), "moss", conditional=True)


def test_an_object_store_holds_the_same(cube, scenes) -> None:
    shelf = memory_shelf()
    release = publish_on(shelf, cube.store, cube.second, scenes, ABOUT)
    assert release.url == f"s3://bucket/moss/{release.id}"
    store = zarr.storage.ObjectStore(shelf.store, read_only=True)
    group = f"moss/{release.id}/cube.zarr"
    root = zarr.open_consolidated(store, path=group, mode="r", zarr_format=3)
    day = int(np.flatnonzero(root["day/observed"][:])[0])
    np.testing.assert_array_equal(root["day/ndvi"][day], cube.ndvi)
    assert not publish_on(shelf, cube.store, cube.second, scenes, ABOUT).written


def test_objects_tell_caches_how_long_to_keep_them(cube, scenes) -> None:
    shelf = memory_shelf()
    release = publish_on(shelf, cube.store, cube.second, scenes, ABOUT).id
    told = {
        one["path"].removeprefix("moss/"): obstore.get(shelf.store, one["path"]).attributes
        for one in obstore.list(shelf.store).collect()
    }
    pointer = told.pop("collection.json")
    assert pointer == {"Cache-Control": "no-cache", "Content-Type": "application/json"}
    assert {one["Cache-Control"] for one in told.values()} == {
        "public, max-age=31536000, immutable"
    }
    for path in ("collection.json", "cube.zarr/zarr.json", "cube.zarr/day/ndvi/zarr.json"):
        assert told[f"{release}/{path}"]["Content-Type"] == "application/json"
    assert any("/day/ndvi/c/" in path for path in told)


def test_the_loser_of_a_race_is_told(cube, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = memory_shelf()
    publish_on(shelf, cube.store, cube.first, None, ABOUT)
    found = shelf.read("collection.json")
    assert found is not None
    shelf.put("collection.json", found[0] + b"\n")
    monkeypatch.setattr(Shelf, "read", stale_once(Shelf.read, found))
    with pytest.raises(CubeBusy, match="publish again to make"):
        publishing._switch(shelf, {"version": "r2"})


def stale_once(read, found):
    """The state of before another publication, the first time it is asked for."""
    answers = [found]
    return lambda shelf, path: answers.pop() if answers else read(shelf, path)


def test_a_put_whose_answer_was_lost_is_not_a_race() -> None:
    shelf = memory_shelf()
    assert shelf.replace("collection.json", b"new", None)
    assert shelf.replace("collection.json", b"new", None)
    assert not shelf.replace("collection.json", b"other", None)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write to"):
        shelf_at(str(tmp_path / "file" / "below"))
    with pytest.raises(StorageError, match=r"expected a folder or an s3:// URL, got ftp://"):
        shelf_at("ftp://host/x")
