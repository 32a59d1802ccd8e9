"""Whatever is wrong with the input: a named error or a scene left out by name, never half a cube."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile

import alpage
from alpage.clusters import open_cluster
from alpage.cube.store import CubeStore
from alpage.engine.run import RunReport
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
from alpage.study import ClusterChoice

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
returns_array = broken(lambda found: found["ndvi"])
wrong_shape = broken(lambda found: {"ndvi": found["ndvi"][:, 1:]})
wrong_dtype = broken(lambda found: {"ndvi": found["ndvi"].astype("float32")})
too_large = broken(lambda found: {"ndvi": np.where(found["ndvi"] > 0, 20000, found["ndvi"]).astype("int16")})
no_table = counting(lambda days: {})
wrong_table = counting(lambda days: {"seen": np.zeros((days, 2), dtype="int64")})
float_table = counting(lambda days: {"seen": np.full((days, 3), 0.5)})
other = replace(good, name="weekly_ndvi")
newer = replace(good, version="2")
deep = replace(good, parameters=Deep)
purple = replace(good, stages=(replace(observing, bands=(alpage.Band("purple"),)), deriving))
text = "not a product"
'''


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
def address() -> Iterator[str]:
    with open_cluster(ClusterChoice(workers=1, memory_gib=2)) as client:
        yield str(client.scheduler.address)


@pytest.fixture(scope="session")
def good(shared: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Everything right: an archive of nine scenes, and a cube of the eight besides the victim."""
    source = shared / ARCHIVE
    if not source.is_dir():
        pytest.skip(f"needs {ARCHIVE} of the shared data")
    folder = tmp_path_factory.mktemp("good")
    archive = folder / "archive"
    archive.mkdir()
    collection = json.loads((source / "collection.json").read_text())
    names = [
        path.stem for day in DAYS for path in source.glob(f"*_2018{day}T*.json")
    ]
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
    (folder / "not_python.py").write_text("product = = 1")
    (folder / "needs_missing.py").write_text("import no_such_library")
    (folder / "fails_at_import.py").write_text("product = 1 / 0")
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
            "cluster": {"kind": "address", "address": address},
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


def rewrite(path: Path, pixels: Callable[[np.ndarray], np.ndarray] = lambda a: a, **kind: Any) -> None:
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
    return lambda bench: bench.file("nir").write_bytes(content) and None


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], None]:
    def spoil(bench: Bench) -> None:
        item = json.loads(bench.item_path.read_text())
        change(item)
        bench.item_path.write_text(json.dumps(item))

    return spoil


def href(value: str) -> Callable[[Bench], None]:
    return edit(lambda item: item["assets"]["red"].update(href=value))


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


