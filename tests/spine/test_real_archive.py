"""The real Sentinel-2 archive over a Flemish crop patch: the cube's numbers are its source's.

Truths: the source NetCDF of the patch (WorldCereal project), the farm register's crops
(LPIS Flanders), and what was measured on both by hand: maize 0.39 in spring and 0.74 in
summer with its peak on 2018-07-08, permanent grass 0.77 and 0.48 in the dry summer.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from alpage import verbs
from alpage.cube.reader import Cube, open_cube
from alpage.study import make_study

PATCH = "00002806639B424A"
BBOX = (3.0193, 50.8131, 3.0284, 50.8188)
PERIOD = "2017-08-01/2018-11-30"
MAIZE, GRASS = "1200", "9120"
FILL = -32768


@pytest.fixture(scope="module")
def patch(shared: Path) -> Path:
    return shared / "data" / "worldcereal-patches" / PATCH


@pytest.fixture(scope="module")
def crops(patch: Path) -> xr.DataArray:
    (path,) = patch.glob("OUTPUT_POLY-110_10m_*.nc")
    with xr.open_dataset(path, mask_and_scale=False) as labels:
        return labels["CT"].squeeze().load()


@pytest.fixture(scope="module")
def crop_zones(crops: xr.DataArray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crop labels as GeoJSON polygons: one zone a crop."""
    x, y = crops["x"].to_numpy(), crops["y"].to_numpy()
    transform = Affine(10, 0, x[0] - 5, 0, -10, y[0] + 5)
    to_degrees = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    features = []
    for code in np.unique(crops.to_numpy()):
        mask = (crops.to_numpy() == code).astype("uint8")
        shapes = rasterio.features.shapes(mask, transform=transform)
        outline = shapely.union_all([shapely.geometry.shape(s) for s, value in shapes if value])
        outline = shapely.transform(outline, to_degrees.transform, interleaved=False)
        features.append(
            {
                "type": "Feature",
                "properties": {"id": str(int(code))},
                "geometry": shapely.geometry.mapping(outline),
            }
        )
    path = tmp_path_factory.mktemp("crops") / "crops.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def vegetation(
    shared: Path, scheduler: str, crop_zones: Path, tmp_path_factory: pytest.TempPathFactory
) -> Cube:
    study = make_study(
        {
            "product": "vegetation",
            "area": {"bbox": BBOX},
            "period": PERIOD,
            "archive": str(shared / "archive" / PATCH / "collection.json"),
            "cube": str(tmp_path_factory.mktemp("real") / "vegetation"),
            "zones": str(crop_zones),
            "cluster": {"kind": "address", "address": scheduler},
        }
    )
    report = verbs.run(study)
    assert report.quarantined == {}
    assert report.scenes == 118
    return open_cube(study.cube)


def _source(patch: Path) -> tuple[NDArray[np.int64], xr.Dataset, NDArray[np.uint8]]:
    """NDVI as int16 x 10^4 straight from the NetCDF, its 10 m dataset, and SCL on 10 m."""
    (fine,) = patch.glob("S2_L2A_10m_*.nc")
    (coarse,) = patch.glob("S2_L2A_20m_*.nc")
    with (
        xr.open_dataset(fine, mask_and_scale=False) as bands,
        xr.open_dataset(coarse, mask_and_scale=False) as classes,
    ):
        red, nir = (bands[name].to_numpy().astype(np.int64) for name in ("B04", "B08"))
        scl = classes["SCL"].to_numpy().repeat(2, axis=1).repeat(2, axis=2)
        masked = np.isin(scl, (0, 1, 3, 8, 9, 10, 11)) | (red == 0) | (nir == 0)
        ndvi = np.rint(10000 * (nir - red) / np.maximum(nir + red, 1))
        return np.where(masked, FILL, ndvi).astype(np.int64), bands.load(), scl


def test_daily_ndvi_equals_the_source_pixel_for_pixel(vegetation: Cube, patch: Path) -> None:
    expected, bands, _ = _source(patch)
    found = vegetation.sel_observed("day")["ndvi"].sel(
        x=bands["x"], y=bands["y"], method="nearest", tolerance=0.1
    )
    days = bands["timestamp"].to_numpy().astype("datetime64[D]")
    np.testing.assert_array_equal(found["time"].to_numpy().astype("datetime64[D]"), days)
    stored = np.where(np.isnan(found), FILL, np.rint(found * 1e4)).astype(np.int64)
    np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize(
    ("crop", "first", "last", "expected"),
    [
        pytest.param(MAIZE, "2018-04-15", "2018-05-31", 0.39, id="maize-spring"),
        pytest.param(MAIZE, "2018-07-15", "2018-08-31", 0.74, id="maize-summer"),
        pytest.param(GRASS, "2018-04-15", "2018-05-31", 0.77, id="grass-spring"),
        pytest.param(GRASS, "2018-07-15", "2018-08-31", 0.48, id="grass-dry-summer"),
    ],
)
def test_mean_clear_ndvi_of_crops(
    vegetation: Cube, crop: str, first: str, last: str, expected: float
) -> None:
    series = vegetation.zones("day").sel(zone=crop, time=slice(first, last))
    clear = series["ndvi_mean"].where(series["clear_fraction"] > 0.8)
    assert float(clear.mean()) == pytest.approx(expected, abs=0.02)


def test_maize_peaks_in_july(vegetation: Cube, crops: xr.DataArray) -> None:
    peak = (
        vegetation["year/peak_of_season"]
        .sel(time="2018-01-01")
        .sel(x=crops["x"], y=crops["y"], method="nearest")
    )
    days = peak.to_numpy()[crops.to_numpy() == int(MAIZE)]
    assert np.isfinite(days).mean() > 0.9
    # 8 July is day 189.
    assert float(np.nanmedian(days)) == pytest.approx(189, abs=10)


def test_a_september_cloud_is_no_snow_day(
    shared: Path, scheduler: str, patch: Path, tmp_path: Path
) -> None:
    with rasterio.open(
        tmp_path / "dem.tif",
        "w",
        driver="GTiff",
        dtype="float32",
        count=1,
        height=80,
        width=80,
        crs="EPSG:32631",
        transform=Affine(10, 0, 501280, 0, -10, 5629760),
    ) as dem:
        dem.write(np.full((1, 80, 80), 20, dtype="float32"))
    study = make_study(
        {
            "product": "snow",
            "area": {"bbox": BBOX},
            "period": PERIOD,
            "archive": str(shared / "archive" / PATCH / "collection.json"),
            "cube": str(tmp_path / "snow"),
            "dem": str(tmp_path / "dem.tif"),
            "cluster": {"kind": "address", "address": scheduler},
        }
    )
    verbs.run(study)
    cube = open_cube(study.cube)
    _, _, scl = _source(patch)
    daily = cube["day/snow"].sel(time="2018-09-23").to_numpy()
    # The single date is taken for snow, by Sen2Cor and by Let-It-Snow: only time tells.
    assert (scl == 11).any()
    assert (daily == 100).mean() > 0.5
    season = cube["season"].sel(time="2018-09-01")
    assert int((season["nobs"] > 0).sum()) > 900
    assert int((season["scd"] > 0).sum()) == 0
