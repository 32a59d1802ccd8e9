"""Scenes described from real items of six catalogues, and what makes an item no scene."""

import copy
import dataclasses
import json
import pickle
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alpage.archive.scene import Scene, describe
from alpage.archive.scenes import canonical
from alpage.archive.sensors import SENSORS, recognise
from alpage.errors import SceneError

ODC = "data/stac-items/odc-stac"
SAFE = "data/stac-items/safe-to-stac"
EARTH_SEARCH = "data/s2-cog-29RKH/S2A_29RKH_20200219_0_L2A.json"
LANDSAT = f"{ODC}/LC08_L2SP_028030_20200114_20200824_02_T1_SR.json"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        pytest.param(
            EARTH_SEARCH,
            ("sentinel-2-l2a", "sentinel-2a", "37", "29RKH", "02.14", 32629, date(2020, 2, 19)),
            id="earth-search-v1",
        ),
        pytest.param(
            f"{ODC}/S2A_28QCH_20200714_0_L2A.json",
            ("sentinel-2-l2a", "sentinel-2a", "123", "28QCH", "02.14", 32628, date(2020, 7, 14)),
            id="earth-search-v0",
        ),
        pytest.param(
            f"{ODC}/S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json",
            ("sentinel-2-l2a", "sentinel-2b", "43", "06VVN", "02.12", 32606, date(2019, 6, 29)),
            id="planetary-computer",
        ),
        pytest.param(
            "data/stac-items/rustac/item-collection.json",
            ("sentinel-2-l2a", "sentinel-2a", "98", "13TDE", "05.10", 32613, date(2024, 4, 22)),
            id="earth-search-collection-1",
        ),
        pytest.param(
            f"{SAFE}/S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE"
            "/expected_output.json",
            ("sentinel-2-l2a", "sentinel-2a", "13", "07HFE", "02.12", 32707, date(2019, 2, 12)),
            id="safe",
        ),
        pytest.param(
            # 23:46 UTC is the next morning at 179.8° east, where the tile's middle lies.
            f"{SAFE}/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE"
            "/expected_output.json",
            ("sentinel-2-l2a", "sentinel-2a", "73", "01WCP", "05.09", 32601, date(2023, 6, 26)),
            id="antimeridian",
        ),
        pytest.param(
            LANDSAT,
            ("landsat-c2-l2", "landsat-8", "28", "028030", "02", 32615, date(2020, 1, 14)),
            id="usgs",
        ),
        pytest.param(
            f"{ODC}/LC08_L2SR_081119_20200101_20200823_02_T2.json",
            ("landsat-c2-l2", "landsat-8", "81", "081119", "02", 3031, date(2020, 1, 1)),
            id="usgs-1.0-beta",
        ),
        pytest.param(
            "data/l8-c2l2-001062/LC08_L2SP_001062_20201031_20201106_02_T2_SR_stac.json",
            ("landsat-c2-l2", "landsat-8", "1", "001062", "02", None, date(2020, 10, 31)),
            id="usgs-0.7",
        ),
    ],
)
def test_real_items(items: Any, name: str, facts: tuple[Any, ...]) -> None:
    s = describe(items(name)[0], "/archive/item.json")
    assert (s.sensor, s.platform, s.orbit, s.tile, s.baseline, s.crs, s.solar_day) == facts
    assert {"green", "red", "nir", "swir16", "quality"} <= s.assets.keys()
    assert all("://" in a.href or a.href.startswith("/archive/") for a in s.assets.values())
    assert s.group == (s.solar_day, s.platform, s.orbit)


def test_landsat_nir_is_ours(items: Any) -> None:
    scene = describe(items(LANDSAT)[0])
    assert scene.assets["nir"].href.endswith("_SR_B5.TIF")
    assert "nir08" not in scene.assets
    red, quality, saturation = (scene.assets[b] for b in ("red", "quality", "saturation"))
    assert (red.gain, red.offset, red.nodata) == (0.275, -2000.0, 0.0)
    # Fill in QA_PIXEL is bit 0.
    assert (quality.gain, quality.offset, quality.nodata) == (1.0, 0.0, 1.0)
    assert saturation.href.endswith("_QA_RADSAT.TIF")
    assert (saturation.gain, saturation.offset, saturation.nodata) == (1.0, 0.0, 0.0)


def test_sentinel_has_both_near_infrareds(items: Any) -> None:
    assets = describe(items(EARTH_SEARCH)[0]).assets
    assert assets["nir"].href.endswith("/B08.tif")
    assert assets["nir08"].href.endswith("/B8A.tif")
    assert len(assets) == len(SENSORS["sentinel-2-l2a"].bands)


