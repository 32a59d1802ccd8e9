"""The Collection: by the published schemas, and by what the extensions' texts require."""

import copy
import datetime as dt
from typing import Any

import jsonschema
import pyproj
import pystac
import pytest
from pystac.errors import STACValidationError

from alpage.grid import Grid
from alpage.releases.contents import read_contents
from alpage.releases.geozarr import geozarr_attributes, multiscales_attributes
from alpage.releases.pyramid import levels
from alpage.releases.stac import About, Issue, build_collection, pointer
from alpage.releases.validate import validate_collection, validate_node

CREATED = dt.datetime(2026, 11, 23, 4, 19, 48, tzinfo=dt.UTC)
CUBE = {"made": "2026-11-20T08:00:00.000001Z", "place": "0123456789abcdef"}
FILES = ("series-day.parquet", "scenes.parquet", "preview.png")


@pytest.fixture
def collection(cube) -> dict[str, Any]:
    contents = read_contents(cube.store.read())
    about = About(id="moss", title="Moss", archive="https://me:pw@stac.example.org/v1?key=secret")
    issue = Issue(
        "20261123T041948Z-AAAA", "AAAABBBB", CUBE, CREATED, 3, FILES, "20261001T000000Z-ZZZZ"
    )
    return build_collection(contents, about, issue)


def test_it_satisfies_the_published_schemas(collection: dict[str, Any]) -> None:
    checked = validate_collection(collection)
    assert [schema.split("/")[-3:-1] for schema in checked.schemas[1:]] == [
        ["datacube", "v2.2.0"],
        ["projection", "v2.0.0"],
        ["version", "v1.2.0"],
    ]
    assert "v1.1.0" in checked.schemas[0]
    assert checked.without_schema == (
        "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    )
    validate_collection(pointer(collection, "20261123T041948Z-AAAA"))


def spoil_axes(collection: dict[str, Any]) -> None:
    """Everywhere, for the schema is content with one good place."""
    for holder in (collection, *collection["assets"].values()):
        if "cube:dimensions" in holder:
            holder["cube:dimensions"]["x"]["axis"] = "q"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda c: c.pop("license"), id="core"),
        pytest.param(spoil_axes, id="datacube"),
        pytest.param(lambda c: c["assets"]["day"].update({"proj:shape": [1]}), id="projection"),
        pytest.param(lambda c: c.update(version=3), id="version"),
    ],
)
def test_the_schemas_are_really_asked(collection: dict[str, Any], spoil: Any) -> None:
    spoilt = copy.deepcopy(collection)
    spoil(spoilt)
    with pytest.raises(STACValidationError):
        validate_collection(spoilt)


def test_processing_is_told_of_a_processor(collection: dict[str, Any]) -> None:
    """By the README of processing 1.2.0: in a provider that is a producer or processor."""
    (provider,) = [p for p in collection["providers"] if "processor" in p["roles"]]
    told = {key for key in provider if key.startswith("processing:")}
    assert told == {
        "processing:level",
        "processing:lineage",
        "processing:version",
        "processing:datetime",
        "processing:software",
    }
    assert all(isinstance(value, str) for value in provider["processing:software"].values())
    assert provider["processing:datetime"] == "2026-11-23T04:19:48Z"
    assert provider["processing:lineage"] == (
        "Product moss 3, from 3 scenes between 2020-01-05 and 2020-01-25, with parameters "
        '{"depth": 2}; quarantined, so not used: 1.'
    )


def test_a_named_processor_keeps_its_name(cube) -> None:
    cnes = {"name": "CNES", "roles": ["processor", "host"], "url": "https://cnes.fr"}
    about = About(id="moss", title="Moss", providers=(cnes,))
    issue = Issue("r", "s", CUBE, CREATED, None, ())
    providers = build_collection(read_contents(cube.store.read()), about, issue)["providers"]
    assert [provider["name"] for provider in providers] == ["CNES"]
    assert providers[0]["processing:level"] == "L3"
    assert "processing:level" not in cnes


def test_extent_is_the_grid_and_the_period(collection: dict[str, Any]) -> None:
    to_degrees = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    west, south, east, north = collection["extent"]["spatial"]["bbox"][0]
    for x, y in ((600_000, 5_000_000), (600_700, 5_000_000), (600_000, 4_999_100)):
        lon, lat = to_degrees.transform(x, y)
        assert west - 1e-6 <= lon <= east + 1e-6
        assert south - 1e-6 <= lat <= north + 1e-6
    assert east - west < 0.01
    assert collection["extent"]["temporal"]["interval"] == [
        ["2020-01-05T00:00:00Z", "2020-01-25T23:59:59Z"]
    ]


