"""alpage beside what a user would otherwise write: the same job by four ways, in turns.

Results are compared before any time is shown. See README.md beside this file.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
import zarr
from archive import ArchiveSpec, make_archive
from peers import FILL, WAYS, WORKERS
from rich.console import Console
from rich.table import Table

from alpage.cube.store import CubeStore

HERE = Path(__file__).parent
DATA = HERE / ".data"
RESULTS = HERE / "results.json"
SAMPLE_S = 0.25
ROWS = 512
KINDS = ("plan_s", "read_seconds", "compute_seconds", "write_seconds")

Measured = dict[str, float]


def main() -> None:
    """Measure, compare, print, and keep the numbers in results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each way is run (3)")
    parser.add_argument("--size", type=int, default=2048, help="width and height in pixels (2048)")
    parser.add_argument("--dates", type=int, default=40, help="scenes, five days apart (40)")
    options = parser.parse_args()
    console = Console()
    with console.status("writing the archive"):
        archive = make_archive(ArchiveSpec(options.size, options.dates), DATA)
    load = os.getloadavg()[0]
    rounds: dict[str, list[Measured]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS:
            with console.status(f"round {number + 1} of {options.rounds}: {way}"):
                rounds[way].append(measure(way, archive, DATA / "out" / way))
        if number == 0:
            with console.status("comparing the results"):
                check_equal(DATA / "out")
    medians = {way: median_of(measured) for way, measured in rounds.items()}
    told = f"{options.dates} dates of {options.size}² px, {WORKERS} workers, "
    told += f"medians of {options.rounds}, load {load:.1f} before"
    console.print(table_of(medians, told))
    console.print("alpage: " + ", ".join(f"{kind} {medians['alpage'][kind]:.2f}" for kind in KINDS))
    keep(medians, vars(options) | {"load_before": load})


def measure(way: str, archive: Path, out: Path) -> Measured:
    """Return what one way tells of itself in a process of its own, and its peak memory in MiB."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    # What the way before left to be written to disk is not this one's load.
    os.sync()
    command = [sys.executable, str(HERE / "peers.py"), way, str(archive), str(out)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(SAMPLE_S)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{way} failed with exit code {process.returncode}; see above")
    return {**json.loads(lines[-1]), "peak_mib": peak / 2**20}


def memory_of(pid: int) -> int:
    """Return the bytes of a process and all below it, shared pages counted once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        # It ended while it was looked at; the next sample is complete again.
        return 0
    return total


def check_equal(out: Path) -> None:
    """Refuse to go on unless every way wrote the same days, the same holes and the same NDVI."""
    cube = CubeStore.open(str(out / "alpage")).read()
    slots = np.flatnonzero(np.asarray(cube["day/observed"]) > 0)
    days = np.asarray(cube["day/time"])[slots].astype("datetime64[D]")
    for peer in ("odc_stac", "stackstac"):
        found = xr.open_zarr(out / peer, consolidated=False)
        np.testing.assert_array_equal(days, found["time"].to_numpy().astype("datetime64[D]"), peer)
        theirs = zarr.open_group(out / peer, mode="r")
        height = theirs["ndvi"].shape[1]
        for rows in (slice(row, min(row + ROWS, height)) for row in range(0, height, ROWS)):
            ndvi = cube["day/ndvi"].oindex[slots, rows]
            assert 0.05 < np.mean(ndvi == FILL) < 0.95, "clouds or clear sky are missing"
            assert_same(ndvi, theirs["ndvi"][:, rows], f"{peer}: NDVI")
            for name in ("ndvi_mean", "ndvi_max"):
                ours = cube[f"year/{name}"][0, rows]
                assert_same(ours, theirs[name][rows], f"{peer}: {name}")


def assert_same(ours: Any, theirs: Any, name: str) -> None:
    """Raise AssertionError unless holes agree and stored values differ by at most 1, of 1e-4."""
    np.testing.assert_array_equal(ours == FILL, theirs == FILL, f"{name}, empty pixels")
    np.testing.assert_allclose(ours.astype("int32"), theirs, rtol=0, atol=1, err_msg=name)


def median_of(measured: list[Measured]) -> Measured:
    """Return the median of each number."""
    return {key: statistics.median(one[key] for one in measured) for key in measured[0]}


def table_of(medians: dict[str, Measured], title: str) -> Table:
    """Return the medians, and the ratios of the work to alpage's."""
    table = Table(title=title)
    for heading in ("way", "work s", "ratio", "start s", "CPU s", "peak MiB", "tasks"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way, found in medians.items():
        table.add_row(
            way,
            f"{found['work_s']:.2f}",
            f"{found['work_s'] / medians['alpage']['work_s']:.2f}",
            f"{found['start_s']:.1f}",
            f"{found['cpu_s']:.1f}",
            f"{found['peak_mib']:.0f}",
            f"{found['tasks']:.0f}",
        )
    return table


def keep(medians: dict[str, Measured], about: dict[str, Any]) -> None:
    """Write the medians to results.json, beside what other benchmarks keep there."""
    numbers: dict[str, float] = {}
    for way, found in medians.items():
        numbers[f"{way}_s"] = found["work_s"]
        numbers |= {f"{way}_{key}": found[key] for key in found if key != "work_s"}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(results | {"disk": about | numbers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
