"""Whatever is wrong with the input: a named error or a scene left out, never half a cube."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile

import alpage
from alpage.cube.store import CubeStore
from alpage.engine.report import RunReport
from alpage.errors import (
    AlpageError,
    ArchiveError,
    BlockFailed,
    CubeError,
    GateFailed,
    LimitReached,
    ProductError,
    StorageError,
    StudyError,
)

ARCHIVE = "archive/00002806639B424A"
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
DAYS = ("0419", "0426", "0504", "0506", "0509", "0511", "0524", "0526", "0623")
BANDS = ("green", "red", "nir", "swir16", "scl")
# The first of all, so that whatever is chosen by the first scene is chosen by the bad one.
VICTIM = "S2_00002806639B424A_20180419T110127"

BROKEN_PRODUCTS = '''
"""The example product, broken in one way each."""

from dataclasses import replace

import numpy as np

import alpage
import monthly_ndvi

good = monthly_ndvi.product
observing, deriving = good.stages


def broken(change):
    def observe(seen):
        return change(monthly_ndvi.observe(seen))

    return replace(good, stages=(replace(observing, function=observe), deriving))


def fail(found):
    raise ZeroDivisionError("division by zero in the product")


class Deep(alpage.Parameters):
    depth: int = 1


def counting(change):
    table = alpage.Table("seen", lambda context: (3,))

    def observe(seen):
        return monthly_ndvi.observe(seen) | change(len(seen.days))

    stage = replace(observing, function=observe, tables=(table,))
    return replace(good, stages=(stage, deriving))


raises = broken(fail)
misses_layer = broken(lambda found: {"nvdi": found["ndvi"]})
returns_more = broken(lambda found: found | {"spare": found["ndvi"]})
returns_array = broken(lambda found: found["ndvi"])
wrong_shape = broken(lambda found: {"ndvi": found["ndvi"][:, 1:]})
wrong_dtype = broken(lambda found: {"ndvi": found["ndvi"].astype("float32")})
too_large = broken(lambda found: {"ndvi": np.maximum(found["ndvi"], np.int16(20000))})
no_table = counting(lambda days: {})
wrong_table = counting(lambda days: {"seen": np.zeros((days, 2), dtype="int64")})
float_table = counting(lambda days: {"seen": np.full((days, 3), 0.5)})
other = replace(good, name="weekly_ndvi")
newer = replace(good, version="2")
deep = replace(good, parameters=Deep)
purple = replace(good, stages=(replace(observing, bands=(alpage.Band("purple"),)), deriving))
text = "not a product"


def of_one(seen):
    (band,) = seen.bands.values()
    return {"ndvi": np.minimum(band, 10000).astype("int16")}


only_red, only_nir = (
    replace(
        good, stages=(replace(observing, bands=(alpage.Band(name),), function=of_one), deriving)
    )
    for name in ("red", "nir")
)
'''


ROWS_OF_MONTHS = """
from dataclasses import replace

import alpage
import monthly_ndvi