def test_every_item_of_the_real_archive(flemish: Path) -> None:
    """Items without update time, orbit or tile: the rest is there."""
    paths = sorted(flemish.parent.glob("S2_*.json"))
    scenes = [describe(json.loads(path.read_bytes()), str(path)) for path in paths]
    assert len(scenes) == 118
    assert {s.crs for s in scenes} == {32631}
    assert {(s.orbit, s.tile, s.updated) for s in scenes} == {("", "", "")}
    assert {s.baseline for s in scenes} == {"02.12"}
    assert all(Path(a.href).is_file() for s in scenes for a in s.assets.values())
    assert {s.warnings for s in scenes} == {()}
    assert len({s.acquisition for s in scenes}) == 118
    assert len({s.solar_day for s in scenes}) == 118


def test_thousand_items_of_one_catalogue(items: Any) -> None:
    scenes = [describe(i) for i in items("data/stac-items/rustac/1000-sentinel-2-items.parquet")]
    assert len({s.id for s in scenes}) == 1000
    assert {s.platform for s in scenes} == {"sentinel-2a", "sentinel-2b"}
    assert len({s.tile for s in scenes}) == 54
    assert {s.assets["red"].offset for s in scenes} == {-1000.0}
    assert {s.assets["quality"].offset for s in scenes} == {0.0}
    assert {s.warnings for s in scenes} == {()}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("data/stac-items/eodag/earth_search_search.json", "neither names nor assets tell"),
        ("data/stac-items/eodag/geodes_search.json", "neither names nor assets tell"),
        ("data/stac-items/eodag/sara_search.json", "neither names nor assets tell"),
        ("data/stac-items/pystac-client/sample-item-collection.json", "none of the sensors known"),
        (f"{ODC}/LE07_L2SP_044033_20210329_20210424_02_T1_SR.json", "landsat-7 is none"),
        (f"{ODC}/ga_ls8c_ard_3-1-0_088080_2020-05-25_final.stac-item.json", "neither names"),
        (
            "data/l8-c2l2-001062/LC08_L2SP_001062_20201031_20201106_02_T2_ST_stac.json",
            "reflectance band",
        ),
    ],
)
def test_other_imagery_is_refused_by_name(items: Any, name: str, reason: str) -> None:
    for real in items(name):
        with pytest.raises(SceneError, match=reason) as refused:
            describe(real)
        assert refused.value.scene_id == real["id"]


def broken(real: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(real)
    for key, value in changes.items():
        if key == "datetime":
            changed["properties"]["datetime"] = value
        else:
            changed[key] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"datetime": None}, "no datetime"),
        ({"datetime": "yesterday"}, "is not a time"),
        ({"geometry": None}, "no geometry"),
        ({"geometry": {"type": "Polygon", "coordinates": []}}, "empty"),
        ({"assets": {}}, "neither names nor assets|reflectance band"),
        ({"assets": {"scl": {"href": "SCL.tif"}}}, "reflectance band"),
        ({"assets": {"red": {"title": "no href"}, "scl": {"href": "SCL.tif"}}}, "reflectance band"),
        ({"properties": None}, "none of the sensors"),
    ],
)
def test_what_is_indispensable(items: Any, changes: dict[str, Any], reason: str) -> None:
    real = items(EARTH_SEARCH)[0]
    with pytest.raises(SceneError, match=reason):
        describe(broken(real, **changes))


def test_a_missing_mask_and_jpeg_2000_are_told(items: Any) -> None:
    real = broken(items(EARTH_SEARCH)[0])
    del real["assets"]["scl"]
    assert "no scl asset" in describe(real).warnings[0]
    name = f"{SAFE}/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE"
    scene = describe(items(f"{name}/expected_output.json")[0])
    assert "JPEG 2000" in scene.warnings[0]


def test_a_day_without_hour_stays_on_its_day(items: Any) -> None:
    """Path 1 row 62 is seen at about 14:35 UTC, says the MTL beside this item."""
    name = "data/l8-c2l2-001062/LC08_L2SP_001062_20201031_20201106_02_T2"
    scene = describe(items(f"{name}_SR_stac.json")[0])
    told = items(f"{name}_MTL.json")[0]["LANDSAT_METADATA_FILE"]["IMAGE_ATTRIBUTES"]
    true = datetime.fromisoformat(f"{told['DATE_ACQUIRED']}T{told['SCENE_CENTER_TIME'][:8]}+00:00")
    assert abs(scene.datetime - true).total_seconds() < 900
    assert "day without hour" in scene.warnings[0]


def test_pystac_items_and_dicts_are_the_same(items: Any) -> None:
    real = items(EARTH_SEARCH)[0]
    assert describe(pystac.Item.from_dict(copy.deepcopy(real))) == describe(real)


