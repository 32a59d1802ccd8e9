"""The simulated valley against arithmetic on its own definition and against GDAL and pystac."""

import hashlib
import json
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
from numpy.typing import NDArray
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.features import rasterize
from rasterio.warp import Resampling, reproject
from rasterio.windows import from_bounds
from shapely import Point
from shapely.geometry import shape

from alpage.simulate import optics, truth
from alpage.simulate.clouds import cloud_cover
from alpage.simulate.scenes import first_scenes, render
from alpage.simulate.spec import ValleySpec, dem_tile, east_tile, main_tile
from alpage.simulate.valley import Valley, add_late_scene, add_reprocessed_scene, simulate

SPEC = ValleySpec(
    size_px=128,
    start=date(2022, 3, 1),
    end=date(2022, 8, 31),
    revisit_days=24,
    block_px=64,
    baseline_change=date(2022, 5, 20),
    seed=4,
)
ASSETS = {"blue", "green", "red", "nir", "swir16", "swir22", "scl"}


@pytest.fixture(scope="module")
def valley(tmp_path_factory: pytest.TempPathFactory) -> Valley:
    return simulate(tmp_path_factory.mktemp("valley"), SPEC)


def items_of(valley: Valley) -> list[pystac.Item]:
    return list(pystac.Collection.from_file(str(valley.collection)).get_items())


def read(item: pystac.Item, asset: str) -> NDArray[np.generic]:
    with rasterio.open(item.assets[asset].get_absolute_href()) as source:
        return source.read(1)


def reflectance(item: pystac.Item, asset: str) -> NDArray[np.float64]:
    """Decoded as the item's own raster:bands say; NaN without data."""
    dn = read(item, asset)
    band = item.assets[asset].extra_fields["raster:bands"][0]
    return np.where(dn == band["nodata"], np.nan, dn * band["scale"] + band["offset"])


def pixel_hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*.tif")):
        with rasterio.open(path) as source:
            hashes[str(path.relative_to(folder))] = hashlib.sha256(source.read()).hexdigest()
    return hashes


def test_pixels_do_not_depend_on_the_number_of_workers(valley: Valley, tmp_path: Path) -> None:
    two = simulate(tmp_path, SPEC, workers=2)
    assert pixel_hashes(two.archive) == pixel_hashes(valley.archive)
    assert len(pixel_hashes(two.archive)) == 7 * 16
    for name in ("dem.tif", "zones.geojson", "truth/ndvi.csv", "truth/lake_area.csv"):
        assert (tmp_path / name).read_bytes() == (valley.folder / name).read_bytes()


def test_a_finished_valley_is_left_alone_and_a_broken_one_mended(tmp_path: Path) -> None:
    valley = simulate(tmp_path, SPEC)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert simulate(tmp_path, SPEC) == valley
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    valley.collection.unlink()
    lost = next((valley.archive / "items").glob("*/*.json"))
    text = lost.read_text()
    lost.unlink()
    simulate(tmp_path, SPEC)
    assert lost.read_text() == text
    assert len(items_of(valley)) == 16
    with pytest.raises(ValueError, match="another valley"):
        simulate(tmp_path, SPEC.model_copy(update={"seed": 5}))


@pytest.mark.parametrize("day", [date(2022, 4, 18), date(2022, 6, 29), date(2022, 8, 10)])
def test_ndvi_of_noise_free_land_is_the_truth(day: date) -> None:
    tile = main_tile(SPEC)
    now = optics.state(SPEC, tile, day)
    red, nir = (optics.band_reflectance(SPEC, tile, band, now) for band in ("red", "nir"))
    expected = truth.true_ndvi(SPEC, day)
    land = ~truth.true_snow(SPEC, day) & ~truth.true_water(SPEC, day)
    assert land.sum() > 1000
    np.testing.assert_allclose(((nir - red) / (nir + red))[land], expected[land], atol=2e-6)
    assert np.isnan(expected[truth.true_water(SPEC, day)]).all()


