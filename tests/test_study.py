"""Studies: what is wrong is said in one sentence that names the key."""

import datetime as dt
import json
import traceback
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from shapely.geometry import box

from alpage.errors import StudyError
from alpage.study import Study, make_study, read_study


def named_crs(name: str) -> dict[str, Any]:
    """What GeoJSON of before RFC 7946 says."""
    return {"type": "name", "properties": {"name": name}}


SQUARE: dict[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[3, 50], [4, 50], [4, 51], [3, 51], [3, 50]]],
}
GOOD: dict[str, Any] = {
    "product": "vegetation",
    "area": {"bbox": [3.0, 50.8, 3.1, 50.9]},
    "period": "2018-01-01/2018-12-31",
    "archive": "archive/collection.json",
    "cube": "cubes/one",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"cubes": "x"}, r"^cubes: this key is not known", id="unknown-key"),
        pytest.param({"grid": {"res": 1}}, r"^grid\.res: this key is not known", id="nested-key"),
        pytest.param({"product": "moss"}, r"^product: .*vegetation.*'moss'", id="unknown-product"),
        pytest.param({"period": "2018"}, r"^period: .*two dates", id="one-date"),
        pytest.param(
            {"period": dt.date(2018, 4, 1)},
            r"^period: expected two dates such as .*, got 2018-04-01$",
            id="one-date-of-yaml",
        ),
        pytest.param(
            {"period": "2018-12-31/2018-01-01"}, r"^period: .*before the last", id="reversed"
        ),
        pytest.param({"period": "2018-02-30/2018-03-01"}, r"^period: .*dates", id="no-such-day"),
        pytest.param({"grid": {"crs": "EPSG:2263"}}, r"^grid\.crs: .*in metres", id="feet"),
        pytest.param({"grid": {"crs": "EPSG:3857"}}, r"^grid\.crs: .*keeps areas", id="mercator"),
        pytest.param({"area": {}}, r"^area: expected one of bbox, file and geojson", id="no-area"),
        pytest.param(
            {"area": {"bbox": [3, 51, 4, 50]}}, r"^area: latitudes must rise", id="upside-down"
        ),
        pytest.param(
            {"area": {"bbox": [179, 50, -179, 51]}}, r"^area: .*antimeridian", id="antimeridian"
        ),
        pytest.param(
            {"area": {"bbox": [3, 50, 400, 51]}}, r"^area: longitudes", id="off-the-globe"
        ),
        pytest.param({"grid": {"crs": "EPSG:4326"}}, r"^grid\.crs: .*projected", id="degrees"),
        pytest.param({"grid": {"crs": "mars"}}, r"^grid\.crs: expected a CRS", id="no-crs"),
        pytest.param({"grid": {"resolution": -1}}, r"^grid\.resolution: ", id="resolution"),
        pytest.param({"cluster": {"kind": "moon"}}, r"^cluster\.kind: ", id="cluster-kind"),
        pytest.param({"cluster": {"kind": "address"}}, r"^cluster: address goes", id="address"),
        pytest.param({"cluster": {"kind": "gateway"}}, r"^cluster: address goes", id="gateway"),
        pytest.param(
            {"cluster": {"kind": "gateway", "address": "tcp://hub:8786"}},
            r"^cluster: address of kind: gateway: expected https://",
            id="no-gateway",
        ),
        pytest.param(
            {"cluster": {"kind": "gateway", "address": "https://me:secret@hub/gateway"}},
            r"^cluster: address: who may come in is no part of it",
            id="gateway-with-password",
        ),
        pytest.param({"limits": {"blocks": 0}}, r"^limits\.blocks: ", id="limit"),
        pytest.param({"cube": " "}, r"^cube: expected a path or URL", id="no-cube"),
    ],
)
def test_a_bad_study_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        make_study(GOOD | change)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


SECRET_URL = "https://me:hunter2@host/z.geojson?sig=SEKRET"
NO_USER = "expected an address without user and password; give them by the environment, got "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            pytest.param({key: url}, f"^{key}: {NO_USER}'{url[:2]}", id=f"{key}-{url[:2]}")
            for key in ("archive", "cube", "release", "zones", "dem")
            for url in (SECRET_URL, "s3://me:hunter2@bucket/x", "file://me:hunter2@host/x")
        ),
        pytest.param({"area": {"file": SECRET_URL}}, rf"^area\.file: {NO_USER}", id="area"),
        pytest.param(
            {"cluster": {"kind": "gateway", "address": "https://me:hunter2@host/x"}},
            r"^cluster: address: who may come in .*, got \{.*'https://host/x'",
            id="cluster",
        ),
        pytest.param(
            {"grid": {"crs": SECRET_URL}}, r"^grid\.crs: .*, got 'https://host/", id="crs"
        ),
        pytest.param({SECRET_URL: 1}, "^https://host/z.geojson: this key is not known", id="key"),
        pytest.param({"parameters": {"x": SECRET_URL}}, r"^parameters\.x: ", id="parameter"),
        pytest.param(
            {"zones": "https://host/z.geojson?sig=SEKRET"},
            "^zones: expected a file or an s3:// URL of GeoJSON, got https://$",
            id="signed",
        ),
    ],
)
def test_no_credentials_of_an_address_are_told_back(change: dict[str, Any], message: str) -> None:
    def read() -> None:
        study = make_study(GOOD | change)
        study.load_parameters(study.load_product())
        study.read_zones()

    with pytest.raises(StudyError, match=message) as caught:
        read()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "hunter2" not in told
    assert "SEKRET" not in told