observing, deriving = monthly_ndvi.product.stages
table = alpage.Table("seen", lambda context: (3,))
gathering = alpage.Gather("threshold", "seen", lambda context: (1,), lambda rows, context: rows)
highest = replace(monthly_ndvi.GREENEST, name="highest", calendar=alpage.Calendar.YEAR)
yearly = replace(
    deriving, name="yearly", reads=("month/ndvi_max",), layers=(highest,),
    segment=alpage.Calendar.YEAR, tables=("threshold",),
)
stages = (replace(observing, tables=(table,)), gathering, deriving, yearly)
product = replace(monthly_ndvi.product, stages=stages)
"""


@dataclass(frozen=True)
class Bench:
    """A broken-to-be copy: a folder with products, an archive, a study and perhaps a cube."""

    folder: Path
    archive: Path
    study: dict[str, Any]

    @property
    def cube(self) -> Path:
        return Path(self.study["cube"])

    @property
    def item_path(self) -> Path:
        return self.archive / f"{VICTIM}.json"

    def file(self, band: str) -> Path:
        item = json.loads(self.item_path.read_text())
        return self.archive / str(item["assets"][band]["href"])

    def run(self, **changes: Any) -> RunReport:
        study = alpage.make_study({**self.study, **changes}, folder=self.folder)
        return alpage.run(study)

    def write(self, name: str, content: Any) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text)
        return str(self.folder / name)


def state(cube: Path) -> tuple[str, dict[str, np.ndarray]] | None:
    """The snapshot that readers see and every value of it, None where they see nothing."""
    if not cube.is_dir() or not CubeStore.exists(str(cube)):
        return None
    store = CubeStore.open(str(cube))
    about = store.about()
    if about is None:
        return None
    root = store.read()
    return store.tip(), {
        path: np.asarray(root[path]) for path in ("day/ndvi", "month/ndvi_max", "day/observed")
    }


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="session")
def good(shared: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Everything right: an archive of nine scenes, and a cube of the eight besides the victim."""
    source = shared / ARCHIVE
    if not source.is_dir():
        pytest.skip(f"needs {ARCHIVE} of the shared data")
    folder = tmp_path_factory.mktemp("good")
    archive = folder / "archive"
    archive.mkdir()
    collection = json.loads((source / "collection.json").read_text())
    names = [path.stem for day in DAYS for path in source.glob(f"*_2018{day}T*.json")]
    assert len(names) == len(DAYS)
    assert names[0] == VICTIM
    for name in names:
        item = json.loads((source / f"{name}.json").read_text())
        item["assets"] = {band: item["assets"][band] for band in BANDS}
        (archive / f"{name}.json").write_text(json.dumps(item))
        (archive / name).mkdir()
        for asset in item["assets"].values():
            shutil.copyfile(source / asset["href"], archive / asset["href"])
    collection["links"] = [{"rel": "item", "href": f"./{name}.json"} for name in names]
    (archive / "collection.json").write_text(json.dumps(collection))
    shutil.copyfile(EXAMPLES / "monthly_ndvi.py", folder / "monthly_ndvi.py")
    (folder / "broken.py").write_text(BROKEN_PRODUCTS)
    (folder / "ill_formed.py").write_text(
        "import alpage\nproduct = alpage.Layer('ndvi', alpage.Calendar.DAY, 'uint8', fill=-32768)\n"
    )
    (folder / "ambiguous.py").write_text(
        "import alpage\n"
        "product = alpage.Layer('n', alpage.Calendar.DAY, 'uint8', fill=0, valid_range=(0, 9))\n"
    )
    (folder / "not_python.py").write_text("product = = 1")
    (folder / "needs_missing.py").write_text("import no_such_library")
    (folder / "fails_at_import.py").write_text("product = 1 / 0")
    (folder / "rows_of_months.py").write_text(ROWS_OF_MONTHS)
    links = [link for link in collection["links"] if VICTIM not in link["href"]]
    (archive / "without.json").write_text(json.dumps({**collection, "links": links}))
    bench = Bench(
        folder,
        archive,
        {
            "product": "monthly_ndvi:product",
            "area": {"bbox": [3.0193, 50.8131, 3.0284, 50.8188]},
            "period": "2018-04-10/2018-06-30",
            "archive": str(archive / "collection.json"),
            "cube": str(folder / "cube"),
            "cluster": {"kind": "address", "address": scheduler},
        },
    )
    bench.run(archive=str(archive / "without.json"))
    return bench


@pytest.fixture(scope="session")
def without_victim(good: Bench) -> dict[str, np.ndarray]:
    found = state(good.cube)
    assert found is not None
    return found[1]


@pytest.fixture
def bench(good: Bench, tmp_path: Path) -> Bench:
    """A copy of everything, to be broken."""
    archive = tmp_path / "archive"
    shutil.copytree(good.archive, archive)
    shutil.copytree(good.cube, tmp_path / "cube")
    shutil.copytree(f"{good.cube}.scenes", tmp_path / "cube.scenes")
    changes = {"archive": str(archive / "collection.json"), "cube": str(tmp_path / "cube")}
    return Bench(good.folder, archive, {**good.study, **changes})


# What can be wrong with one scene.


def rewrite(
    path: Path, pixels: Callable[[np.ndarray], np.ndarray] = lambda a: a, **kind: Any
) -> None:
    with rasterio.open(path) as image:
        profile, values = image.profile | kind, pixels(image.read(1))
    path.unlink()
    profile |= {"height": values.shape[0], "width": values.shape[1], "dtype": str(values.dtype)}
    with rasterio.open(path, "w", **profile) as image:
        image.write(values, 1)
        if values.shape[0] > 512:
            image.build_overviews([2])


def cut(share: float) -> Callable[[Bench], None]:
    def spoil(bench: Bench) -> None:
        path = bench.file("red")
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return spoil


def fill_file(content: bytes) -> Callable[[Bench], None]:
    return lambda bench: bench.file("nir").write_bytes(content)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], None]:
    def spoil(bench: Bench) -> None:
        item = json.loads(bench.item_path.read_text())
        change(item)
        bench.item_path.write_text(json.dumps(item))

    return spoil


def href(value: str) -> Callable[[Bench], None]:
    return edit(lambda item: item["assets"]["red"].update(href=value))


def far_away(bench: Bench) -> None:
    edit(lambda item: item["properties"].pop("proj:code"))(bench)
    rewrite(bench.file("nir"), crs="EPSG:32601")


def drop_transform(bench: Bench) -> None:
    path = bench.file("red")
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags[33550]
    data = bytearray(path.read_bytes())
    # Under another number, the pixel scale is a tag that nobody reads.
    data[tag.offset : tag.offset + 2] = (65000).to_bytes(2, "little")
    path.write_bytes(data)


def damage_tile(bench: Bench) -> None:
    """Damage a tile that only a block reads: the look at the scene takes the overview."""
    path = bench.file("red")
    rewrite(
        path,
        lambda a: np.pad(a, ((0, 704), (0, 704))),
        tiled=True,
        blockxsize=128,
        blockysize=128,
    )
    with rasterio.open(path) as image:
        assert image.shape == (768, 768)
        assert image.overviews(1) == [2]
    with tifffile.TiffFile(path) as tif:
        start, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start + count // 3 : start + count // 3 + 64] = bytes(64)
    path.write_bytes(data)


