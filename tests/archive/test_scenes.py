"""The scene list: frozen and read back, duplicates, mosaic order."""

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from alpage.archive.scene import describe
from alpage.archive.scenes import Scene, SceneList, canonical, deduplicate, mosaic_order
from alpage.errors import ArchiveError, SceneError

EARTH_SEARCH = "data/s2-cog-29RKH/S2A_29RKH_20200219_0_L2A.json"
THOUSAND = "data/stac-items/rustac/1000-sentinel-2-items.parquet"


def listed(items: list[dict[str, Any]], base: str | None = None) -> SceneList:
    scenes = [describe(item, base) for item in items]
    return SceneList.of(
        (scene, canonical(item, base, scene.footprint.bounds))
        for scene, item in zip(scenes, items, strict=True)
    )


@pytest.mark.parametrize(
    "name",
    [
        EARTH_SEARCH,
        "data/stac-items/odc-stac/site1-20200606-tall-strip-africa.geojson",
        "data/stac-items/odc-stac/site2-2020_jun_jul-35MNM.geojson",
        "data/stac-items/odc-stac/S2A_28QCH_20200714_0_L2A.json",
        "data/stac-items/odc-stac/LC08_L2SP_028030_20200114_20200824_02_T1_SR.json",
        "data/stac-items/odc-stac/LC08_L2SR_081119_20200101_20200823_02_T2.json",
        "data/l8-c2l2-001062/LC08_L2SP_001062_20201031_20201106_02_T2_SR_stac.json",
        "data/stac-items/rustac/item-collection.json",
        "data/stac-items/rustac/100-sentinel-2-items.parquet",
        pytest.param(THOUSAND, marks=pytest.mark.slow),
        "data/stac-items/safe-to-stac/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP"
        "_20230626T022157.SAFE/expected_output.json",
    ],
)
def test_frozen_lists_come_back_whole(items: Any, tmp_path: Path, name: str) -> None:
    before = listed(items(name), "/archive/item.json")
    path = tmp_path / "scenes.parquet"
    before.freeze(path)
    after = SceneList.load(path)
    assert after.scenes == before.scenes
    assert after.digest == before.digest
    assert [p.name for p in tmp_path.iterdir()] == ["scenes.parquet"]
    for was, now in zip(before.items, after.items, strict=True):
        assert now["assets"] == was["assets"]
        assert was["properties"].items() <= now["properties"].items()


def test_other_readers_read_it(flemish: Path, tmp_path: Path) -> None:
    read = [(json.loads(p.read_bytes()), p) for p in flemish.parent.glob("S2_*.json")]
    pairs = [(describe(item, str(p)), item, p) for item, p in read]
    scenes = SceneList.of((s, canonical(i, str(p), s.footprint.bounds)) for s, i, p in pairs)
    path = tmp_path / "scenes.parquet"
    scenes.freeze(path)
    frame = geopandas.read_parquet(path)
    assert len(frame) == 118
    assert frame.crs == 4326
    assert list(frame["id"]) == [scene.id for scene in scenes.scenes]
    assert frame.geometry.iloc[0].equals(scenes.scenes[0].footprint)
    again = pystac.Item.from_dict(dict(SceneList.load(path).items[0]), preserve_dict=False)
    assert Path(again.assets["red"].href).is_file()
    assert again.datetime == scenes.scenes[0].datetime


def test_lists_are_sorted_and_digests_know_every_scene(items: Any) -> None:
    real = items("data/stac-items/odc-stac/site2-2020_jun_jul-35MNM.geojson")
    scenes = listed(real)
    assert list(scenes.scenes) == sorted(scenes.scenes, key=lambda s: (s.datetime, s.id))
    assert [s.id for s in scenes.scenes] == [item["id"] for item in scenes.items]
    assert listed(real[::-1]).digest == scenes.digest
    assert len({scenes.digest, listed(real[1:]).digest, listed(real[:1]).digest}) == 3
    changed = copy.deepcopy(real)
    changed[4]["properties"]["s2:processing_baseline"] = "05.00"
    assert listed(changed).digest != scenes.digest