def test_seen_ndvi_of_clear_land_is_the_truth_within_noise(valley: Valley) -> None:
    day = min(SPEC.dates, key=lambda d: cloud_cover(SPEC, d))
    item = next(i for i in items_of(valley) if i.id.split("_")[1:3] == ["31TGL", f"{day:%Y%m%d}"])
    red, nir = reflectance(item, "red"), reflectance(item, "nir")
    land = ~truth.true_snow(SPEC, day) & ~truth.true_cloud(SPEC, day)
    land &= ~truth.true_shadow(SPEC, day)
    error = ((nir - red) / (nir + red) - truth.true_ndvi(SPEC, day))[land]
    assert abs(np.nanmedian(error)) < 0.005
    assert np.nanquantile(np.abs(error), 0.9) < 0.06


def test_lake_area_table_counts_the_true_water(valley: Valley) -> None:
    area = pd.read_csv(valley.truth / "lake_area.csv", index_col="date")["area_m2"]
    for day in SPEC.dates:
        assert area[day.isoformat()] == truth.true_water(SPEC, day).sum() * 100
    assert area.max() > 1.2 * area.min() > 0
    with rasterio.open(valley.truth / "occurrence.tif") as source:
        occurrence = source.read(1)
    assert occurrence.sum(dtype=np.float64) * 100 == pytest.approx(area.mean(), rel=1e-6)


def test_water_is_where_the_dem_is_below_the_level(valley: Valley) -> None:
    with rasterio.open(valley.dem) as source:
        assert source.crs.to_string() == valley.crs == "EPSG:32631"
        bounds = rasterio.transform.array_bounds(*valley.shape, valley.transform)
        dem = source.read(1, window=from_bounds(*bounds, source.transform))
    assert 599 < dem.min() < 640 < 2500 < dem.max() <= 3000
    for day in SPEC.dates:
        water, snow = truth.true_water(SPEC, day), truth.true_snow(SPEC, day)
        assert dem[water].max() < dem[~water].min()
        assert not (water & snow).any()
        bare = ~water & ~snow
        assert not bare.any() or dem[snow].min() > dem[bare].max()


def test_snow_tables_and_map_agree(valley: Valley) -> None:
    fraction = pd.read_csv(valley.truth / "snow_cover_fraction.csv", index_col="date")
    line = pd.read_csv(valley.truth / "snow_line.csv", index_col="date")["elevation_m"]
    for day in SPEC.dates:
        snow = truth.true_snow(SPEC, day)
        assert fraction.loc[day.isoformat(), "snow_fraction"] == pytest.approx(
            snow.mean(), abs=1e-6
        )
    with rasterio.open(valley.truth / "scd_2021-2022.tif") as source:
        days = source.read(1)
    assert days.mean() == pytest.approx(fraction["snow_fraction"].sum(), abs=1e-3)
    assert line["2022-03-01"] < 1000 < 2500 < line["2022-08-10"]
    year = truth.true_snow_days(SPEC, date(2021, 9, 1), date(2022, 8, 31))
    by_day = sum(truth.true_snow(SPEC, d).astype(int) for d in SPEC.days)
    assert np.array_equal(days, by_day)
    assert (year >= days).all()


def test_phenology_follows_from_the_daily_curve(valley: Valley) -> None:
    seasons = pd.read_csv(valley.truth / "phenology.csv").set_index("zone")
    curves = pd.read_csv(valley.truth / "ndvi.csv", parse_dates=["date"])
    names = gpd.read_file(valley.zones).set_index("id")["name"]
    for zone, row in seasons.iterrows():
        curve = curves[curves["zone"] == zone].set_index("date")["ndvi"]
        assert row["start"] < row["peak"] < row["end"]
        if row["peak"] < 240:
            assert curve[curve.index.dayofyear == row["peak"]].item() == curve.max()
        if names[zone].startswith("Maize"):
            low, high = curve.iloc[:60].min(), curve.max()
            at_start = np.interp(row["start"], curve.index.dayofyear, curve)
            assert at_start == pytest.approx(low + 0.25 * (high - low), abs=2e-4)
    wheat = [seasons.loc[zone] for zone in seasons.index if names[zone].startswith("Wheat")]
    maize = [seasons.loc[zone] for zone in seasons.index if names[zone].startswith("Maize")]
    assert max(row["peak"] for row in wheat) < min(row["peak"] for row in maize)