def lie_about_offset(item: dict[str, Any]) -> None:
    item["properties"]["s2:processing_baseline"] = "05.09"
    for asset in item["assets"].values():
        asset["raster:bands"][0]["offset"] = -0.1


def antimeridian(item: dict[str, Any]) -> None:
    item["geometry"] = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}


BAD_SCENES: dict[str, tuple[Callable[[Bench], object], str]] = {
    "tile data cut off": (cut(0.6), r"band red: .*B04.tif: truncated"),
    "header cut off": (cut(0.02), r"band red: .*B04.tif: "),
    "a web page": (
        fill_file(b"<!DOCTYPE html><html>Sign in</html>"),
        r"band nir: .*expected a TIFF, got an HTML",
    ),
    "empty file": (
        fill_file(b""),
        r"band nir: .*expected a TIFF, got 0 bytes: the file is empty",
    ),
    "no file": (lambda bench: bench.file("scl").unlink(), r"band quality: .*does not exist"),
    "reflectance as float": (
        lambda bench: rewrite(
            bench.file("red"), lambda a: (a / 1e4).astype("float32"), predictor=1
        ),
        r"band red: expected uint16 or int16, got float32",
    ),
    "quality as int16": (
        lambda bench: rewrite(bench.file("scl"), lambda a: a.astype("int16"), nodata=None),
        r"band quality: expected uint8 or uint16, got int16",
    ),
    "band not listed": (
        edit(lambda item: item["assets"].pop("nir")),
        r"band nir is missing; there are green, quality, red",
    ),
    "quality not listed": (
        edit(lambda item: item["assets"].pop("scl")),
        r"band quality is missing",
    ),
    "no CRS": (lambda bench: rewrite(bench.file("red"), crs=None), r"band red: .*no CRS"),
    "no transform": (drop_transform, r"band red: .*no transform: neither a scale"),
    "another CRS than told": (
        lambda bench: rewrite(bench.file("red"), crs="EPSG:32633"),
        r"band red is in EPSG:32633, its item says EPSG:32631",
    ),
    "pixels elsewhere": (
        lambda bench: rewrite(
            bench.file("nir"), transform=rasterio.Affine(10, 0, 900000, 0, -10, 1e6)
        ),
        r"band nir lies outside the footprint that its item gives",
    ),
    "pixels where no footprint can be": (
        far_away,
        r"band nir lies outside the footprint",
    ),
    "damaged tile": (damage_tile, r"band red: .*tile 0 .*does not decode"),
    "no datetime": (edit(lambda item: item["properties"].pop("datetime")), r"no datetime"),
    "datetime is no time": (
        edit(lambda item: item["properties"].update(datetime="last week")),
        r"'last week' is not a time",
    ),
    "empty geometry": (
        edit(lambda item: item.update(geometry={"type": "Polygon", "coordinates": []})),
        r"geometry is empty",
    ),
    "line as geometry": (edit(antimeridian), r"without area"),
    "no assets": (
        edit(lambda item: item.update(assets=None)),
        r"none of its assets is a reflectance band",
    ),
    "unknown sensor": (
        edit(
            lambda item: item.update(assets={}, properties=item["properties"] | {"platform": "x"})
        ),
        r"platform x is none of the sensors known: sentinel-2-l2a",
    ),
    "half an item": (
        lambda bench: bench.item_path.write_text(bench.item_path.read_text()[:500]),
        r"is not JSON",
    ),
    "item is a list": (
        lambda bench: bench.item_path.write_text("[]"),
        r"holds no JSON object",
    ),
    "item gone": (lambda bench: bench.item_path.unlink(), r"does not exist"),
    "offset that was applied already": (
        edit(lie_about_offset),
        r"cannot be believed.*it was applied already",
    ),
    "href out of the archive": (
        href("../../../../../../etc/passwd"),
        r"outside the archive's folder",
    ),
    "href with a GDAL prefix": (
        href("/vsicurl/http://169.254.169.254/latest/B04.tif"),
        r"GDAL virtual file prefixes are not opened",
    ),
    "href to a private host": (href("https://10.0.0.1/B04.tif"), r"private"),
    "href with control characters": (href("B04\n.tif"), r"band red: .*does not exist"),
}


@pytest.mark.parametrize("name", BAD_SCENES)
def test_a_bad_scene_is_left_out_by_name(
    name: str, bench: Bench, without_victim: dict[str, np.ndarray]
) -> None:
    spoil, reason = BAD_SCENES[name]
    spoil(bench)
    cube = bench.cube.with_name("new")
    report = bench.run(cube=str(cube))
    found = state(cube)
    assert found is not None
    assert same(found[1], without_victim)
    assert list(report.quarantined) == [VICTIM]
    assert report.scenes == len(DAYS) - 1
    assert re.search(reason, report.quarantined[VICTIM]), report.quarantined[VICTIM]