def test_quarantine_leaves_the_rest(items: Any) -> None:
    scenes = listed(items("data/stac-items/odc-stac/site2-2020_jun_jul-35MNM.geojson"))
    bad = {scenes.scenes[3].id, "never heard of"}
    rest = scenes.without(bad)
    assert len(rest) == len(scenes) - 1 == 12
    assert bad.isdisjoint(item["id"] for item in rest.items)
    assert scenes.without(()).digest == scenes.digest


def test_nothing_half_written(items: Any, tmp_path: Path) -> None:
    path = tmp_path / "scenes.parquet"
    scenes = listed(items(EARTH_SEARCH))
    scenes.freeze(path)
    good = path.read_bytes()
    mixed = copy.deepcopy(items(EARTH_SEARCH)) * 2
    mixed[1] = {**mixed[1], "id": "other", "properties": {**mixed[1]["properties"], "gsd": "ten"}}
    mixed[0]["properties"]["gsd"] = 10
    with pytest.raises(ArchiveError, match="cannot be held in one table"):
        listed(mixed).freeze(path)
    with pytest.raises(ArchiveError, match="empty"):
        scenes.without([scenes.scenes[0].id]).freeze(path)
    assert path.read_bytes() == good
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_no_scene_list_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.parquet"
    text.write_text("not parquet at all")
    with pytest.raises(ArchiveError, match="not stac-geoparquet"):
        SceneList.load(text)
    other = tmp_path / "other.parquet"
    geopandas.GeoDataFrame({"a": [1]}, geometry=[box(0, 0, 1, 1)], crs=4326).to_parquet(other)
    with pytest.raises(ArchiveError, match="not stac-geoparquet"):
        SceneList.load(other)


def test_foreign_files_load_or_name_the_culprit(shared: Path) -> None:
    folder = shared / "data" / "stac-items" / "rustac"
    if not folder.is_dir():
        pytest.skip("needs shared/data/stac-items/rustac")
    assert len(SceneList.load(folder / "100-sentinel-2-items.parquet")) == 100
    with pytest.raises(SceneError, match="LE07_L2SP_034032_20231028_02_T2"):
        SceneList.load(folder / "100-landsat-items.parquet")


def test_the_real_duplicate_of_a_real_catalogue(items: Any) -> None:
    """13SCC on 2024-07-19 is there twice: a whole granule, and a corner of it made earlier."""
    scenes = [describe(item) for item in items(THOUSAND)]
    kept, dropped = deduplicate(scenes)
    assert [scene.id for scene in dropped] == [
        "S2B_MSIL2A_20240719T174909_R141_T13SCC_20240720T005439"
    ]
    assert len(kept) == 999


@pytest.fixture
def scene(items: Any) -> Scene:
    return replace(describe(items(EARTH_SEARCH)[0]), footprint=box(0, 0, 1, 1))


def test_newest_processing_is_kept(scene: Scene) -> None:
    copies = [
        replace(scene, id="S2A_29RKH_20200219_0_L2A", baseline="02.14", updated="2022"),
        replace(scene, id="S2A_29RKH_20200219_1_L2A", baseline="05.00", updated="2021"),
        replace(scene, id="S2A_29RKH_20200219_2_L2A", baseline="05.00", updated="2023"),
        replace(scene, id="S2A_29RKH_20200219_3_L2A", baseline="05.00", updated="2023"),
        replace(scene, id="S2A_29RKH_20200219_4_L2A", baseline="", updated="2025"),
    ]
    kept, dropped = deduplicate(copies)
    assert [s.id for s in kept] == ["S2A_29RKH_20200219_3_L2A"]
    assert len(dropped) == 4
    assert deduplicate(copies[::-1])[0] == kept


def test_of_items_of_one_name_the_newest_is_kept(scene: Scene) -> None:
    """Headers, quarantine and record go by it, wherever the two lie."""
    old = replace(scene, baseline="02.14", footprint=box(5, 5, 6, 6))
    new = replace(scene, baseline="05.00")
    assert deduplicate([old, new]) == ((new,), (old,))