def test_assets_are_groups_tables_and_the_preview(collection: dict[str, Any]) -> None:
    assets = collection["assets"]
    assert {key: asset["href"] for key, asset in assets.items()} == {
        "day": "./cube.zarr/day",
        "maps-day": "./cube.zarr/maps/day",
        "season": "./cube.zarr/season",
        "maps-season": "./cube.zarr/maps/season",
        "series-day": "./series-day.parquet",
        "scenes": "./scenes.parquet",
        "preview": "./preview.png",
    }
    assert assets["day"]["type"] == "application/vnd.zarr; version=3"
    assert assets["maps-day"]["type"] == "application/vnd.zarr; version=3; profile=multiscales"
    assert assets["maps-day"]["bands"] == assets["day"]["bands"]
    assert assets["scenes"]["type"] == "application/vnd.apache.parquet"
    assert assets["day"]["bands"][0] == {
        "name": "ndvi",
        "description": "NDVI",
        "data_type": "int16",
        "nodata": -32768,
        "unit": "1",
    }
    assert assets["day"]["proj:transform"] == [10, 0, 600_000, 0, -10, 5_000_000]
    assert assets["day"]["proj:shape"] == [90, 70]
    assert assets["day"]["cube:dimensions"]["time"]["step"] == "P1D"
    assert assets["season"]["cube:dimensions"]["time"]["extent"] == [
        "2019-09-01T00:00:00Z",
        "2020-08-31T23:59:59Z",
    ]
    assert set(collection["cube:variables"]) == {"day/ndvi", "day/state", "season/duration"}


def test_links_and_no_secrets(collection: dict[str, Any]) -> None:
    links = {link["rel"]: link["href"] for link in collection["links"]}
    assert links == {
        "store": "./cube.zarr",
        "latest-version": "../collection.json",
        "derived_from": "https://stac.example.org/v1",
        "predecessor-version": "../20261001T000000Z-ZZZZ/collection.json",
    }


def test_the_pointer_reads_from_the_folder_above(collection: dict[str, Any]) -> None:
    moved = pointer(collection, "20261123T041948Z-AAAA")
    links = {link["rel"]: link["href"] for link in moved["links"]}
    assert links == {
        "store": "./20261123T041948Z-AAAA/cube.zarr",
        "derived_from": "https://stac.example.org/v1",
        "predecessor-version": "./20261001T000000Z-ZZZZ/collection.json",
        "canonical": "./20261123T041948Z-AAAA/collection.json",
    }
    assert moved["assets"]["day"]["href"] == "./20261123T041948Z-AAAA/cube.zarr/day"
    assert collection["assets"]["day"]["href"] == "./cube.zarr/day"


def test_an_archive_on_this_machine_is_not_told(cube) -> None:
    about = About(id="moss", title="Moss", archive="/home/someone/archive/collection.json")
    issue = Issue("r", "s", CUBE, CREATED, None, ())
    told = build_collection(read_contents(cube.store.read()), about, issue)
    assert "/home" not in str(told)


def test_pystac_reads_it(collection: dict[str, Any]) -> None:
    read = pystac.Collection.from_dict(collection)
    assert read.id == "moss"
    assert read.assets["day"].media_type == "application/vnd.zarr; version=3"


def node(grid: Grid, kind: str, **changes: object) -> dict[str, object]:
    attributes = {**geozarr_attributes(grid), **changes}
    return {"zarr_format": 3, "node_type": kind, "attributes": attributes}


def test_zarr_conventions_satisfy_their_schemas(cube) -> None:
    grid = read_contents(cube.store.read()).grid
    validate_node(node(grid, "group"))
    validate_node(node(grid, "array"))
    attributes = geozarr_attributes(grid)
    assert attributes["spatial:bbox"] == [600_000, 4_999_100, 600_700, 5_000_000]
    assert attributes["proj:code"] == "EPSG:32631"


def test_a_crs_without_a_code_is_told_as_wkt(cube) -> None:
    told = read_contents(cube.store.read()).grid.to_json()
    crs = pyproj.CRS.from_proj4("+proj=laea +lat_0=46 +lon_0=7 +ellps=GRS80 +units=m")
    attributes = geozarr_attributes(Grid.from_json({**told, "crs": crs.to_wkt()}))
    assert "proj:code" not in attributes
    assert pyproj.CRS.from_wkt(attributes["proj:wkt2"]) == crs


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spatial:transform": [1.0, 2.0]}, id="transform"),
        pytest.param({"spatial:dimensions": ["t", "y", "x"]}, id="dimensions"),
        pytest.param({"proj:code": "32631"}, id="code"),
        pytest.param({"zarr_conventions": []}, id="conventions"),
    ],
)
def test_the_conventions_are_really_asked(cube, changes: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_node(node(read_contents(cube.store.read()).grid, "array", **changes))


def pyramid_node(cube, **changes: object) -> dict[str, Any]:
    grid = Grid.from_json({**read_contents(cube.store.read()).grid.to_json(), "shape_yx": [600, 9]})
    attributes = multiscales_attributes(levels(grid), "average")
    attributes["multiscales"] |= changes
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def test_a_pyramid_satisfies_its_schema(cube) -> None:
    validate_node(pyramid_node(cube))
    with pytest.raises(jsonschema.ValidationError):
        validate_node({**pyramid_node(cube), "node_type": "array"})


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param([], id="empty"),
        pytest.param([{"asset": "../0"}], id="outside"),
        pytest.param([{"asset": "0"}, {"asset": "1", "derived_from": "0"}], id="transform"),
    ],
)
def test_what_is_no_pyramid_is_refused(cube, layout: list[dict[str, str]]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_node(pyramid_node(cube, layout=layout))