def test_zones_without_a_pixel_are_told(bench: Bench) -> None:
    zones = [polygon(3.02, 50.815, side) for side in (0.001, 0.000001)]
    named = [
        {"type": "Feature", "properties": {"id": name}, "geometry": one}
        for name, one in zip(("field", "tree"), zones, strict=True)
    ]
    asked = {"zones": {"type": "FeatureCollection", "features": named}}
    made = alpage.plan(alpage.make_study({**bench.study, **asked}, folder=bench.folder))
    assert made.bill.notes == [
        "1 of 2 zones hold no pixel's centre, and their series stay empty: tree"
    ]


def test_damage_that_only_a_block_met_is_remembered_until_it_is_mended(bench: Bench) -> None:
    cube = str(bench.cube.with_name("new"))
    sound = bench.file("red").read_bytes()
    damage_tile(bench)
    damaged = bench.file("red").read_bytes()
    first = bench.run(cube=cube)
    again = bench.run(cube=cube)
    assert again.quarantined == first.quarantined != {}
    assert (again.n_blocks, again.snapshot) == (0, first.snapshot)
    # Longer, so that the cube is written to: what was damaged is still known.
    longer = {"cube": cube, "period": "2018-04-01/2018-06-30"}
    assert bench.run(**longer).quarantined == first.quarantined
    assert bench.run(**longer).n_blocks == 0
    bench.file("red").write_bytes(sound)
    mended = bench.run(**longer)
    assert mended.quarantined == {}
    assert mended.n_blocks > 0
    fresh = str(bench.cube.with_name("fresh"))
    bench.run(**longer | {"cube": fresh})
    found, expected = state(Path(cube)), state(Path(fresh))
    assert found is not None
    assert expected is not None
    assert same(found[1], expected[1])
    assert damaged != sound


@pytest.mark.parametrize(("asked", "beside"), [("red", "nir"), ("nir", "red")])
def test_radiometry_is_judged_by_bands_that_the_product_does_not_read(
    asked: str, beside: str, bench: Bench
) -> None:
    edit(lie_about_offset)(bench)
    changes = {"product": f"broken:only_{asked}", "cube": str(bench.cube.with_name("new"))}
    assert list(bench.run(**changes).quarantined) == [VICTIM]
    bench.file(beside).unlink()
    assert bench.run(**changes).quarantined == {}


@pytest.mark.parametrize("nodata", [0, float("nan")])
def test_a_sound_scene_matters_and_nodata_that_is_no_integer_is_none(
    nodata: float, bench: Bench, without_victim: dict[str, np.ndarray]
) -> None:
    edit(lambda item: item["assets"]["red"]["raster:bands"][0].update(nodata=nodata))(bench)
    rewrite(bench.file("red"), nodata=None)
    assert bench.run().quarantined == {}
    found = state(bench.cube)
    assert found is not None
    assert not same(found[1], without_victim)
    assert len(np.unique(found[1]["day/ndvi"])) > len(np.unique(without_victim["day/ndvi"]))


# What can be wrong with what is asked.


@dataclass(frozen=True)
class Bad:
    """A request that cannot be met: what it changes in the study, and what is told."""

    error: type[AlpageError]
    says: str
    changes: dict[str, Any] | Callable[[Bench], dict[str, Any]]
    new: bool = False
    """Whether the cube does not exist yet."""


def snow(dem: str | None) -> dict[str, Any]:
    return {"product": "snow", "dem": dem}


def dem_elsewhere(bench: Bench) -> dict[str, Any]:
    path = bench.archive.parent / "dem.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=64,
        height=64,
        count=1,
        dtype="float32",
        nodata=-9999.0,
        crs="EPSG:32631",
        transform=rasterio.Affine(10, 0, 700000, 0, -10, 5000000),
    ) as image:
        image.write(np.full((64, 64), 1000, "float32"), 1)
    return snow(str(path))


def features(bench: Bench, *geometries: dict[str, Any], **top: Any) -> str:
    found = [
        {"type": "Feature", "properties": {"id": "one"}, "geometry": one} for one in geometries
    ]
    path = bench.archive.parent / "zones.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found, **top}))
    return str(path)


def polygon(west: float, south: float, side: float = 0.001) -> dict[str, Any]:
    east, north = west + side, south + side
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


POINT = {"type": "Point", "coordinates": [3.02, 50.815]}


def text_at(name: str, text: str) -> Callable[[Bench], str]:
    def write(bench: Bench) -> str:
        path = bench.archive.parent / name
        path.write_text(text)
        return str(path)

    return write


def spoilt(bench: Bench) -> dict[str, Any]:
    bench.file("red").write_bytes(b"")
    return {"on_bad_scene": "stop"}


def rejected(bench: Bench) -> dict[str, Any]:
    bench.item_path.write_text("{")
    return {"on_bad_scene": "stop"}


def damaged(bench: Bench) -> dict[str, Any]:
    damage_tile(bench)
    return {"on_bad_scene": "stop"}


