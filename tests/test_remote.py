"""What is sent to a Prefect server: GeoJSON goes along, other files of this machine are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from alpage.errors import StudyError
from alpage.remote import portable, submit
from alpage.study import make_study

SQUARE = {
    "type": "Feature",
    "id": "field",
    "properties": {"name": "A field"},
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[3.0, 50.0], [3.1, 50.0], [3.1, 50.1], [3.0, 50.1], [3.0, 50.0]]],
    },
}
REMOTE: dict[str, Any] = {
    "product": "vegetation",
    "area": {"file": "area.geojson"},
    "zones": "zones.geojson",
    "period": "2018-05-01/2018-08-31",
    "archive": "s3://imagery/collection.json",
    "cube": "s3://cubes/mine",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    collection = {"type": "FeatureCollection", "features": [SQUARE]}
    for name in ("area.geojson", "zones.geojson"):
        (tmp_path / name).write_text(json.dumps(collection))
    (tmp_path / "mine.py").write_text("")
    return tmp_path


def test_geojson_goes_along(folder: Path) -> None:
    here = make_study(REMOTE, folder=folder)
    sent = portable(here).model_dump(mode="json", exclude_unset=True)
    there = make_study(json.loads(json.dumps(sent)))
    assert there.geometry().equals(here.geometry())
    assert [(name, told) for name, told, _ in there.read_zones()] == [("field", "A field")]
    assert there.resolved().zones == there.zones


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("archive", "archive/collection.json"),
        ("cube", "cubes/mine"),
        ("release", "/srv/release"),
        ("dem", "dem.tif"),
        ("product", "mine:product"),
    ],
)
def test_what_only_this_machine_has_is_refused_by_key(folder: Path, key: str, value: str) -> None:
    with pytest.raises(StudyError, match=f"^{key}: only this machine has "):
        submit(make_study(REMOTE | {key: value}, folder=folder), "build")


def test_an_area_is_given_in_one_way() -> None:
    both = {"bbox": [3, 50, 4, 51], "geojson": SQUARE}
    with pytest.raises(StudyError, match="expected one of bbox, file and geojson"):
        make_study(REMOTE | {"area": both})


def test_inline_zones_that_are_no_surface_are_refused() -> None:
    point = {"type": "Point", "coordinates": [3, 50]}
    with pytest.raises(StudyError, match="zones: feature 0 of the study is expected to be a polyg"):
        make_study(REMOTE | {"zones": point}).read_zones()