def test_zone_curves_are_means_of_the_true_maps(valley: Valley) -> None:
    zones = gpd.read_file(valley.zones).to_crs(valley.crs).set_index("id")
    curves = pd.read_csv(valley.truth / "ndvi.csv").set_index(["zone", "date"])["ndvi"]
    day = date(2022, 7, 23)
    for zone in ("field_1", "field_9", "forest", "alp_meadow"):
        inside = rasterize(
            [zones.geometry[zone]], out_shape=valley.shape, transform=valley.transform
        )
        mean = np.nanmean(truth.true_ndvi(SPEC, day)[inside == 1])
        assert curves[zone, day.isoformat()] == pytest.approx(mean, abs=2e-3)


def test_zones_hold_what_they_are_named_after(valley: Valley) -> None:
    zones = gpd.read_file(valley.zones)
    assert list(zones.columns[:3]) == ["id", "name", "kind"]
    assert zones.crs.to_epsg() == 4326
    assert zones.geometry.is_valid.all()
    placed = zones.to_crs(valley.crs).set_index("id").geometry
    with rasterio.open(valley.truth / "landcover.tif") as source:
        cover = source.read(1)
    expected = {"lake": 1, "forest": 2, "field_1": 3, "field_2": 4, "field_3": 5, "alp_meadow": 7}
    for zone, code in expected.items():
        inside = rasterize([placed[zone]], out_shape=valley.shape, transform=valley.transform)
        assert (cover[inside == 1] == code).mean() > (0.6 if zone == "lake" else 0.95)
    lake = rasterize([placed["lake"]], out_shape=valley.shape, transform=valley.transform) == 1
    for day in SPEC.dates:
        assert not truth.true_water(SPEC, day)[~lake].any()


def test_area_lies_inside_the_main_tile(valley: Valley) -> None:
    west, south, east, north = valley.bbox
    outline = next(
        shape(item.geometry) for item in items_of(valley) if item.id.startswith("S2A_31TGL")
    )
    assert west < 6 < east
    for corner in ((west, south), (west, north), (east, south), (east, north)):
        assert outline.buffer(1e-6).contains(Point(corner))


def test_files_are_cogs_on_their_tiles_grid(valley: Valley) -> None:
    for item in items_of(valley):
        epsg = {"31TGL": 32631, "32TKR": 32632}[item.id.split("_")[1]]
        assert set(item.assets) == ASSETS
        for name, asset in item.assets.items():
            with rasterio.open(asset.get_absolute_href()) as source:
                fields = asset.extra_fields
                assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert source.block_shapes == [(64, 64)]
                assert source.overviews(1)
                assert source.crs.to_epsg() == epsg
                assert source.nodata == 0
                assert source.dtypes == (fields["raster:bands"][0]["data_type"],)
                assert list(source.shape) == fields["proj:shape"]
                assert list(source.transform)[:6] == fields["proj:transform"]
                assert source.res[0] == (20 if name in ("swir16", "swir22", "scl") else 10)
            content = Path(asset.get_absolute_href()).read_bytes()
            assert fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
            assert fields["file:size"] == len(content)


def test_catalogue_is_valid_static_stac(valley: Valley) -> None:
    validator = JsonSchemaSTACValidator()
    collection = json.loads(valley.collection.read_text())
    validator.validate_core(collection, pystac.STACObjectType.COLLECTION, "1.1.0")
    items = items_of(valley)
    for item in items:
        path = Path(item.get_self_href())
        written = json.loads(path.read_text())
        assert written["stac_version"] == "1.1.0"
        validator.validate_core(written, pystac.STACObjectType.ITEM, "1.1.0")
        hrefs = [link["href"] for link in written["links"]]
        hrefs += [asset["href"] for asset in written["assets"].values()]
        for href in hrefs:
            assert href.startswith(".")
            assert (path.parent / href).exists()
        versions = {url.split("/")[-2] for url in written["stac_extensions"] if "projec" in url}
        assert ("proj:code" in written["properties"]) == (versions == {"v2.0.0"})
        assert ("proj:epsg" in written["properties"]) == (versions == {"v1.1.0"})
    assert {i.properties["s2:processing_baseline"] for i in items} >= {"02.14", "03.01", "05.09"}