def all_bad(bench: Bench) -> dict[str, Any]:
    for path in bench.archive.glob("*/B04.tif"):
        path.write_bytes(b"")
    return {}


def cluster(bench: Bench, **changes: Any) -> dict[str, Any]:
    return {"cluster": bench.study["cluster"] | changes}


def lose_scenes(bench: Bench) -> dict[str, Any]:
    shutil.rmtree(f"{bench.cube}.scenes")
    return {}


BAD_STUDIES: dict[str, Bad] = {
    "period reversed": Bad(
        StudyError,
        r"period: expected the first day before the last",
        {"period": "2018-06-30/2018-04-10"},
    ),
    "period is no date": Bad(
        StudyError,
        r"period: expected dates such as .*out of range",
        {"period": "2018-02-30/2018-04-10"},
    ),
    "period of one date": Bad(
        StudyError,
        r"period: expected two dates such as .*got '2018-02-20'",
        {"period": "2018-02-20"},
    ),
    "area across the antimeridian": Bad(
        StudyError,
        r"area: west \(179.9\) must lie west of east.*two studies, one on each side",
        {"area": {"bbox": [179.9, 50.8, -179.9, 50.9]}},
    ),
    "area upside down": Bad(
        StudyError,
        r"area: latitudes must rise from south to north",
        {"area": {"bbox": [3.0, 50.9, 3.1, 50.8]}},
    ),
    "area in metres": Bad(
        StudyError,
        r"area: longitudes must lie within -180..180, got 501360",
        {"area": {"bbox": [501360, 5629000, 502000, 5629680]}},
    ),
    "area file is a point": Bad(
        StudyError,
        r"area.file: feature 0 of .* is expected to be a polygon, got Point",
        lambda b: {"area": {"file": features(b, POINT)}},
    ),
    "area file in metres": Bad(
        StudyError,
        r"area.file: expected longitudes and latitudes \(EPSG:4326\).*501360",
        lambda b: {"area": {"file": features(b, polygon(501360, 5629000, 100))}},
    ),
    "area file of strings": Bad(
        StudyError,
        r"area.file: feature 0 of .* has no geometry",
        lambda b: {"area": {"file": features(b, features=["x"])}},
    ),
    "area file of broken coordinates": Bad(
        StudyError,
        r"area.file: feature 0 of .* is expected to be GeoJSON",
        lambda b: {
            "area": {"file": features(b, {"type": "Polygon", "coordinates": [[["a", 1], [2, 3]]]})}
        },
    ),
    "area file gone": Bad(
        StudyError,
        r"area.file: expected a GeoJSON file, there is none at",
        {"area": {"file": "nowhere.geojson"}},
    ),
    "area outside all scenes": Bad(
        ArchiveError,
        r"archive: no scene .* Check area, period and collection. The archive covers .*3\.019",
        {"area": {"bbox": [7.0, 45.0, 7.01, 45.01]}},
    ),
    "no scenes in the period": Bad(
        ArchiveError,
        r"archive: no scene .* from 2001-01-01 to 2001-12-31.*The archive covers .*2017-08-04",
        {"period": "2001-01-01/2001-12-31"},
    ),
    "no scenes, no cube": Bad(
        ArchiveError,
        r"archive: no scene .* Check area, period",
        {"period": "2001-01-01/2001-12-31"},
        new=True,
    ),
    "unknown product": Bad(
        StudyError,
        r"product: expected one of vegetation, snow, lakes, or my_module:product, got 'moss'",
        {"product": "moss"},
    ),
    "product module gone": Bad(
        StudyError,
        r"product: expected a module beside the study or on the path",
        {"product": "no_such_module:product"},
    ),
    "product object gone": Bad(
        StudyError,
        r"product: module broken has no object named 'no_such_product'",
        {"product": "broken:no_such_product"},
    ),
    "product is text": Bad(
        StudyError,
        r"product: expected a Product at broken:text, got str",
        {"product": "broken:text"},
    ),
    "product is not Python": Bad(
        StudyError,
        r"product: expected to import not_python, got SyntaxError",
        {"product": "not_python:product"},
    ),
    "product needs a missing module": Bad(
        StudyError, r"No module named 'no_such_library'", {"product": "needs_missing:product"}
    ),
    "product fails at import": Bad(
        StudyError,
        r"product: expected to import fails_at_import, got ZeroDivisionError",
        {"product": "fails_at_import:product"},
    ),
    "product takes rows of days for months": Bad(
        StudyError,
        r"stage yearly: tables have a row for each day, so .* read daily layers, got \('month/",
        {"product": "rows_of_months:product"},
    ),
    "product's band is unknown": Bad(
        ArchiveError,
        r"archive: none of 9 scenes can be used; .* has no band purple. Check",
        {"product": "broken:purple"},
        new=True,
    ),
    "unknown parameter": Bad(
        StudyError,
        r"parameters.depth: this key is not known; product monthly_ndvi takes none",
        {"parameters": {"depth": 3}},
    ),
    "parameter of another type": Bad(
        StudyError,
        r"parameters.depth: Input should be a valid integer.*got 'deep'",
        {"product": "broken:deep", "parameters": {"depth": "deep"}},
    ),
    "unknown key": Bad(
        StudyError, r"periods: this key is not known; see `alpage schema`", {"periods": "2018"}
    ),
    "archive gone": Bad(
        ArchiveError,
        r"archive: .*nowhere/collection.json does not exist",
        {"archive": "nowhere/collection.json"},
    ),
    "archive is a web page": Bad(
        ArchiveError,
        r"archive: .*a.json is not JSON",
        lambda b: {"archive": text_at("a.json", "<html>")(b)},
    ),
    "archive is an item": Bad(
        ArchiveError,
        r"archive: .* is a Feature: expected a STAC API, a static catalog.json",
        lambda b: {"archive": str(b.item_path)},
    ),
    "archive is no parquet": Bad(
        ArchiveError,
        r"archive: .*scenes.parquet is not stac-geoparquet",
        lambda b: {"archive": text_at("scenes.parquet", "<html>")(b)},
    ),
    "archive is a folder": Bad(
        ArchiveError,
        r"archive: .*archive cannot be read: Is a directory",
        lambda b: {"archive": str(b.archive)},
    ),
    "no sound scene": Bad(
        ArchiveError,
        r"archive: none of 9 scenes can be used; .*the file is empty.*Check the archive",
        all_bad,
        new=True,
    ),
    "stop at a bad scene": Bad(
        ArchiveError,
        r"on_bad_scene is stop, and scene S2_\w+ is bad: band red: .*the file is empty",
        spoilt,
    ),
    "stop at a bad item": Bad(
        ArchiveError, r"on_bad_scene is stop, and item S2_\w+ is bad: .*is not JSON", rejected
    ),
    "stop at a damaged tile": Bad(
        ArchiveError,
        r"on_bad_scene is stop, and scene S2_\w+ is bad: band red: .*does not decode",
        damaged,
    ),
    "another area": Bad(
        CubeError,
        r"made with area .*; give it another cube, or the cube's own area",
        {
            "area": {"bbox": [3.021, 50.814, 3.024, 50.816]},
            "grid": {"crs": "EPSG:32631", "resolution": 10},
        },
    ),
    "larger area": Bad(
        CubeError,
        r"made with area .*3\.0284.* asks for .*3\.0384.*; give it another cube",
        {"area": {"bbox": [3.0193, 50.8131, 3.0384, 50.8188]}},
    ),
    "another resolution": Bad(
        CubeError,
        r"made with grid .*\[10.0.* asks for .*\[20.0.*; give it another cube",
        {"grid": {"crs": "EPSG:32631", "resolution": 20}},
    ),
    "another CRS": Bad(
        CubeError,
        r"made with grid .*EPSG:32631.* asks for .*EPSG:3035.*; give it another cube",
        {"grid": {"crs": "EPSG:3035", "resolution": 10}},
    ),
    "another resolution of the scenes' CRS": Bad(
        CubeError,
        r"grid.resolution: .* has 10.0, this study asks for 20.0; give it another cube, or the",
        {"grid": {"resolution": 20}},
    ),
    "another CRS at the scenes' resolution": Bad(
        CubeError,
        r"grid.crs: .* has EPSG:32631, this study asks for EPSG:3035; give it another cube",
        {"grid": {"crs": "EPSG:3035"}},
    ),
    "other tiles": Bad(
        CubeError,
        r"grid.tile_px: .* has 66, this study asks for 32; give it another cube, or the",
        {"grid": {"tile_px": 32}},
    ),
    "CRS in degrees": Bad(
        StudyError,
        r"grid.crs: expected a projected CRS in metres, such as EPSG:32631, got 'EPSG:4326'",
        {"grid": {"crs": "EPSG:4326", "resolution": 10}},
    ),
    "unknown CRS": Bad(
        StudyError,
        r"grid.crs: expected a CRS such as EPSG:32631, got 'EPSG:1'",
        {"grid": {"crs": "EPSG:1", "resolution": 10}},
    ),
    "cube of another product": Bad(
        CubeError,
        r"made with product monthly_ndvi, this study asks for weekly_ndvi; give it another",
        {"product": "broken:other"},
    ),
    "cube of another version": Bad(
        CubeError,
        r"made with version 1, this study asks for 2; give it another cube",
        {"product": "broken:newer"},
    ),
    "cube of other parameters": Bad(
        CubeError,
        r'made with parameters \{\}, this study asks for \{"depth": 2\}; give it another',
        {"product": "broken:deep", "parameters": {"depth": 2}},
    ),
    "another window": Bad(
        CubeError,
        r"grid.window_days: .* has windows of 192 days, this study asks for 64; give it another",
        {"grid": {"window_days": 64}},
    ),
    "memory too small": Bad(
        StudyError,
        r"cluster.memory_gib: expected at least 0.\d for tiles of 66 px.* got 0.3; or make",
        lambda b: cluster(b, memory_gib=0.3),
    ),
    "limit of blocks": Bad(
        LimitReached,
        r"limits.blocks: the run needs up to \d blocks, the limit is 1; nothing was started. Raise",
        {"limits": {"blocks": 1}},
    ),
    "limit of bytes": Bad(
        LimitReached,
        r"limits.read_gib: the run needs up to .* GiB, the limit is 1e-09; nothing was started",
        {"limits": {"read_gib": 1e-9}},
    ),
    "limit of money": Bad(
        LimitReached,
        r"limits.cost_eur: the run needs up to .* EUR, the limit is 1e-12; nothing was started",
        {"limits": {"cost_eur": 1e-12}},
    ),
    "product raises": Bad(
        BlockFailed,
        r"observe, tile 0,0.* failed 4 times, .*ZeroDivisionError: division by zero in the product",
        {"product": "broken:raises"},
    ),
    "product misses a layer": Bad(
        ProductError,
        r"stage observe: expected 'ndvi' among the arrays .* got nvdi",
        {"product": "broken:misses_layer"},
    ),
    "product returns an array": Bad(
        ProductError,
        r"stage observe: expected 'ndvi' among the arrays .* got ndarray",
        {"product": "broken:returns_array"},
    ),
    "product returns what it does not declare": Bad(
        ProductError,
        r"stage observe: its function returned spare, which the stage does not declare",
        {"product": "broken:returns_more"},
        new=True,
    ),
    "layer with a fill that it cannot hold": Bad(
        StudyError,
        r"not well formed: layer ndvi: expected a fill that uint8 holds, got -32768",
        {"product": "ill_formed:product"},
    ),
    "layer with a fill that is a value": Bad(
        StudyError,
        r"not well formed: layer n: expected a fill outside its valid range \(0, 9\), got 0, which",
        {"product": "ambiguous:product"},
    ),
    "area without a pixel": Bad(
        StudyError,
        r"area: expected one that holds pixels, of 10 m none has its centre there; give a larger",
        {"area": {"geojson": polygon(3.02, 50.815, 0.000001)}},
        new=True,
    ),
    "product of wrong shape": Bad(
        ProductError,
        r"layer ndvi: expected int16 \(\d, 64, 66\), got int16 \(\d, 63, 66\); mend",
        {"product": "broken:wrong_shape"},
    ),
    "product of wrong dtype": Bad(
        ProductError,
        r"layer ndvi: expected int16 .* got float32 .*; mend its function",
        {"product": "broken:wrong_dtype"},
    ),
    "product misses a table": Bad(
        ProductError,
        r"stage observe: expected 'seen' among the arrays .* got ndvi",
        {"product": "broken:no_table"},
        new=True,
    ),
    "table of wrong shape": Bad(
        ProductError,
        r"table seen: expected integers \(\d, 3\), got int64 \(\d, 2\); mend its function",
        {"product": "broken:wrong_table"},
        new=True,
    ),
    "table of fractions": Bad(
        ProductError,
        r"table seen: expected integers \(\d, 3\), got float64 \(\d, 3\); mend its function",
        {"product": "broken:float_table"},
        new=True,
    ),
    "values out of range": Bad(
        GateFailed,
        r"gate: valid_range: day/ndvi, tile 0,0, .* holds 20000 \(2 1\), expected .*Readers keep",
        {"product": "broken:too_large"},
    ),
    "values out of range, no cube": Bad(
        GateFailed,
        r"gate: valid_range: day/ndvi, .*expected -10000 to 10000.*Readers keep",
        {"product": "broken:too_large"},
        new=True,
    ),
    "zones are points": Bad(
        StudyError,
        r"zones: feature 0 of .* is expected to be a polygon, got Point without a surface",
        lambda b: {"zones": features(b, POINT)},
    ),
    "zones of one id": Bad(
        StudyError,
        r"zones: expected every feature of .* to have its own id",
        lambda b: {"zones": features(b, polygon(3.02, 50.814), polygon(3.025, 50.814))},
    ),
    "zones are none": Bad(
        StudyError,
        r"zones: expected at least one polygon, .* has none",
        lambda b: {"zones": features(b)},
    ),
    "zones are no GeoJSON": Bad(
        StudyError,
        r"zones: expected GeoJSON at ",
        lambda b: {"zones": text_at("zones.geojson", "<html>")(b)},
    ),
    "zones gone": Bad(
        StudyError,
        r"zones: expected a GeoJSON file, there is none at",
        {"zones": "nowhere.geojson"},
    ),
    "snow without elevation": Bad(
        StudyError,
        r"dem: expected an elevation raster, product snow needs one",
        snow(None),
        new=True,
    ),
    "elevation gone": Bad(
        StudyError, r"dem: .*nowhere.tif: does not exist", snow("nowhere.tif"), new=True
    ),
    "elevation is a web page": Bad(
        StudyError,
        r"dem: .*dem.tif: expected a TIFF, got an HTML",
        lambda b: snow(text_at("dem.tif", "<html>")(b)),
        new=True,
    ),
    "elevation elsewhere": Bad(
        StudyError,
        r"dem: expected elevations within the area, .*dem.tif has none there",
        dem_elsewhere,
        new=True,
    ),
    "cube without its scene list": Bad(
        CubeError, r"cube: its scene list .* is gone; restore it", lose_scenes
    ),
    "cube is a file": Bad(
        StorageError,
        r"cube: .*/file cannot be read or written: .*Not a directory.*; check that it is whole",
        lambda b: {"cube": text_at("file", "not a cube")(b)},
    ),
    "cube below a file": Bad(
        StorageError,
        r"cube: expected to write to .*/file, got File exists; name a folder",
        lambda b: {"cube": text_at("file", "not a cube")(b) + "/cube"},
    ),
    "cube in another store": Bad(
        StorageError,
        r"cube: expected a folder or an s3:// URL, got ftp://",
        {"cube": "ftp://example.org/cube"},
    ),
}


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_a_bad_study_is_one_sentence_and_changes_nothing(name: str, bench: Bench) -> None:
    bad = BAD_STUDIES[name]
    if bad.new:
        bench.study["cube"] = str(bench.cube.with_name("new"))
    before = state(bench.cube)
    changes = bad.changes(bench) if callable(bad.changes) else bad.changes
    with pytest.raises(AlpageError) as caught:
        bench.run(**changes)
    after = state(bench.cube)
    if before is None:
        assert after is None
    else:
        assert after is not None
        assert after[0] == before[0]
        assert same(after[1], before[1])
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    assert re.search(bad.says, sentence), sentence
    assert isinstance(caught.value, bad.error)