def test_a_misspelt_key_is_told_rather_than_what_is_missing() -> None:
    misspelt = {"periode" if key == "period" else key: value for key, value in GOOD.items()}
    with pytest.raises(StudyError, match=r"^periode: this key is not known; perhaps period$"):
        make_study(misspelt)


@pytest.mark.parametrize("key", ["product", "area", "period", "archive", "cube"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(StudyError, match=f"^{key}: expected a value, the study has none"):
        make_study({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(": [", "not readable YAML", id="not-yaml"),
        pytest.param("- one", "expected keys and values, got list", id="a-list"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=message):
        read_study(path)


@pytest.mark.parametrize(
    ("cube", "release"),
    [
        pytest.param("one", "one", id="equal"),
        pytest.param("one/", "./one", id="equal-otherwise-spelt"),
        pytest.param("one", "one/release", id="within"),
        pytest.param("deep/one", "deep", id="around"),
        pytest.param("deep/one", ".", id="the-studys-folder"),
        pytest.param("one", "{folder}/one/release", id="absolute"),
        pytest.param("file://{folder}/one", "one/release", id="file-url"),
        pytest.param("one", "link/release", id="by-a-link"),
        pytest.param("s3://lakes/one", "s3://lakes/one/", id="s3-equal"),
        pytest.param("s3://lakes/one", "s3://lakes//one/release", id="s3-within"),
        pytest.param("s3://lakes/one", "s3://lakes", id="s3-bucket-around"),
    ],
)
def test_releases_lie_apart_from_the_cube(tmp_path: Path, cube: str, release: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    told = {"cube": cube.format(folder=tmp_path), "release": release.format(folder=tmp_path)}
    message = "^release: expected a place apart from the cube .*, neither within it nor around it, "
    with pytest.raises(StudyError, match=message):
        make_study(GOOD | told, folder=tmp_path)


@pytest.mark.parametrize(
    ("cube", "release", "found"),
    [
        pytest.param("one", None, "{folder}/one.release", id="default"),
        pytest.param(".", None, "{folder}.release", id="default-beside-the-folder"),
        pytest.param("file://{folder}/one/", None, "file://{folder}/one.release", id="file-url"),
        pytest.param("s3://lakes/one/", None, "s3://lakes/one.release", id="s3-default"),
        pytest.param("one", "one.release", "{folder}/one.release", id="beside"),
        pytest.param("one", "{cwd}/one", "{cwd}/one", id="elsewhere"),
        pytest.param("s3://lakes/one", "s3://ponds/one", "s3://ponds/one", id="other-bucket"),
        pytest.param("s3://lakes/one", "lakes/one", "{folder}/lakes/one", id="other-scheme"),
    ],
)
def test_releases_are_found(tmp_path: Path, cube: str, release: str | None, found: str) -> None:
    folders = {"folder": tmp_path, "cwd": Path.cwd()}
    told = {"cube": cube.format(**folders), "release": release and release.format(**folders)}
    assert make_study(GOOD | told, folder=tmp_path).releases == found.format(**folders)


LIMITED = """\
product: vegetation
area: {bbox: [3.0, 50.8, 3.1, 50.9]}
period: 2018-01-01/2018-12-31
archive: archive/collection.json
cube: cubes/one
limits: {cost_eur: 1}
"""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(
            "limits: {cost_eur: 999}", r"^limits: .* line 6 and again in line 7;", id="top"
        ),
        pytest.param(
            "grid:\n  tile_px: 64\n  crs: EPSG:32631\n  tile_px: 128",
            r"^grid\.tile_px: expected once, .*study\.yaml has it in line 8 and again in line 10; "
            "keep one$",
            id="nested",
        ),
        pytest.param(
            'cluster: {workers: 1, "workers": 2}',
            r"^cluster\.workers: .* line 7 and again in line 7;",
            id="one-line",
        ),
        pytest.param(
            "zones:\n  features:\n  - {}\n  - {id: a, id: b}",
            r"^zones\.features\.1\.id: .* line 10 ",
            id="within-a-list",
        ),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(LIMITED + more)
    with pytest.raises(StudyError, match=message):
        read_study(path)


def test_an_anchor_may_be_named_again_and_what_it_holds_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    merged = "parameters: {a: &both {x: 1, y: 2}, b: *both, c: {<<: *both, x: 3}, d: &d [*d]}"
    path.write_text(LIMITED + merged)
    given = read_study(path).parameters
    assert given["b"] == {"x": 1, "y": 2}
    assert given["c"] == {"x": 3, "y": 2}


def test_relative_paths_start_at_the_study(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "study.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(GOOD | {"cube": "../cube", "dem": "s3://dem/d.tif"}))
    study = read_study(path)
    assert study.locate(study.cube) == str(tmp_path / "cube")
    moved = study.resolved()
    assert moved.archive == str(tmp_path / "deep/archive/collection.json")
    assert moved.dem == "s3://dem/d.tif"
    assert make_study(json.loads(moved.model_dump_json())).resolved().cube == moved.cube


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "expected GeoJSON", id="not-json"),
        pytest.param('{"type": "FeatureCollection", "features": []}', "has none", id="empty"),
        pytest.param(
            '{"type": "Point", "coordinates": [3, 50]}', "got Point without a surface", id="point"
        ),
        pytest.param(
            '{"type": "Polygon", "coordinates": []}', "has no geometry", id="empty-geometry"
        ),
        pytest.param(
            json.dumps(
                {
                    "type": "Polygon",
                    "coordinates": [[[5e5, 5e6], [6e5, 5e6], [6e5, 6e6], [5e5, 5e6]]],
                }
            ),
            "EPSG:4326",
            id="metres",
        ),
        pytest.param(
            json.dumps(SQUARE | {"crs": named_crs("urn:ogc:def:crs:EPSG::2154")}),
            "says that its crs is urn:ogc:def:crs:EPSG::2154; project it to EPSG:4326",
            id="named-crs",
        ),
    ],
)
def test_a_bad_area_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "area.geojson").write_text(content)
    study = make_study(GOOD | {"area": {"file": "area.geojson"}}, folder=tmp_path)
    with pytest.raises(StudyError, match=rf"^area\.file: .*{message}"):
        study.geometry()


@pytest.mark.parametrize(
    "crs",
    [
        named_crs("urn:ogc:def:crs:OGC:1.3:CRS84"),
        named_crs("urn:ogc:def:crs:EPSG::4258"),
        named_crs("http://www.opengis.net/def/crs/EPSG/0/4326"),
        {"type": "EPSG", "properties": {"code": 4326}},
        "EPSG:4326",
        {},
        None,
    ],
)
def test_longitudes_and_latitudes_may_be_named(crs: Any) -> None:
    area = {"geojson": SQUARE | {"crs": crs}}
    assert make_study(GOOD | {"area": area}).geometry().equals(box(3, 50, 4, 51))


def test_a_collection_of_geometries_is_its_surfaces() -> None:
    point = {"type": "Point", "coordinates": [0, 0]}
    collection = {"type": "GeometryCollection", "geometries": [SQUARE, point]}
    study = make_study(GOOD | {"area": {"geojson": collection}})
    assert study.geometry().equals(box(3, 50, 4, 51))


def test_an_id_that_is_null_is_none() -> None:
    feature = {"type": "Feature", "id": None, "properties": {"name": None}, "geometry": SQUARE}
    zones = {"type": "FeatureCollection", "features": [feature, feature]}
    found = make_study(GOOD | {"zones": zones}).read_zones()
    assert [(identifier, name) for identifier, name, _ in found] == [("0", "0"), ("1", "1")]


def test_a_spike_is_no_part_of_a_surface() -> None:
    """What mending makes of a ring that runs to a point and back must not be burnt as a line."""
    ring = [[3, 50], [4, 50], [4, 51], [3.5, 51], [3.5, 52], [3.5, 51], [3, 51], [3, 50]]
    area = {"geojson": {"type": "Polygon", "coordinates": [ring]}}
    assert make_study(GOOD | {"area": area}).geometry().equals(box(3, 50, 4, 51))


def test_schema_accepts_what_the_model_accepts() -> None:
    schema = Study.model_json_schema()
    jsonschema.validate(GOOD, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(GOOD | {"cubes": 1}, schema)


def test_products_are_found_by_module(tmp_path: Path) -> None:
    (tmp_path / "no_product_here.py").write_text("thing = 3\n")
    study = make_study(GOOD | {"product": "no_product_here:thing"}, folder=tmp_path)
    with pytest.raises(StudyError, match="expected a Product at no_product_here:thing, got int"):
        study.load_product()
    for name, message in (("no_product_here:other", "no object named"), ("nowhere:x", "nowhere")):
        study = make_study(GOOD | {"product": name}, folder=tmp_path)
        with pytest.raises(StudyError, match=message):
            study.load_product()
