"""alpage beside what a user would otherwise write: the same job by four ways, in turns.

Results are compared before any time is shown. See README.md beside this file.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import xarray as xr
import zarr
from archive import ArchiveSpec, make_archive
from peers import FILL, WAYS, WORKERS
from rich.console import Console
from rich.table import Table

from alpage.cube.store import CubeStore

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import s3_server

HERE = Path(__file__).parent
DATA = HERE / ".data"
RESULTS = HERE / "results.json"
SAMPLE_S = 0.25
ROWS = 512
KINDS = ("plan_s", "read_seconds", "compute_seconds", "write_seconds")
SMALL = ArchiveSpec(512, 4)

Measured = dict[str, float]


@dataclass(frozen=True)
class Place:
    """Where archives and results are."""

    name: str
    root: str
    """A folder, or an s3:// bucket."""
    environment: dict[str, str]

    def archive(self, spec: ArchiveSpec) -> str:
        """Where an archive is."""
        return f"{self.root}/{spec.name}"

    def out(self, way: str) -> str:
        """Where a way leaves its result."""
        return f"{self.root}/out/{way}"


def main() -> None:
    """Measure, compare, print, and keep the numbers in results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each way is run (3)")
    parser.add_argument("--size", type=int, default=2048, help="width and height in pixels (2048)")
    parser.add_argument("--dates", type=int, default=40, help="scenes, five days apart (40)")
    parser.add_argument("--block", type=int, default=512, help="internal tiles of the COGs (512)")
    parser.add_argument("--only", choices=["disk", "s3"], help="one of the two places (both)")
    options = parser.parse_args()
    console = Console()
    spec = ArchiveSpec(options.size, options.dates, options.block)
    with console.status("writing the archive"):
        for one in (SMALL, spec):
            make_archive(one, DATA)
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        places = []
        if options.only != "s3":
            places.append(Place("disk", str(DATA), {}))
        if options.only != "disk":
            places.append(stack.enter_context(on_s3((SMALL, spec), console)))
        rounds = measure_all(places, spec, options.rounds, console)
    told = f"{options.dates} dates of {options.size}² px, {WORKERS} workers, "
    told += f"medians of {options.rounds}, load {load:.1f} before"
    results: dict[str, dict[str, float]] = {}
    for place in places:
        medians = {way: median_of(measured) for way, measured in rounds[place.name].items()}
        console.print(table_of(medians, f"{place.name}: {told}"))
        print_details(medians, console)
        results[place.name] = flat(medians) | {"load_before": load} | numbers_of(options)
    if len(places) == 2:
        ratio = results["s3"]["alpage_s"] / results["disk"]["alpage_s"]
        console.print(f"alpage on S3 takes {ratio:.2f} times as long as on disk")
    keep(results)


def measure_all(
    places: list[Place], spec: ArchiveSpec, rounds: int, console: Console
) -> dict[str, dict[str, list[Measured]]]:
    """Return what each way took, by place, in turns; equal results are asserted first."""
    found: dict[str, dict[str, list[Measured]]] = {
        p.name: {way: [] for way in WAYS} for p in places
    }
    for number in range(rounds):
        for place in places:
            for way in WAYS:
                with console.status(f"round {number + 1} of {rounds}, {place.name}: {way}"):
                    found[place.name][way].append(measure(way, place, spec))
            if number == 0:
                with console.status(f"comparing the results on {place.name}"):
                    check_equal(place)
    return found


@contextlib.contextmanager
def on_s3(specs: Iterable[ArchiveSpec], console: Console) -> Iterator[Place]:
    """Give a bucket on a real server of this machine that holds the archives."""
    with console.status("starting the S3 server"), contextlib.ExitStack() as stack:
        environment = stack.enter_context(s3_server.running())
        endpoint = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        # The same for GDAL, which the other ways read with.
        environment |= {"AWS_S3_ENDPOINT": endpoint, "AWS_HTTPS": "NO"}
        environment |= {"AWS_VIRTUAL_HOSTING": "FALSE"}
        os.environ.update(environment)
        files = fsspec.filesystem("s3")
        files.mkdir("bench")
        for spec in specs:
            files.put(str(DATA / spec.name), f"bench/{spec.name}", recursive=True)
        stack = stack.pop_all()
    with stack:
        yield Place("s3", "s3://bench", environment)


def measure(way: str, place: Place, spec: ArchiveSpec) -> Measured:
    """Return what one way tells of itself in a process of its own, and its peak memory in MiB."""
    outs = [place.out(way), place.out(f"{way}-small")]
    files, _ = fsspec.url_to_fs(place.root)
    for out in outs:
        files.invalidate_cache()
        for left in (out, f"{out}.scenes"):
            if files.exists(left):
                files.rm(left, recursive=True)
    if place.name == "disk":
        Path(place.root, "out").mkdir(exist_ok=True)
    # What the way before left to be written to disk is not this one's load.
    os.sync()
    command = [sys.executable, str(HERE / "peers.py"), way]
    command += [place.archive(spec), outs[0], place.archive(SMALL), outs[1]]
    peak = 0
    environment = os.environ | place.environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
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


def check_equal(place: Place) -> None:
    """Refuse to go on unless every way wrote the same days, the same holes and the same NDVI."""
    cube = CubeStore.open(place.out("alpage")).read()
    slots = np.flatnonzero(np.asarray(cube["day/observed"]) > 0)
    days = np.asarray(cube["day/time"])[slots].astype("datetime64[D]")
    for peer in (way for way in WAYS if "stac" in way):
        found = xr.open_zarr(place.out(peer), consolidated=False)
        np.testing.assert_array_equal(days, found["time"].to_numpy().astype("datetime64[D]"), peer)
        theirs = zarr.open_group(place.out(peer), mode="r")
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


def print_details(medians: dict[str, Measured], console: Console) -> None:
    """Print what only alpage tells of itself."""
    ours = medians["alpage"]
    console.print(", ".join(f"{kind} {ours[kind]:.2f}" for kind in KINDS))
    asked = ours["requests"] / ours["tiles_needed"]
    console.print(
        f"{ours['requests']:.0f} requests, {asked:.2f} for each tile needed; "
        f"{ours['bytes_read'] / 2**20:.0f} MiB read; a worker's peak was "
        f"{ours['worker_peak_mib']:.0f} MiB, planned {ours['planned_peak_mib']:.0f}; one worker "
        f"takes {medians['alpage_alone']['work_s'] / ours['work_s']:.2f} times as long as two"
    )


def flat(medians: dict[str, Measured]) -> dict[str, float]:
    """Return all medians under one name each."""
    numbers: dict[str, float] = {}
    for way, found in medians.items():
        numbers[f"{way}_s"] = found["work_s"]
        numbers |= {f"{way}_{key}": found[key] for key in found if key != "work_s"}
    return numbers


def numbers_of(options: argparse.Namespace) -> dict[str, float]:
    """Return the options that are numbers."""
    return {name: value for name, value in vars(options).items() if isinstance(value, int)}


def keep(results: dict[str, dict[str, float]]) -> None:
    """Write the medians to results.json, beside what other benchmarks keep there."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