# What can be wrong with where the cube lies.


def cut_short(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else [folder]:
        path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize("part", ["repo", "snapshots", "manifests"])
def test_a_damaged_cube_is_told(part: str, bench: Bench) -> None:
    cut_short(bench.cube / part)
    with pytest.raises(StorageError, match=r"invalid icechunk header.* check that it is whole"):
        bench.run()


def test_damaged_pixels_of_a_cube_are_told(bench: Bench) -> None:
    # The victim's window is written anew; its neighbour, which May reads as well, is not.
    changes = {"cube": str(bench.cube.with_name("short")), "grid": {"window_days": 32}}
    bench.run(**changes, archive=str(bench.archive / "without.json"))
    cut_short(Path(changes["cube"]) / "chunks")
    with pytest.raises(StorageError, match="failed 4 times") as caught:
        bench.run(**changes)
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Forbid writing below a folder, to root as well."""
    places = [folder, *folder.rglob("*")]
    chattr = shutil.which("chattr")
    if os.getuid() != 0:
        for place in places:
            place.chmod(0o500 if place.is_dir() else 0o400)
    elif (
        chattr is None or subprocess.run([chattr, "-R", "+i", str(folder)], check=False).returncode
    ):
        pytest.skip("root writes everywhere, and this file system has no immutable flag")
    try:
        yield
    finally:
        if os.getuid() == 0:
            subprocess.run([str(chattr), "-R", "-i", str(folder)], check=True)
        else:
            for place in places:
                place.chmod(0o700)


@pytest.mark.parametrize("what", ["cube", "folder of the cube"])
def test_a_cube_that_may_not_be_written_is_told(what: str, bench: Bench) -> None:
    before = state(bench.cube)
    home = bench.cube.with_name("home")
    home.mkdir()
    bench.cube.rename(home / "cube")
    shutil.move(f"{bench.cube}.scenes", home / "cube.scenes")
    bench.study["cube"] = str(home / "cube")
    with unwritable(home if what != "cube" else bench.cube), pytest.raises(StorageError) as caught:
        bench.run()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert re.search(
        r"cube: .*(not permitted|denied).*(may write to it|name a folder of yours)", sentence
    )
    after = state(bench.cube)
    assert before is not None
    assert after is not None
    assert after[0] == before[0]
    assert same(after[1], before[1])


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts a small disk")
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left_kib", [0, 16, 96])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
    left_kib: int, bench: Bench
) -> None:
    before = state(bench.cube)
    assert before is not None
    disk = bench.cube.with_name("disk")
    with small_disk(disk, 4096):
        shutil.copytree(bench.cube, disk / "cube")
        shutil.copytree(f"{bench.cube}.scenes", disk / "cube.scenes")
        bench.study["cube"] = str(disk / "cube")
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(free - left_kib * 1024))
        with pytest.raises(StorageError) as caught:
            bench.run()
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert re.search(r"No space left on device.*(there is room|run again to resume)", sentence)
        after = state(bench.cube)
        assert after is not None
        assert after[0] == before[0]
        assert same(after[1], before[1])
        (disk / "ballast").unlink()
        assert bench.run().quarantined == {}
        found = state(bench.cube)
        assert found is not None
        assert not same(found[1], before[1])


def test_a_script_that_its_workers_run_again_is_told_what_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from alpage.clusters import open_cluster\n"
        "from alpage.study import ClusterChoice\n"
        "with open_cluster(ClusterChoice(workers=1)):\n"
        "    pass\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "alpage.errors.ClusterError: cluster: local cluster of 1 workers did not"
    )
    assert last.endswith('put the call below `if __name__ == "__main__":`')
