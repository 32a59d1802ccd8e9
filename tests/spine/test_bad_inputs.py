"""Whatever is wrong with the input: a named error or a scene left out by name, never half a cube."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

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
    import tifffile

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
    "empty file": (fill_file(b""), r"band nir: .*expected a TIFF, got 0 bytes"),
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
    "no transform": (lambda bench: rewrite(bench.file("red"), transform=None), r"band red: .*no transform"),
    "another CRS than told": (lambda bench: rewrite(bench.file("red"), crs="EPSG:32633"), r"x"),
    "pixels elsewhere": (lambda bench: rewrite(bench.file("nir"), transform=rasterio.Affine(10, 0, 900000, 0, -10, 1e6)), r"x"),
    "nowhere": (lambda bench: (edit(lambda item: item["properties"].pop("proj:code"))(bench), rewrite(bench.file("nir"), crs="EPSG:32601")) and None, r"x"),
    "damaged tile": (damage_tile, r"band red: .*tile 0 .*does not decode"),
    "no datetime": (edit(lambda item: item["properties"].pop("datetime")), r"no datetime"),
    "datetime is no time": (edit(lambda item: item["properties"].update(datetime="last week")), r"'last week' is not a time"),
    "empty geometry": (edit(lambda item: item.update(geometry={"type": "Polygon", "coordinates": []})), r"geometry is empty"),
    "line as geometry": (edit(antimeridian), r"without area"),
    "no assets": (edit(lambda item: item.update(assets=None)), r"x"),
    "unknown sensor": (edit(lambda item: item.update(assets={}, properties=item["properties"] | {"platform": "x"})), r"x"),
    "half an item": (lambda bench: bench.item_path.write_text(bench.item_path.read_text()[:500]) and None, r"is not JSON"),
    "item is a list": (lambda bench: bench.item_path.write_text("[]") and None, r"holds no JSON object"),
    "item gone": (lambda bench: bench.item_path.unlink(), r"does not exist"),
    "offset that was applied already": (edit(lie_about_offset), r"cannot be believed.*it was applied already"),
    "href out of the archive": (href("../../../../../../etc/passwd"), r"outside the archive's folder"),
    "href with a GDAL prefix": (href("/vsicurl/http://169.254.169.254/latest/B04.tif"), r"GDAL virtual file prefixes are not opened"),
    "href to a private host": (href("https://10.0.0.1/B04.tif"), r"private"),
    "href with control characters": (href("B04\n.tif"), r"x"),
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
    pytest.importorskip("re")
    import re

    assert re.search(reason, report.quarantined[VICTIM]), report.quarantined[VICTIM]


def test_the_victim_matters(bench: Bench, without_victim: dict[str, np.ndarray]) -> None:
    report = bench.run()
    assert report.quarantined == {}
    found = state(bench.cube)
    assert found is not None
    assert not same(found[1], without_victim)
