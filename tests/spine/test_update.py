"""A cube that is brought up to date is the cube that would be built from scratch."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely

import alpage
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.plan import Plan
from alpage.engine.rasters import count_pixels
from alpage.engine.report import RunReport
from alpage.errors import CubeError, LimitReached
from alpage.grid import Grid
from alpage.simulate.items import write_collection
from alpage.simulate.valley import Valley, add_late_scene, add_reprocessed_scene
from alpage.timeaxis import Calendar, slot_of

StudyOf = Callable[..., Any]
Built = Callable[..., tuple[Any, Any]]
Blocks = set[tuple[int, int, int]]
WINDOW = 96
# Told outright: the archive's majority decides otherwise, and some tests change the archive.
GRIDS = {
    "monthly_ndvi": {"crs": "EPSG:32632", "resolution": 10, "tile_px": 48, "window_days": WINDOW},
    "vegetation": {"crs": "EPSG:32632", "resolution": 10, "tile_px": 64, "window_days": WINDOW},
    "snow": {"crs": "EPSG:32632", "resolution": 20, "tile_px": 24, "window_days": WINDOW},
    "lakes": {"crs": "EPSG:32632", "resolution": 20, "tile_px": 24, "window_days": WINDOW},
}
LATE, REPROCESSED = "2022-03-17", "2021-08-29"


def redone(before: Any, after: Any, step: str) -> Blocks:
    """Blocks (number in the array, row, column) that a run did: what they cost has changed."""
    cost, other = (c.arrays[f"ledger/{step}/cost"] for c in (before, after))
    return {tuple(map(int, at)) for at in np.argwhere((cost != other).any(axis=-1))}


def changed(before: Any, after: Any, step: str) -> Blocks:
    """Blocks that are recorded with other inputs than before."""
    print_, other = (c.arrays[f"ledger/{step}/fingerprint"] for c in (before, after))
    return {tuple(map(int, at)) for at in np.argwhere((print_ != other).any(axis=-1))}


def touched(cube: str, footprint: Any) -> set[tuple[int, int]]:
    """Tiles of a cube under a footprint."""
    root = CubeStore.open(cube).read()
    grid = Grid.from_json(root.attrs["alpage"]["grid"])
    outline = grid.project(footprint)
    return {
        tile
        for tile in grid.tiles
        if outline.intersects(shapely.box(*grid.tile_box(tile).boundingbox.bbox))
    }


def window_of(cells: Any, day: str) -> int:
    """Number, in the arrays, of the window of a day."""
    return int((slot_of(Calendar.DAY, day) - cells.arrays["day/time"][0]) // WINDOW)


def withdraw(valley: Valley, pattern: str) -> list[Any]:
    """Take items out of the catalogue; gives their footprints."""
    found = []
    for path in sorted(valley.archive.glob(f"items/{pattern}/*.json")):
        found.append(shapely.geometry.shape(json.loads(path.read_text())["geometry"]))
        shutil.rmtree(path.parent)
    write_collection(valley.archive)
    return found


def test_the_same_study_twice_does_nothing(built: Built, cells: Any, same_cube: Any) -> None:
    study, first = built("snow", grid=GRIDS["snow"])
    before = cells(study.cube)
    again = alpage.run(study)
    assert first.n_blocks > 0
    assert again.n_blocks == 0
    assert again.bytes_read == 0
    assert again.snapshot == first.snapshot
    store = CubeStore.open(study.cube)
    assert store.branches() == {MAIN}
    assert len(list(store.versions())) == 1
    same_cube(before, cells(study.cube))


def test_late_and_reprocessed_scenes_cost_only_their_blocks(
    own_valley: Valley, built: Built, study_of: StudyOf, cells: Any, same_cube: Any
) -> None:
    study, _ = built("monthly_ndvi", grid=GRIDS["monthly_ndvi"])
    before = cells(study.cube)
    added = (*add_late_scene(own_valley), *add_reprocessed_scene(own_valley))
    assert [str(one.day) for one in added] == [LATE, REPROCESSED]
    report = alpage.run(study)
    after = cells(study.cube)

    days = {str(one.day): touched(study.cube, one.footprint) for one in added}
    observed = {(window_of(before, day), *tile) for day, tiles in days.items() for tile in tiles}
    months = before.arrays["month/time"].astype("datetime64[D]").astype("datetime64[M]").tolist()
    month_of = {
        day: months.index(np.datetime64(day, "M").astype(object)) for day in (LATE, REPROCESSED)
    }
    greenest = {(month_of[day], *tile) for day, tiles in days.items() for tile in tiles}
    assert redone(before, after, "observe") == changed(before, after, "observe") == observed
    # A window holds several months, and all that read it are done again.
    derived = redone(before, after, "greenest")
    assert derived == changed(before, after, "greenest")
    assert greenest <= derived
    assert {block[0] for block in derived} < set(range(len(months)))
    assert report.blocks == {"observe": len(observed), "greenest": len(derived)}

    fresh = study_of("monthly_ndvi", "fresh", of=own_valley, grid=GRIDS["monthly_ndvi"])
    alpage.run(fresh)
    same_cube(after, cells(fresh.cube))


@pytest.mark.parametrize("product", ["snow", "lakes", "vegetation"])
def test_an_updated_cube_is_the_cube_built_anew(
    product: str,
    own_valley: Valley,
    built: Built,
    study_of: StudyOf,
    cells: Any,
    same_cube: Any,
) -> None:
    study, first = built(product, grid=GRIDS[product])
    before = cells(study.cube)
    added = add_late_scene(own_valley)
    report = alpage.run(study)
    after = cells(study.cube)

    tiles = touched(study.cube, added[0].footprint)
    window = window_of(before, LATE)
    assert redone(before, after, "observe") == {(window, *tile) for tile in tiles}
    for step in report.blocks:
        assert redone(before, after, step) == changed(before, after, step), step
        assert report.blocks[step] <= first.blocks[step], step
    assert report.blocks["observe"] < first.blocks["observe"]
    for step in ("snow_line", "threshold"):
        if step in report.blocks:
            assert redone(before, after, step) == {(window, 0, 0)}
    if product in ("snow", "lakes"):
        assert {block[0] for block in redone(before, after, "classify")} == {window}

    fresh = study_of(product, "fresh", of=own_valley, grid=GRIDS[product])
    alpage.run(fresh)
    same_cube(after, cells(fresh.cube))


@pytest.mark.parametrize(
    ("product", "pattern"),
    [
        pytest.param("snow", "S2?_32TKR_20211227*", id="snow-one-scene"),
        pytest.param("vegetation", "S2?_32TKR_20211227*", id="vegetation-one-scene"),
        pytest.param("monthly_ndvi", "S2?_*_20211227*", id="monthly_ndvi-whole-date"),
        pytest.param("lakes", "S2?_*_20211227*", id="lakes-whole-date"),
    ],
)
def test_a_withdrawn_scene_is_noticed(
    product: str,
    pattern: str,
    own_valley: Valley,
    built: Built,
    study_of: StudyOf,
    cells: Any,
    same_cube: Any,
) -> None:
    # Windows so short that the date is alone in its own.
    narrow = {"grid": GRIDS[product] | {"window_days": 32}, "period": "2021-11-10/2022-02-10"}
    study, _ = built(product, **narrow)
    before = cells(study.cube)
    footprints = withdraw(own_valley, pattern)
    report = alpage.run(study)
    after = cells(study.cube)
    tiles = set().union(*(touched(study.cube, footprint) for footprint in footprints))
    window = int((slot_of(Calendar.DAY, "2021-12-27") - before.arrays["day/time"][0]) // 32)
    observed = redone(before, after, "observe")
    if product == "snow":
        # Its blocks look beyond their tiles.
        assert {(window, *tile) for tile in tiles} <= observed
        assert {block[0] for block in observed} == {window}
    else:
        assert observed == {(window, *tile) for tile in tiles}
    assert report.blocks["observe"] == len(observed)

    fresh = study_of(product, "fresh", of=own_valley, **narrow)
    alpage.run(fresh)
    same_cube(after, cells(fresh.cube))
    assert alpage.run(study).n_blocks == 0


@pytest.mark.parametrize("product", ["monthly_ndvi", "snow", "lakes", "vegetation"])
def test_a_cube_grows_in_both_directions(
    product: str,
    own_valley: Valley,
    built: Built,
    study_of: StudyOf,
    cells: Any,
    same_cube: Any,
) -> None:
    at_once, _ = built(product, grid=GRIDS[product])
    done = 0
    for period in (
        "2021-11-10/2022-01-20",
        "2021-11-10/2022-02-10",
        "2021-11-10/2022-04-10",
        "2021-07-20/2022-04-10",
    ):
        study = study_of(product, "grown", of=own_valley, period=period, grid=GRIDS[product])
        report = alpage.run(study)
        assert report.blocks["observe"] > 0, period
        done += report.blocks["observe"]
    assert alpage.run(study).n_blocks == 0
    same_cube(cells(at_once.cube), cells(study.cube))


def test_a_period_that_leaves_days_between_is_refused(study_of: StudyOf) -> None:
    grid = GRIDS["monthly_ndvi"]
    study = study_of("monthly_ndvi", grid=grid, period="2021-11-01/2021-12-10")
    alpage.run(study)
    for period, whole in (
        ("2021-12-12/2022-01-20", "2021-11-01/2022-01-20"),
        ("2021-09-01/2021-10-30", "2021-09-01/2021-12-10"),
    ):
        apart = study_of("monthly_ndvi", grid=grid, period=period)
        with pytest.raises(CubeError, match=rf"period: .*got {period}: .*Ask for {whole}, or give"):
            alpage.run(apart)
    next_day = study_of("monthly_ndvi", grid=grid, period="2021-12-11/2022-01-20")
    assert alpage.run(next_day).n_blocks > 0


def test_a_longer_period_without_new_scenes_counts_its_days(
    own_valley: Valley, built: Built, study_of: StudyOf, cells: Any, same_cube: Any
) -> None:
    longer = {"period": "2021-07-20/2022-04-25", "grid": GRIDS["snow"], "of": own_valley}
    short, _ = built("snow", grid=GRIDS["snow"])
    report = alpage.run(study_of("snow", **longer))
    assert set(report.blocks) <= {"season"}
    at_once = study_of("snow", "whole", **longer)
    alpage.run(at_once)
    same_cube(cells(short.cube), cells(at_once.cube))


@pytest.mark.parametrize(
    ("product", "spared"),
    [
        pytest.param("snow", ("observe", "snow_line", "classify", "season"), id="snow"),
        pytest.param("vegetation", ("observe", "smooth", "phenology"), id="vegetation"),
        pytest.param("lakes", (), id="lakes"),
    ],
)
def test_changed_zones_give_the_series_of_a_new_cube(
    product: str,
    spared: tuple[str, ...],
    own_valley: Valley,
    built: Built,
    study_of: StudyOf,
    cells: Any,
    same_cube: Any,
) -> None:
    study, _ = built(product, grid=GRIDS[product])
    zones = json.loads(own_valley.zones.read_text())
    kept = [one for one in zones["features"] if one["properties"]["id"] != "forest"]
    moved = shapely.affinity.translate(shapely.geometry.shape(kept[1]["geometry"]), 0.001, 0.0005)
    kept[1]["geometry"] = shapely.geometry.mapping(moved)
    own_valley.zones.write_text(json.dumps(zones | {"features": kept[::-1]}))
    report = alpage.run(study)
    assert report.n_blocks > 0
    assert not set(spared) & set(report.blocks)
    fresh = study_of(product, "fresh", of=own_valley, grid=GRIDS[product])
    alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))
    assert alpage.run(study).n_blocks == 0


def test_pixels_are_counted_of_changed_zones_only(
    own_valley: Valley, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = built("lakes", grid=GRIDS["lakes"])
    counted: list[Any] = []

    def count(outline: Any, geobox: Any) -> int:
        counted.append(outline)
        return count_pixels(outline, geobox)

    monkeypatch.setattr("alpage.engine.plan.count_pixels", count)
    known = alpage.plan(study).shared.context.zones
    assert counted == []
    zones = json.loads(own_valley.zones.read_text())
    first = zones["features"][0]
    first["geometry"] = shapely.geometry.mapping(
        shapely.geometry.shape(first["geometry"]).buffer(1e-4)
    )
    own_valley.zones.write_text(json.dumps(zones))
    now = alpage.plan(study).shared.context.zones
    assert len(counted) == 1
    assert now[1:] == known[1:]
    assert now[0].pixels > known[0].pixels > 0


def test_zones_change_while_the_only_scenes_of_a_block_are_withdrawn(
    own_valley: Valley, built: Built, study_of: StudyOf, cells: Any, same_cube: Any
) -> None:
    narrow = {"grid": GRIDS["lakes"] | {"window_days": 32}, "period": "2021-11-10/2022-02-10"}
    study, _ = built("lakes", **narrow)
    zones = json.loads(own_valley.zones.read_text())
    own_valley.zones.write_text(json.dumps(zones | {"features": zones["features"][:-1]}))
    assert withdraw(own_valley, "S2?_*_20211227*")
    assert alpage.run(study).n_blocks > 0
    fresh = study_of("lakes", "fresh", of=own_valley, **narrow)
    alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))
    assert alpage.run(study).n_blocks == 0


def test_another_area_is_another_cube(study_of: StudyOf, cells: Any, same_cube: Any) -> None:
    study = study_of("monthly_ndvi")
    alpage.run(study)
    before = cells(study.cube)
    west, south, east, north = study.area.bbox
    for bbox in ((west, south, east - 0.005, north), (west - 0.01, south, east, north)):
        with pytest.raises(CubeError, match="area"):
            alpage.run(study_of("monthly_ndvi", area={"bbox": bbox}))
    same_cube(before, cells(study.cube))


def test_an_unfinished_run_of_another_area_is_told(study_of: StudyOf, tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    west, south, east, north = study_of("monthly_ndvi").area.bbox

    def study_up_to(edge: float) -> Any:
        area.write_text(json.dumps(shapely.geometry.mapping(shapely.box(west, south, edge, north))))
        return study_of("monthly_ndvi", area={"file": str(area)}, limits={"hours": 1e-9})

    with pytest.raises(LimitReached, match="are done and kept"):
        alpage.run(study_up_to(east))
    with pytest.raises(CubeError, match=r"an unfinished run of this study at .* made with area"):
        alpage.run(study_up_to(east - 0.005))
    with pytest.raises(LimitReached, match=r"limits\.hours: the run needs"):
        alpage.run(study_up_to(east))


def test_readers_can_be_shown_an_earlier_state(
    own_valley: Valley, built: Built, cells: Any, same_cube: Any
) -> None:
    study, first = built("monthly_ndvi", grid=GRIDS["monthly_ndvi"])
    was = cells(study.cube)
    add_late_scene(own_valley)
    second = alpage.run(study)
    new = cells(study.cube)
    assert [one["snapshot"] for one in alpage.history(study.cube)] == [
        second.snapshot,
        first.snapshot,
    ]
    assert [one["blocks"] for one in alpage.history(study.cube)] == [
        second.n_blocks,
        first.n_blocks,
    ]
    assert alpage.rollback(study.cube) == first.snapshot
    assert alpage.open_cube(study.cube).snapshot == first.snapshot
    same_cube(was, cells(study.cube))
    same_cube(new, cells(study.cube, snapshot=second.snapshot))
    with pytest.raises(CubeError, match="no state before"):
        alpage.rollback(study.cube)
    assert alpage.rollback(study.cube, second.snapshot) == second.snapshot
    same_cube(new, cells(study.cube))
    assert alpage.rollback(study.cube) == first.snapshot
    with pytest.raises(CubeError, match="never showed readers"):
        alpage.rollback(study.cube, "0123456789ABCDEFGHJK")
    assert alpage.run(study).blocks == second.blocks
    same_cube(new, cells(study.cube))


@pytest.mark.parametrize("limit", [{"read_gib": 1e-6}, {"blocks": 3}])
def test_a_run_that_would_pass_a_limit_does_not_start(
    limit: dict[str, float], study_of: StudyOf, tmp_path: Path
) -> None:
    study = study_of("monthly_ndvi", limits=limit)
    with pytest.raises(LimitReached, match=rf"limits\.{next(iter(limit))}.*nothing was started"):
        alpage.run(study)
    assert not (tmp_path / "cube").exists()
    assert alpage.run(study_of("monthly_ndvi")).n_blocks > 3


def test_a_run_looks_at_no_scene_that_its_plan_has_seen(study_of: StudyOf) -> None:
    study = study_of("monthly_ndvi")
    found = alpage.search(study)
    planned = alpage.plan(study, found)
    assert planned.inspection.requests > 0
    anew: list[Plan] = []
    reports: list[RunReport] = []
    report = alpage.run(
        study, found, planned=planned, on_plan=anew.append, on_report=reports.append
    )
    assert [plan.inspection.requests for plan in anew] == [0]
    assert reports == [report]
    assert report.n_blocks == planned.bill.n_blocks > 0


def test_elevation_is_read_again_where_its_file_has_changed(
    own_valley: Valley, study_of: StudyOf
) -> None:
    study = study_of("snow", of=own_valley, grid=GRIDS["snow"])
    first = alpage.run(study)
    assert first.n_blocks > 0
    known = alpage.plan(study)
    # Its header.
    assert (known.inspection.requests, known.bill.n_blocks) == (1, 0)

    copy = own_valley.dem.with_name("copy.tif")
    shutil.copy2(own_valley.dem, copy)
    copy.replace(own_valley.dem)
    copied = alpage.plan(study)
    assert copied.inspection.requests > 2 * len(list(copied.layout.grid.tiles))
    assert copied.bill.n_blocks == 0
    assert copied.shared.context == known.shared.context

    with rasterio.open(own_valley.dem, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(file.read() + 1)
    with pytest.raises(CubeError, match="was made with dem"):
        alpage.run(study)


def test_a_run_that_passes_a_limit_keeps_what_is_done(
    own_valley: Valley, built: Built, study_of: StudyOf, cells: Any, same_cube: Any
) -> None:
    own = {"of": own_valley, "grid": GRIDS["snow"]}
    # Seconds are not known before a first run, so that only the run itself can notice.
    limited = study_of("snow", "limited", **own, limits={"hours": 1e-9})
    reports: list[RunReport] = []
    with pytest.raises(LimitReached, match=r"limits\.hours.*blocks are done and kept"):
        alpage.run(limited, on_report=reports.append)
    with pytest.raises(CubeError, match="nothing was published"):
        alpage.open_cube(limited.cube)
    told = alpage.status(limited)
    assert not told["published"]
    assert len(told["unfinished_runs"]) == 1
    kept = sum(step["blocks"] for step in told["steps"].values())
    assert kept > 0
    (of_failed,) = reports
    assert (of_failed.n_blocks, of_failed.snapshot) == (kept, None)
    assert of_failed.scenes > 0
    assert of_failed.seconds > 0
    study = study_of("snow", "limited", **own)
    resumed = alpage.run(study)
    fresh, at_once = built("snow", grid=GRIDS["snow"])
    assert resumed.n_blocks + kept == at_once.n_blocks
    same_cube(cells(study.cube), cells(fresh.cube))
    assert CubeStore.open(study.cube).branches() == {MAIN}


def test_a_limit_crossed_midway_stops_within_one_block_of_each_worker(
    own_valley: Valley, built: Built, study_of: StudyOf, cells: Any, same_cube: Any
) -> None:
    own = {"of": own_valley, "grid": GRIDS["monthly_ndvi"] | {"tile_px": 33}}
    fresh, at_once = built("monthly_ndvi", grid=own["grid"])
    limit_s = (at_once.read_seconds + at_once.compute_seconds + at_once.write_seconds) / 3
    limited = study_of("monthly_ndvi", "midway", **own, limits={"hours": limit_s / 3600})
    with pytest.raises(LimitReached) as told:
        alpage.run(limited)
    numbers = re.search(r"(\d+) blocks are done and kept, up to (\d+) are left", str(told.value))
    assert numbers is not None
    steps = alpage.status(limited)["steps"]
    kept = int(sum(step["blocks"] for step in steps.values()))
    assert 0 < kept < at_once.n_blocks
    assert [kept, at_once.n_blocks - kept] == list(map(int, numbers.groups()))
    # Of two workers: what was begun when the limit was crossed is finished, and nothing more.
    root = CubeStore.open(limited.cube).read(branch=alpage.status(limited)["unfinished_runs"][0])
    costs = np.concatenate([root[f"ledger/{s}/cost"][..., :3].sum(-1).ravel() for s in steps])
    assert limit_s < costs.sum() <= limit_s + 2 * costs.max()
    resumed = alpage.run(study_of("monthly_ndvi", "midway", **own))
    assert resumed.n_blocks + kept == at_once.n_blocks
    same_cube(cells(limited.cube), cells(fresh.cube))
