"""What a block costs beyond its pixels: a product that computes nothing, over ever more blocks.

Real scenes (sparse COGs, so that no byte of imagery is read), a real plan, real tasks, a real
ledger and Icechunk. See README.md beside this file.
"""

import argparse
import contextlib
import datetime as dt
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pystac
import rasterio
import shapely
from pyproj import Transformer
from rich.console import Console
from rich.table import Table

from alpage import verbs
from alpage.clusters import open_cluster
from alpage.engine.report import Progress, RunReport
from alpage.product import Array, Band, Layer, Observation, Observe, Product
from alpage.study import ClusterChoice, make_study
from alpage.timeaxis import Calendar

HERE = Path(__file__).parent
DATA = HERE / ".data" / "scale"
RESULTS = HERE / "results.json"
WORKERS = 2
TILE_PX = 16
PIXEL_M = 10
LEFT, TOP, EPSG = 300_000, 6_000_000, 32631


def observe(observation: Observation) -> Mapping[str, Array]:
    """One for every pixel: a shard to write, nothing to compute."""
    shape = observation.inner(observation.quality).shape
    return {"one": np.ones(shape, dtype="uint8")}


noop = Product(
    name="noop",
    version="1",
    title="Nothing, everywhere",
    stages=(
        Observe(
            "observe",
            bands=(Band("red"),),
            layers=(Layer("one", Calendar.DAY, "uint8", fill=0),),
            function=observe,
        ),
    ),
)


def main() -> None:
    """Measure each number of blocks, print a table, keep it in results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", nargs="*", type=int, default=[1_000, 10_000])
    parser.add_argument("--alone", action="store_true", help="measure here, print JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.blocks[0])))
        return
    console, load, rows = Console(), os.getloadavg()[0], []
    for blocks in options.blocks:
        with console.status(f"{blocks:,} blocks"):
            # Each in a process of its own: the peak of its memory is its own.
            command = [sys.executable, __file__, "--alone", str(blocks)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(told.splitlines()[-1]))
    table = Table(title=f"blocks without pixels, {WORKERS} workers, load {load:.1f} before")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,.4g}" for value in row.values()))
    console.print(table)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(results | {"scale": rows}, indent=1) + "\n")


class Halfway(Exception):  # noqa: N818 - what ends the first half
    """Half of the blocks are done."""


def measure(blocks: int) -> dict[str, float]:
    """Return what a run over so many blocks took, interrupted halfway, and planning it again."""
    side = math.isqrt(blocks)
    cube = DATA / "cube"
    shutil.rmtree(cube, ignore_errors=True)
    content = {
        "product": "scale:noop",
        "area": {"file": str(make_archive(side) / "area.geojson")},
        "period": "2020-06-01/2020-06-30",
        "archive": str(DATA / f"archive-{side}" / "collection.json"),
        "grid": {"tile_px": TILE_PX, "window_days": 32},
        "cube": str(cube),
    }
    planned: list[float] = []

    def stop(progress: Progress) -> None:
        if progress.done_km2_dates >= progress.total_km2_dates / 2:
            raise Halfway

    def call(on_progress: Callable[[Progress], None] = lambda progress: None) -> RunReport:
        return verbs.run(
            study, on_progress=on_progress, on_plan=lambda plan: planned.append(time.perf_counter())
        )

    with open_cluster(ClusterChoice(workers=WORKERS)) as client:
        cluster = {"kind": "address", "address": client.scheduler.address}
        study = make_study(content | {"cluster": cluster}, folder=HERE)
        before, began = peak_mib(), time.perf_counter()
        with contextlib.suppress(Halfway):
            call(stop)
        halfway = time.perf_counter()
        report = call()
        ended, peak = time.perf_counter(), peak_mib()
        again = call()
        checked = time.perf_counter()
    assert again.n_blocks == 0
    assert 0.3 * side * side < report.n_blocks < 0.6 * side * side
    run_s = halfway - planned[0] + ended - planned[1]
    return {
        "blocks": side * side,
        "plan s": planned[0] - began,
        "resume s": planned[1] - halfway,
        "run s": run_s,
        "ms a block": run_s / (side * side) * 1000,
        "worker ms a block": 1000 * report.worker_seconds / report.n_blocks,
        "again s": checked - ended,
        "coordinator MiB": peak,
        "of it before MiB": before,
        "manifests MiB": size_mib(cube / "manifests"),
        "snapshots MiB": size_mib(cube / "snapshots"),
        "transactions MiB": size_mib(cube / "transactions"),
    }


def peak_mib() -> float:
    """Return the most memory this process ever held, the scheduler's included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size_mib(folder: Path) -> float:
    """Return the size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*")) / 2**20


def make_archive(side: int) -> Path:
    """Return a folder with one scene over side x side tiles, whose COGs hold no pixel."""
    folder = DATA / f"archive-{side}"
    if (folder / "collection.json").exists():
        return folder
    scene = folder / "S2A_31UDQ_20200610_0_L2A"
    scene.mkdir(parents=True, exist_ok=True)
    for name, dtype in (("red", "uint16"), ("scl", "uint8")):
        with rasterio.open(
            scene / f"{name}.tif", "w", driver="GTiff", width=side * TILE_PX,
            height=side * TILE_PX, count=1, dtype=dtype, crs=f"EPSG:{EPSG}", nodata=0, tiled=True,
            blockxsize=512, blockysize=512, compress="deflate", sparse_ok=True,
            transform=rasterio.transform.from_origin(LEFT, TOP, PIXEL_M, PIXEL_M),
        ):  # fmt: skip
            pass
    metres = side * TILE_PX * PIXEL_M
    to_4326 = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    square = shapely.box(LEFT, TOP - metres, LEFT + metres, TOP)
    outline = shapely.transform(shapely.segmentize(square, metres / 20), to_4326, interleaved=False)
    inner = shapely.segmentize(square.buffer(-PIXEL_M / 5, join_style="mitre"), metres / 20)
    area = shapely.transform(inner, to_4326, interleaved=False)
    moment = dt.datetime(2020, 6, 10, 10, 30, tzinfo=dt.UTC)
    item = pystac.Item(
        scene.name,
        shapely.geometry.mapping(outline),
        list(outline.bounds),
        moment,
        {"platform": "sentinel-2a", "constellation": "sentinel-2", "proj:code": f"EPSG:{EPSG}",
         "s2:processing_baseline": "02.14", "grid:code": "MGRS-31UDQ"},
        collection="sentinel-2-l2a",
    )  # fmt: skip
    for name in ("red", "scl"):
        item.add_asset(name, pystac.Asset(f"./{name}.tif", roles=["data"]))
    (scene / f"{scene.name}.json").write_text(json.dumps(item.to_dict(transform_hrefs=False)))
    collection = pystac.Collection(
        "sentinel-2-l2a",
        "Scenes without a pixel.",
        pystac.Extent(
            pystac.SpatialExtent([list(outline.bounds)]),
            pystac.TemporalExtent([[moment, moment]]),
        ),
    )
    href = f"./{scene.name}/{scene.name}.json"
    collection.add_link(pystac.Link(pystac.RelType.ITEM, href, "application/geo+json"))
    (folder / "area.geojson").write_text(json.dumps(shapely.geometry.mapping(area)))
    told = collection.to_dict(transform_hrefs=False)
    (folder / "collection.json").write_text(json.dumps(told))
    return folder


if __name__ == "__main__":
    main()
