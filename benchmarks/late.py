"""A late scene on a year of 16 tiles: what the update does beside what a rebuild does.

See README.md beside this file.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr
from archive import ArchiveSpec, add_late_scene, make_archive
from numpy.typing import NDArray
from rich.console import Console

from alpage import verbs
from alpage.clusters import open_cluster
from alpage.cube.layout import COSTS, SECONDS
from alpage.cube.store import CubeStore
from alpage.engine.report import RunReport
from alpage.study import ClusterChoice, Study, make_study

HERE = Path(__file__).parent
DATA = HERE / ".data"
CUBES = DATA / "cubes-late"
RESULTS = HERE / "results.json"
WORKERS = 2
YEAR = ArchiveSpec(2048, 73)
TILE_PX = 512
# Within four tiles: a scene that ends on their edges would touch their neighbours too.
LATE_PX = 1000
LATE_DAY = 92


def main() -> None:
    """Build, update, rebuild; print the shares of the work and keep them in results.json."""
    console, load = Console(), os.getloadavg()[0]
    with console.status("writing a year of imagery"):
        whole = make_archive(YEAR, DATA)
    # Beside the archive that the other benchmarks use: this one gets a scene more.
    folder = DATA / "late"
    for left in (folder, CUBES):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(whole, folder, copy_function=os.link)
    with open_cluster(ClusterChoice(workers=WORKERS)) as client:
        for way in ("warm", "updated"):
            with console.status(f"building the year ({way})"):
                first, _ = timed(study_of(folder, way, client.scheduler.address))
        before = fingerprints(CUBES / "updated")
        add_late_scene(YEAR, folder, size=LATE_PX, day=LATE_DAY)
        with console.status("updating"):
            update, update_s = timed(study_of(folder, "updated", client.scheduler.address))
        with console.status("rebuilding with the late scene"):
            rebuild, rebuild_s = timed(study_of(folder, "rebuilt", client.scheduler.address))
    assert_equal_cubes(CUBES / "updated", CUBES / "rebuilt")
    touched = {
        step: np.any(one != before[step], axis=-1)
        for step, one in fingerprints(CUBES / "updated").items()
    }
    share_s = seconds_of(CUBES / "rebuilt", touched)
    n_touched = sum(int(one.sum()) for one in touched.values())
    assert update.n_blocks == n_touched, "the update did other blocks than those it changed"
    told = {
        "blocks": rebuild.n_blocks,
        "blocks_touched": n_touched,
        "update_core_s": update.worker_seconds,
        "touched_share_core_s": share_s,
        "rebuild_core_s": rebuild.worker_seconds,
        "update_s": update_s,
        "rebuild_s": rebuild_s,
        "load_before": load,
    }
    console.print(
        f"{len(first.blocks)} steps, {rebuild.n_blocks} blocks, {n_touched} of them under the late "
        f"scene ({n_touched / rebuild.n_blocks:.1%}), and the update did {update.n_blocks}"
    )
    console.print(
        f"core seconds: update {told['update_core_s']:.2f}, the same blocks in a rebuild "
        f"{share_s:.2f} (ratio {told['update_core_s'] / share_s:.2f}), all of a rebuild "
        f"{told['rebuild_core_s']:.2f}"
    )
    console.print(
        f"wall-clock: update {update_s:.2f} s, rebuild {rebuild_s:.2f} s "
        f"({update_s / rebuild_s:.1%}), load {load:.1f} before"
    )
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {"late": told}, indent=1) + "\n")


def study_of(archive: Path, name: str, address: str) -> Study:
    """Return the study of a year of the archive, on a cluster that is there."""
    content = {
        "product": "products:ndvi_statistics",
        "area": {"file": str(archive / "area.geojson")},
        "period": "2018-01-01/2018-12-31",
        "archive": str(archive / "collection.json"),
        "cube": str(CUBES / name),
        "grid": {"tile_px": TILE_PX},
        "cluster": {"kind": "address", "address": address, "workers": WORKERS},
    }
    return make_study(content, folder=HERE)


def timed(study: Study) -> tuple[RunReport, float]:
    """Return what a run reports, and its seconds of wall-clock."""
    os.sync()
    started = time.perf_counter()
    report = verbs.run(study)
    return report, time.perf_counter() - started


def fingerprints(cube: Path) -> dict[str, NDArray[np.uint64]]:
    """Return the fingerprints (block, row, column, 2) that a cube records, by step."""
    ledger = CubeStore.open(str(cube)).read()["ledger"]
    assert isinstance(ledger, zarr.Group)
    return {step: np.asarray(group["fingerprint"][:]) for step, group in ledger.groups()}


def seconds_of(cube: Path, chosen: Mapping[str, NDArray[np.bool_]]) -> float:
    """Return the seconds that a cube records for some of its blocks."""
    root, columns = CubeStore.open(str(cube)).read(), [COSTS.index(kind) for kind in SECONDS]
    return float(
        sum(
            np.sum(root[f"ledger/{step}/cost"][:][mask][:, columns])
            for step, mask in chosen.items()
        )
    )


def assert_equal_cubes(one: Path, other: Path) -> None:
    """Raise AssertionError unless two cubes hold the same pixels."""
    ours, theirs = (CubeStore.open(str(cube)).read() for cube in (one, other))
    for path in ("day/ndvi", "year/ndvi_mean", "year/ndvi_max"):
        for step in range(0, ours[path].shape[0], 32):
            slots = slice(step, step + 32)
            np.testing.assert_array_equal(ours[path][slots], theirs[path][slots], path)


if __name__ == "__main__":
    main()