def test_baselines_compare_as_numbers(scene: Scene) -> None:
    copies = [replace(scene, baseline=b, id=b) for b in ("05.9", "05.11")]
    assert [s.id for s in deduplicate(copies)[0]] == ["05.11"]


def test_reprocessed_items_are_one_acquisition(items: Any) -> None:
    """The same granule processed twice: id, baseline and the granule's time differ."""
    old = items(EARTH_SEARCH)[0]
    new = copy.deepcopy(old)
    new["id"] = "S2A_29RKH_20200219_1_L2A"
    new["properties"] |= {
        "s2:processing_baseline": "05.00",
        "datetime": "2020-02-19T11:34:25.998000Z",
        "s2:product_uri": "S2A_MSIL2A_20200219T112111_N0500_R037_T29RKH_20230428T052541.SAFE",
    }
    kept, dropped = deduplicate([describe(old), describe(new)])
    assert [s.baseline for s in kept] == ["05.00"]
    assert [s.baseline for s in dropped] == ["02.14"]


def test_two_datastrips_of_one_tile_are_no_copies(scene: Scene) -> None:
    north = replace(scene, id="north", footprint=box(0, 0.48, 1, 1))
    south = replace(scene, id="south", footprint=box(0, 0, 1, 0.5))
    assert deduplicate([north, south]) == ((north, south), ())
    # A newer whole replaces both; a newer half replaces neither.
    whole = replace(scene, id="whole", baseline="05.00")
    assert deduplicate([north, south, whole])[0] == (whole,)
    half = replace(scene, id="half", baseline="05.00", footprint=box(0, 0, 1, 0.5))
    assert deduplicate([replace(scene, id="old"), half])[1] == ()


def test_other_acquisitions_are_kept(items: Any) -> None:
    for name in ("site1-20200606-tall-strip-africa", "site2-2020_jun_jul-35MNM"):
        scenes = [describe(i) for i in items(f"data/stac-items/odc-stac/{name}.geojson")]
        assert deduplicate(scenes) == (tuple(scenes), ())


def test_mosaic_order_is_stated(scene: Scene) -> None:
    start = datetime(2020, 2, 19, 11, tzinfo=UTC)
    start_before = start - timedelta(minutes=25)
    one = {"platform": "sentinel-2a", "orbit": "37", "datetime": start}
    two = {"platform": "sentinel-2b", "orbit": "80", "datetime": start + timedelta(minutes=50)}
    expected = [
        replace(scene, id="d", tile="29RKJ", crs=32629, **one),
        replace(scene, id="a-new", tile="29RLH", crs=32629, baseline="05.00", **one),
        replace(scene, id="a-old", tile="29RLH", crs=32629, baseline="02.14", **one),
        replace(scene, id="c", tile="28RFP", crs=32628, **one),
        replace(scene, id="b", tile="29RKH", crs=32629, **two),
        replace(scene, id="a", tile="28RFN", crs=None, **two),
        # Before the others by its hour, after them by its pixels.
        replace(scene, id="l", sensor="landsat-c2-l2", platform="landsat-8", datetime=start_before),
    ]
    for rotated in range(7):
        shuffled = expected[rotated:] + expected[:rotated]
        assert mosaic_order(shuffled, 32629) == tuple(expected)
    assert [s.id for s in mosaic_order(expected, 32628)][:1] == ["c"]


@given(st.permutations(range(9)))
def test_mosaic_order_does_not_depend_on_the_order_given(order: list[int]) -> None:
    base = Scene(
        id="",
        collection="c",
        sensor="sentinel-2-l2a",
        datetime=datetime(2020, 1, 1, 10, tzinfo=UTC),
        platform="p",
        orbit="1",
        tile="",
        baseline="",
        updated="",
        revision="",
        acquisition=(),
        crs=None,
        footprint=box(0, 0, 1, 1),
        assets={},
    )
    scenes = [
        replace(base, id=str(n), crs=(32631, 32632)[n % 2], orbit=str(n % 3), tile=str(n % 4))
        for n in range(9)
    ]
    assert mosaic_order([scenes[n] for n in order], 32631) == mosaic_order(scenes, 32631)