BAD_SCENES: dict[str, tuple[Callable[[Bench], None], str]] = {
    "tile data cut off": (cut(0.6), r"band red: .*B04.tif: truncated"),
    "header cut off": (cut(0.02), r"band red: .*B04.tif: "),
    "a web page": (fill_file(b"<!DOCTYPE html><html>Sign in</html>"), r"band nir: .*expected a TIFF, got an HTML"),
    "empty file": (fill_file(b""), r"band nir: .*expected a TIFF, the file is empty: fetch it again"),
    "no file": (lambda bench: bench.file("scl").unlink(), r"band quality: .*does not exist"),
    "reflectance as float": (
        lambda bench: rewrite(bench.file("red"), lambda a: (a / 1e4).astype("float32"), predictor=1),
        r"band red: expected uint16 or int16, got float32",
    ),
    "quality as int16": (
        lambda bench: rewrite(bench.file("scl"), lambda a: a.astype("int16"), nodata=None),
        r"band quality: expected uint8 or uint16, got int16",
    ),
    "band not listed": (edit(lambda item: item["assets"].pop("nir")), r"band nir is missing; there are green, quality, red"),
    "quality not listed": (edit(lambda item: item["assets"].pop("scl")), r"band quality is missing"),
    "no CRS": (lambda bench: rewrite(bench.file("red"), crs=None), r"band red: .*no CRS"),
    "no transform": (drop_transform, r"band red: .*no transform: neither a scale"),
    "another CRS than told": (lambda bench: rewrite(bench.file("red"), crs="EPSG:32633"), r"band red is in EPSG:32633, its item says EPSG:32631"),
    "pixels elsewhere": (lambda bench: rewrite(bench.file("nir"), transform=rasterio.Affine(10, 0, 900000, 0, -10, 1e6)), r"band nir lies outside the footprint that its item gives"),
    "nowhere": (lambda bench: (edit(lambda item: item["properties"].pop("proj:code"))(bench), rewrite(bench.file("nir"), crs="EPSG:32601")) and None, r"band nir lies outside the footprint"),
    "damaged tile": (damage_tile, r"band red: .*tile 0 .*does not decode"),
    "no datetime": (edit(lambda item: item["properties"].pop("datetime")), r"no datetime"),
    "datetime is no time": (edit(lambda item: item["properties"].update(datetime="last week")), r"'last week' is not a time"),
    "empty geometry": (edit(lambda item: item.update(geometry={"type": "Polygon", "coordinates": []})), r"geometry is empty"),
    "line as geometry": (edit(antimeridian), r"without area"),
    "no assets": (edit(lambda item: item.update(assets=None)), r"none of its assets is a reflectance band"),
    "unknown sensor": (edit(lambda item: item.update(assets={}, properties=item["properties"] | {"platform": "x"})), r"platform x is none of the sensors known: sentinel-2-l2a"),
    "half an item": (lambda bench: bench.item_path.write_text(bench.item_path.read_text()[:500]) and None, r"is not JSON"),
    "item is a list": (lambda bench: bench.item_path.write_text("[]") and None, r"holds no JSON object"),
    "item gone": (lambda bench: bench.item_path.unlink(), r"does not exist"),
    "offset that was applied already": (edit(lie_about_offset), r"cannot be believed.*it was applied already"),
    "href out of the archive": (href("../../../../../../etc/passwd"), r"outside the archive's folder"),
    "href with a GDAL prefix": (href("/vsicurl/http://169.254.169.254/latest/B04.tif"), r"GDAL virtual file prefixes are not opened"),
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
    print("REASON", name, "|", report.quarantined)
    found = state(cube)
    assert found is not None
    assert same(found[1], without_victim)
    assert list(report.quarantined) == [VICTIM]
    assert report.scenes == len(DAYS) - 1
    assert re.search(reason, report.quarantined[VICTIM]), report.quarantined[VICTIM]


def test_the_victim_matters(bench: Bench, without_victim: dict[str, np.ndarray]) -> None:
    report = bench.run()
    assert report.quarantined == {}
    found = state(bench.cube)
    assert found is not None
    assert not same(found[1], without_victim)


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
        path, "w", driver="GTiff", width=64, height=64, count=1, dtype="float32", nodata=-9999.0,
        crs="EPSG:32631", transform=rasterio.Affine(10, 0, 700000, 0, -10, 5000000),
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


BAD_STUDIES: dict[str, Bad] = {
    "period reversed": Bad(StudyError, r"x", {"period": "2018-06-30/2018-04-10"}),
    "period is no date": Bad(StudyError, r"x", {"period": "2018-02-30/2018-04-10"}),
    "period of one date": Bad(StudyError, r"x", {"period": "2018-02-20"}),
    "area across the antimeridian": Bad(StudyError, r"x", {"area": {"bbox": [179.9, 50.8, -179.9, 50.9]}}),
    "area upside down": Bad(StudyError, r"x", {"area": {"bbox": [3.0, 50.9, 3.1, 50.8]}}),
    "area in metres": Bad(StudyError, r"x", {"area": {"bbox": [501360, 5629000, 502000, 5629680]}}),
    "area file is a point": Bad(StudyError, r"x", lambda b: {"area": {"file": features(b, POINT)}}),
    "area file in metres": Bad(StudyError, r"x", lambda b: {"area": {"file": features(b, polygon(501360, 5629000, 100))}}),
    "area file of strings": Bad(StudyError, r"x", lambda b: {"area": {"file": features(b, features=["x"])}}),
    "area file of broken coordinates": Bad(StudyError, r"x", lambda b: {"area": {"file": features(b, {"type": "Polygon", "coordinates": [[["a", 1], [2, 3]]]})}}),
    "area file gone": Bad(StudyError, r"x", {"area": {"file": "nowhere.geojson"}}),
    "area outside all scenes": Bad(ArchiveError, r"x", {"area": {"bbox": [7.0, 45.0, 7.01, 45.01]}}),
    "no scenes in the period": Bad(ArchiveError, r"x", {"period": "2001-01-01/2001-12-31"}),
    "no scenes, no cube": Bad(ArchiveError, r"x", {"period": "2001-01-01/2001-12-31"}, new=True),
    "unknown product": Bad(StudyError, r"x", {"product": "moss"}),
    "product module gone": Bad(StudyError, r"x", {"product": "no_such_module:product"}),
    "product object gone": Bad(StudyError, r"x", {"product": "broken:no_such_product"}),
    "product is text": Bad(StudyError, r"x", {"product": "broken:text"}),
    "product is not Python": Bad(StudyError, r"x", {"product": "not_python:product"}),
    "product needs a missing module": Bad(StudyError, r"x", {"product": "needs_missing:product"}),
    "product fails at import": Bad(StudyError, r"x", {"product": "fails_at_import:product"}),
    "product's band is unknown": Bad(ArchiveError, r"x", {"product": "broken:purple"}, new=True),
    "unknown parameter": Bad(StudyError, r"x", {"parameters": {"depth": 3}}),
    "parameter of another type": Bad(StudyError, r"x", {"product": "broken:deep", "parameters": {"depth": "deep"}}),
    "unknown key": Bad(StudyError, r"x", {"periods": "2018"}),
    "archive gone": Bad(ArchiveError, r"x", {"archive": "nowhere/collection.json"}),
    "archive is a web page": Bad(ArchiveError, r"x", lambda b: {"archive": text_at("a.json", "<html>")(b)}),
    "archive is an item": Bad(ArchiveError, r"x", lambda b: {"archive": str(b.item_path)}),
    "archive is no parquet": Bad(ArchiveError, r"x", lambda b: {"archive": text_at("scenes.parquet", "<html>")(b)}),
    "archive is a folder": Bad(ArchiveError, r"x", lambda b: {"archive": str(b.archive)}),
    "no sound scene": Bad(ArchiveError, r"x", all_bad, new=True),
    "stop at a bad scene": Bad(ArchiveError, r"x", spoilt),
    "stop at a bad item": Bad(ArchiveError, r"x", rejected),
    "stop at a damaged tile": Bad(ArchiveError, r"x", damaged),
    "another area": Bad(CubeError, r"x", {"area": {"bbox": [3.021, 50.814, 3.024, 50.816]}, "grid": {"crs": "EPSG:32631", "resolution": 10}}),
    "another resolution": Bad(CubeError, r"x", {"grid": {"crs": "EPSG:32631", "resolution": 20}}),
    "another CRS": Bad(CubeError, r"x", {"grid": {"crs": "EPSG:3035", "resolution": 10}}),
    "CRS in degrees": Bad(StudyError, r"x", {"grid": {"crs": "EPSG:4326", "resolution": 10}}),
    "unknown CRS": Bad(StudyError, r"x", {"grid": {"crs": "EPSG:1", "resolution": 10}}),
    "cube of another product": Bad(CubeError, r"x", {"product": "broken:other"}),
    "cube of another version": Bad(CubeError, r"x", {"product": "broken:newer"}),
    "cube of other parameters": Bad(CubeError, r"x", {"product": "broken:deep", "parameters": {"depth": 2}}),
    "another window": Bad(CubeError, r"x", {"grid": {"window_days": 64}}),
    "memory too small": Bad(StudyError, r"x", lambda b: cluster(b, memory_gib=0.3)),
    "limit of blocks": Bad(LimitReached, r"x", {"limits": {"blocks": 1}}),
    "limit of bytes": Bad(LimitReached, r"x", {"limits": {"read_gib": 1e-9}}),
    "limit of money": Bad(LimitReached, r"x", {"limits": {"cost_eur": 1e-12}}),
    "product raises": Bad(BlockFailed, r"x", {"product": "broken:raises"}),
    "product misses a layer": Bad(ProductError, r"x", {"product": "broken:misses_layer"}),
    "product returns an array": Bad(ProductError, r"x", {"product": "broken:returns_array"}),
    "product of wrong shape": Bad(ProductError, r"x", {"product": "broken:wrong_shape"}),
    "product of wrong dtype": Bad(ProductError, r"x", {"product": "broken:wrong_dtype"}),
    "product misses a table": Bad(ProductError, r"x", {"product": "broken:no_table"}, new=True),
    "table of wrong shape": Bad(ProductError, r"x", {"product": "broken:wrong_table"}, new=True),
    "table of fractions": Bad(ProductError, r"x", {"product": "broken:float_table"}, new=True),
    "values out of range": Bad(GateFailed, r"x", {"product": "broken:too_large"}),
    "values out of range, no cube": Bad(GateFailed, r"x", {"product": "broken:too_large"}, new=True),
    "zones are points": Bad(StudyError, r"x", lambda b: {"zones": features(b, POINT)}),
    "zones of one id": Bad(StudyError, r"x", lambda b: {"zones": features(b, polygon(3.02, 50.814), polygon(3.025, 50.814))}),
    "zones are none": Bad(StudyError, r"x", lambda b: {"zones": features(b)}),
    "zones are no GeoJSON": Bad(StudyError, r"x", lambda b: {"zones": text_at("zones.geojson", "<html>")(b)}),
    "zones gone": Bad(StudyError, r"x", {"zones": "nowhere.geojson"}),
    "snow without elevation": Bad(StudyError, r"x", snow(None), new=True),
    "elevation gone": Bad(StudyError, r"x", snow("nowhere.tif"), new=True),
    "elevation is a web page": Bad(StudyError, r"x", lambda b: snow(text_at("dem.tif", "<html>")(b)), new=True),
    "elevation elsewhere": Bad(StudyError, r"x", dem_elsewhere, new=True),
    "cube is a file": Bad(StorageError, r"x", lambda b: {"cube": text_at("file", "not a cube")(b)}),
    "cube below a file": Bad(StorageError, r"x", lambda b: {"cube": text_at("file", "not a cube")(b) + "/cube"}),
    "cube in another store": Bad(StorageError, r"x", {"cube": "ftp://example.org/cube"}),
    "no scheduler there": Bad(AlpageError, r"x", lambda b: cluster(b, address="tcp://127.0.0.1:1")),
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
    print("SAYS", name, "|", type(caught.value).__name__, "|", caught.value)
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