def test_scenes_travel_and_do_not_change(items: Any) -> None:
    scene = describe(items(EARTH_SEARCH)[0])
    assert pickle.loads(pickle.dumps(scene)) == scene
    assert len({scene, describe(items(EARTH_SEARCH)[0])}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i["properties"].update(updated="2023-01-01T00:00:00Z"),
        lambda i: i["properties"].update({"s2:processing_baseline": "05.00"}),
        lambda i: (
            i["properties"].update({"earthsearch:boa_offset_applied": None})
            or i["assets"]["red"]["raster:bands"][0].update(offset=-0.1)
        ),
        lambda i: i["properties"].update({"proj:epsg": 32628}),
        lambda i: i["properties"].update(datetime="2020-02-19T11:34:26Z"),
        lambda i: i["assets"]["red"].update({"file:checksum": "1220ab"}),
        lambda i: i["assets"]["red"].update(href="https://example.org/B04.tif"),
        lambda i: i["assets"].pop("swir16"),
    ],
)
def test_revision_tells_of_every_change(items: Any, change: Any) -> None:
    real = items(EARTH_SEARCH)[0]
    changed = copy.deepcopy(real)
    change(changed)
    assert describe(changed).revision != describe(real).revision


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i["properties"].update({"eo:cloud_cover": 99}),
        lambda i: i["properties"].update(updated="2022-11-06T09:32:34.081877Z"),
        lambda i: i["assets"].pop("thumbnail"),
        lambda i: i["assets"]["red"].update(title="Rouge"),
        lambda i: i["assets"]["red"].update(href=i["assets"]["red"]["href"] + "?sig=today"),
        lambda i: i.update(links=[]),
    ],
)
def test_revision_is_still_for_the_rest(items: Any, change: Any) -> None:
    real = items(EARTH_SEARCH)[0]
    changed = copy.deepcopy(real)
    change(changed)
    assert describe(changed).revision == describe(real).revision


def test_sensor_table() -> None:
    s2 = SENSORS["sentinel-2-l2a"]
    assert s2.resolution_m(("red", "swir16")) == 10
    assert s2.resolution_m(("swir16", "nir08")) == 20
    assert s2.resolution_m(("coastal",)) == 60
    assert SENSORS["landsat-c2-l2"].resolution_m(("red", "nir")) == 30
    cdse = {
        "id": "S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753",
        "properties": {"platform": "sentinel-2b", "processing:version": "05.11"},
        "assets": {name: {"href": "a"} for name in ("B04_10m", "B8A_20m", "SCL_20m", "B01_60m")},
    }
    assert recognise(cdse) is s2
    names = {band: s2.asset_name(cdse, band) for band in ("red", "nir08", "quality", "coastal")}
    assert names == {
        "red": "B04_10m",
        "nir08": "B8A_20m",
        "quality": "SCL_20m",
        "coastal": "B01_60m",
    }
    assert s2.asset_name(cdse, "green") is None


def test_times_are_utc(items: Any) -> None:
    real = broken(items(EARTH_SEARCH)[0], datetime="2020-02-19T12:34:25.405+01:00")
    assert describe(real).datetime == datetime(2020, 2, 19, 11, 34, 25, 405000, tzinfo=UTC)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
numbers = st.floats().map(lambda number: [{"offset": number, "scale": number, "nodata": number}])
places = st.sampled_from(
    [
        ("id",),
        ("collection",),
        ("geometry",),
        ("geometry", "type"),
        ("geometry", "coordinates"),
        ("bbox",),
        ("links",),
        ("properties",),
        ("properties", "datetime"),
        ("properties", "updated"),
        ("properties", "platform"),
        ("properties", "proj:epsg"),
        ("properties", "s2:processing_baseline"),
        ("properties", "earthsearch:boa_offset_applied"),
        ("properties", "grid:code"),
        ("assets",),
        ("assets", "red"),
        ("assets", "red", "href"),
        ("assets", "red", "raster:bands"),
        ("assets", "scl", "type"),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(places, anything | numbers), min_size=1, max_size=3))
@example([(("assets", "red", "href"), "")])
def test_whatever_an_item_holds_it_is_a_scene_or_refused(
    items: Any, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    item = copy.deepcopy(items(EARTH_SEARCH)[0])
    for path, value in changes:
        holder: Any = item
        for step in path[:-1]:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder[path[-1]] = value
    try:
        scene = describe(item, "https://example.org/item.json")
    except SceneError:
        return
    assert isinstance(scene, Scene)
    assert scene.solar_day
    table = canonical(item, "https://example.org/item.json", scene.footprint.bounds)
    assert describe(table).revision == scene.revision