def test_items_tell_what_their_pixels_show(valley: Valley) -> None:
    for item in items_of(valley):
        scl = read(item, "scl")
        seen = (scl > 0).sum()
        cloudy = 100 * np.isin(scl, [8, 9, 10]).sum() / seen
        assert item.properties["eo:cloud_cover"] == pytest.approx(cloudy, abs=1e-5)
        red = read(item, "red")
        with rasterio.open(item.assets["red"].get_absolute_href()) as source:
            corners = np.argwhere(red > 0)[:: max(1, red.size // 200)]
            outline = gpd.GeoSeries([shape(item.geometry)], crs=4326).to_crs(source.crs)[0]
            points = [source.xy(*corner) for corner in corners]
        assert all(outline.buffer(0.1).contains(Point(point)) for point in points)
        lost = 1 - outline.area / (red.size * 100)
        assert lost == pytest.approx((red == 0).mean(), abs=0.02)


def test_one_acquisition_is_there_twice(valley: Valley) -> None:
    by_time: dict[tuple[str, str], list[pystac.Item]] = {}
    for item in items_of(valley):
        key = (item.properties["grid:code"], item.properties["datetime"])
        by_time.setdefault(key, []).append(item)
    (pair,) = [found for found in by_time.values() if len(found) > 1]
    older, newer = sorted(pair, key=lambda item: item.properties["updated"])
    assert older.properties["s2:processing_baseline"] < newer.properties["s2:processing_baseline"]
    assert (older.properties["s2:sequence"], newer.properties["s2:sequence"]) == ("0", "1")
    assert not np.array_equal(read(older, "red"), read(newer, "red"))


def test_baselines_decode_to_the_same_reflectance(tmp_path: Path) -> None:
    valley = simulate(tmp_path, SPEC)
    original = {item.id: item for item in items_of(valley)}
    (added,) = add_reprocessed_scene(valley)
    old = original[added.item_id]
    new = next(item for item in items_of(valley) if item.id == added.item_id)
    assert old.properties["s2:processing_baseline"] < "04.00"
    assert new.properties["s2:processing_baseline"] > "04.00"
    assert new.properties["updated"] > max(i.properties["updated"] for i in original.values())
    for asset in sorted(ASSETS - {"scl"}):
        shift = read(new, asset).astype(int) - read(old, asset)
        assert 990 < np.median(shift[read(old, asset) > 0]) < 1100
        difference = reflectance(new, asset) - reflectance(old, asset)
        assert 0 < np.nanmedian(np.abs(difference)) < 0.012
    assert len(items_of(valley)) == len(original)


def test_late_scene_is_in_the_catalogue_only_once_added(tmp_path: Path) -> None:
    valley = simulate(tmp_path, SPEC)
    before = {item.id for item in items_of(valley)}
    (added,) = add_late_scene(valley)
    after = {item.id: item for item in items_of(valley)}
    assert set(after) - before == {added.item_id}
    assert added.day in SPEC.dates[4:]
    assert after[added.item_id].bbox == list(added.footprint.bounds)
    assert add_late_scene(valley) == (added,)
    assert set(after) == {item.id for item in items_of(valley)}
    assert simulate(tmp_path, SPEC) == valley
    assert len(items_of(valley)) == 17


def test_classification_agrees_mostly_but_not_always() -> None:
    spec = SPEC.model_copy(update={"revisit_days": 5, "start": date(2021, 12, 1)})
    same = total = 0
    classes: set[int] = set()
    for scene in first_scenes(spec):
        if scene.tile != main_tile(spec) or scene.sequence:
            continue
        scl = next(array for asset, array in render(scene) if asset == "scl")
        classes |= set(np.unique(scl).tolist())
        expected = np.full(valley_shape(spec), 4)
        for code, mask in (
            (11, truth.true_snow(spec, scene.day)),
            (6, truth.true_water(spec, scene.day)),
            (3, truth.true_shadow(spec, scene.day)),
            (9, truth.true_cloud(spec, scene.day)),
        ):
            expected[mask] = code
        grouped = np.array([0, 0, 4, 3, 4, 4, 6, 0, 9, 9, 9, 11])[scl][scl > 0]
        same += int((grouped == expected[::2, ::2][scl > 0]).sum())
        total += grouped.size
    assert 0.85 < same / total < 0.99
    assert classes == {0, 2, 3, 4, 5, 6, 8, 9, 10, 11}


def valley_shape(spec: ValleySpec) -> tuple[int, int]:
    return spec.size_px, spec.size_px


@pytest.mark.parametrize("asset", ["green", "nir", "swir16"])
def test_the_two_tiles_see_the_same_ground(valley: Valley, asset: str) -> None:
    by_day: dict[str, dict[str, pystac.Item]] = {}
    for item in items_of(valley):
        _, tile, day, *_ = item.id.split("_")
        by_day.setdefault(day, {})[tile] = item
    clear = [pair for pair in by_day.values() if len(pair) == 2]
    pair = min(clear, key=lambda pair: pair["32TKR"].properties["s2:high_proba_clouds_percentage"])
    main, east = reflectance(pair["31TGL"], asset), reflectance(pair["32TKR"], asset)
    with (
        rasterio.open(pair["31TGL"].assets[asset].get_absolute_href()) as target,
        rasterio.open(pair["32TKR"].assets[asset].get_absolute_href()) as source,
    ):
        warped, _ = reproject(
            east,
            np.full(main.shape, np.nan),
            src_transform=source.transform,
            src_crs=source.crs,
            src_nodata=np.nan,
            dst_transform=target.transform,
            dst_crs=target.crs,
            dst_nodata=np.nan,
            resampling=Resampling.bilinear,
        )
    both = np.isfinite(main) & np.isfinite(warped)
    assert both[:, main.shape[1] // 2 + 2 : -2].mean() > 0.99
    assert not both[:, : main.shape[1] // 3].any()
    assert np.median(np.abs(main - warped)[both]) < 0.01
    assert np.corrcoef(main[both], warped[both])[0, 1] > 0.97


def test_cloudless_and_overcast_archives() -> None:
    day = SPEC.dates[0]
    for cloudiness in (0, 1):
        spec = SPEC.model_copy(update={"cloudiness": cloudiness})
        assert truth.true_cloud(spec, day).mean() == cloudiness
        assert not truth.true_shadow(spec, day).any()
    covers = [cloud_cover(ValleySpec(seed=1), day) for day in ValleySpec(seed=1).dates]
    assert min(covers) == 0
    assert max(covers) == 1
    assert 0.3 < np.mean(covers) < 0.6


@pytest.mark.parametrize("size_px", [128, 512, 2048, 4096])
def test_grids_nest_whatever_the_size(size_px: int) -> None:
    spec = ValleySpec(size_px=size_px)
    main, east, dem = main_tile(spec), east_tile(spec), dem_tile(spec)
    for tile in (main, east, dem):
        assert tile.x0 % 60 == 0
        assert tile.y0 % 60 == 0
        assert tile.width % 2 == tile.height % 2 == 0
    assert 0.5 * size_px < east.width < 0.7 * size_px
    corners = gpd.GeoSeries(
        [
            Point(east.x0 + 10 * x, east.y0 - 10 * y)
            for x in (0, east.width)
            for y in (0, east.height)
        ],
        crs=east.epsg,
    ).to_crs(dem.epsg)
    assert corners.x.min() > dem.x0
    assert corners.x.max() < dem.x0 + 10 * dem.width
    assert corners.y.max() < dem.y0
    assert corners.y.min() > dem.y0 - 10 * dem.height


def test_a_period_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 acquisition dates"):
        ValleySpec(start=date(2022, 1, 1), end=date(2022, 1, 11))
