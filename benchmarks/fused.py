"""alpage beside what a user would otherwise write: the same jobs by several ways, in turns.

Results are compared before any time is shown. See README.md beside this file.
"""

import argparse
import contextlib
import datetime as dt
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import xarray as xr
import zarr
from archive import ArchiveSpec, SnowSpec, make_archive
from numpy.typing import NDArray
from peers import FILL, SNOW_WAYS, WAYS, WORKERS
from rich.console import Console
from rich.table import Table

from alpage.cube.store import CubeStore

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import s3_server

HERE = Path(__file__).parent
DATA = HERE / ".data"
RESULTS = HERE / "results.json"
# A look takes 40 ms of a core and holds up what asks for memory meanwhile.
SAMPLE_S = 1.0
ROWS = 512
SNOW = 100
FEW_WAYS = ("alpage", "odc_stac", "odc_stac_tuned", "floor")
KINDS = ("plan_s", "read_seconds", "compute_seconds", "write_seconds")
# Something for each worker.
SMALL_PX, SMALL_DATES = 1024, 4
WINTER = dt.date(2018, 9, 2)

Measured = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One job, the small one that comes before it, the ways to do both, and how to compare."""

    name: str
    spec: ArchiveSpec
    ways: Sequence[str]
    check: Callable[["Place", Sequence[str]], None]

    @property
    def small(self) -> ArchiveSpec:
        """The same job, small: imports and first calls are in nobody's time."""
        return replace(self.spec, size=SMALL_PX, dates=SMALL_DATES)

    def key(self, place: "Place") -> str:
        """Where its numbers stand in results.json."""
        return place.name if self.name == "ndvi" else f"{self.name}_{place.name}"

    @property
    def ours(self) -> str:
        """The way that is alpage's."""
        return self.ways[0]


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
    parser.add_argument(
        "--dates", type=int, default=73, help="scenes, five days apart (73, a year)"
    )
    parser.add_argument("--only", choices=["disk", "s3"], help="one of the two places (both)")
    parser.add_argument("--task", choices=["ndvi", "snow", "blocks_1024"], help="one job (all)")
    parser.add_argument(
        "--without-peers",
        action="store_true",
        help="alpage and the floor only, not other libraries",
    )
    options = parser.parse_args()
    size, dates = options.size, options.dates
    tasks = [
        Task("ndvi", ArchiveSpec(size, dates), list(WAYS), check_ndvi),
        Task("snow", SnowSpec(size, dates, first_day=WINTER), list(SNOW_WAYS), check_snow),
        Task("blocks_1024", ArchiveSpec(size, dates, 1024), FEW_WAYS, check_ndvi),
    ]
    tasks = [task for task in tasks if options.task in (None, task.name)]
    if options.without_peers:
        tasks = [replace(task, ways=[way for way in task.ways if is_ours(way)]) for task in tasks]
    console, specs = Console(), [one for task in tasks for one in (task.small, task.spec)]
    with console.status("writing the archives"):
        for spec in specs:
            make_archive(spec, DATA)
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        places = []
        if options.only != "s3":
            places.append(Place("disk", str(DATA), {}))
        if options.only != "disk":
            places.append(stack.enter_context(on_s3(specs, console)))
        measured = measure_all(places, tasks, options.rounds, console)
    told = f"{dates} dates of {size}² px, {WORKERS} workers, "
    told += f"medians of {options.rounds}, load {load:.1f} before"
    results: dict[str, dict[str, float]] = {}
    for task in tasks:
        for place in places:
            rounds = measured[task.key(place)]
            medians = {way: median_of(found) for way, found in rounds.items()}
            console.print(table_of(medians, task, f"{task.name} on {place.name}: {told}"))
            print_details(medians, task, console)
            results[task.key(place)] = flat(medians, task) | {"load_before": load}
    console.print(goals_of(results))
    keep(results)


def is_ours(way: str) -> bool:
    """Return whether a way is alpage's, or the floor it stands on."""
    return "alpage" in way or "floor" in way


def measure_all(
    places: list[Place], tasks: list[Task], rounds: int, console: Console
) -> dict[str, dict[str, list[Measured]]]:
    """Return what each way took, by task and place, in turns; equal results are asserted first."""
    found: dict[str, dict[str, list[Measured]]] = {
        task.key(place): {way: [] for way in task.ways} for task in tasks for place in places
    }
    for number, task, place in itertools.product(range(rounds), tasks, places):
        for way in task.ways:
            with console.status(f"round {number + 1} of {rounds}, {task.key(place)}: {way}"):
                found[task.key(place)][way].append(measure(way, place, task))
        if number == 0:
            with console.status(f"comparing the results of {task.key(place)}"):
                task.check(place, task.ways)
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


def measure(way: str, place: Place, task: Task) -> Measured:
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
    command += [place.archive(task.spec), outs[0], place.archive(task.small), outs[1]]
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


def check_ndvi(place: Place, ways: Sequence[str]) -> None:
    """Refuse to go on unless every way wrote the same days, the same holes and the same NDVI."""
    cube, slots = read_cube(place.out("alpage"))
    days = np.asarray(cube["day/time"])[slots].astype("datetime64[D]")
    for peer in (way for way in ways if "stac" in way):
        found = xr.open_zarr(place.out(peer), consolidated=False)
        np.testing.assert_array_equal(days, found["time"].to_numpy().astype("datetime64[D]"), peer)
        theirs = zarr.open_group(place.out(peer), mode="r")
        for rows in strips(theirs["ndvi"].shape[1]):
            ndvi = cube["day/ndvi"].oindex[slots, rows]
            assert 0.05 < np.mean(ndvi == FILL) < 0.95, "clouds or clear sky are missing"
            assert_same(ndvi, theirs["ndvi"][:, rows], f"{peer}: NDVI")
            for name in ("ndvi_mean", "ndvi_max"):
                ours = cube[f"year/{name}"][0, rows]
                assert_same(ours, theirs[name][rows], f"{peer}: {name}")


def check_snow(place: Place, ways: Sequence[str]) -> None:
    """Refuse to go on unless every way wrote the same codes, snow days and observations."""
    cube, slots = read_cube(place.out("snow_alpage"))
    for peer in (way for way in ways if "xarray" in way):
        theirs = zarr.open_group(place.out(peer), mode="r")
        for rows in strips(theirs["snow"].shape[1]):
            codes = cube["day/snow"].oindex[slots, rows]
            assert np.mean(codes == SNOW) > 0.05, "snow is missing"
            np.testing.assert_array_equal(codes, theirs["snow"][:, rows], f"{peer}: codes")
            for name in ("scd", "nobs"):
                ours = cube[f"season/{name}"][0, rows]
                np.testing.assert_array_equal(ours, theirs[name][rows], f"{peer}: {name}")


def read_cube(url: str) -> tuple[zarr.Group, NDArray[np.int64]]:
    """Return a cube's root, and the slots of the days that were observed."""
    cube = CubeStore.open(url).read()
    return cube, np.flatnonzero(np.asarray(cube["day/observed"]) > 0)


def strips(height: int) -> Iterator[slice]:
    """Yield rows of a map by so many that all dates of them fit in memory."""
    return (slice(row, min(row + ROWS, height)) for row in range(0, height, ROWS))


def assert_same(ours: Any, theirs: Any, name: str) -> None:
    """Raise AssertionError unless holes agree and stored values differ by at most 1, of 1e-4."""
    np.testing.assert_array_equal(ours == FILL, theirs == FILL, f"{name}, empty pixels")
    np.testing.assert_allclose(ours.astype("int32"), theirs, rtol=0, atol=1, err_msg=name)


def median_of(measured: list[Measured]) -> Measured:
    """Return the median of each number."""
    return {key: statistics.median(one[key] for one in measured) for key in measured[0]}


def table_of(medians: dict[str, Measured], task: Task, title: str) -> Table:
    """Return the medians, and the ratios of the work to alpage's."""
    table = Table(title=title)
    for heading in ("way", "work s", "ratio", "start s", "CPU s", "peak MiB", "tasks"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way, found in medians.items():
        table.add_row(
            way,
            f"{found['work_s']:.2f}",
            f"{found['work_s'] / medians[task.ours]['work_s']:.2f}",
            f"{found['start_s']:.1f}",
            f"{found['cpu_s']:.1f}",
            f"{found['peak_mib']:.0f}",
            f"{found['tasks']:.0f}",
        )
    return table


def print_details(medians: dict[str, Measured], task: Task, console: Console) -> None:
    """Print what only alpage tells of itself."""
    ours = medians[task.ours]
    console.print(", ".join(f"{kind} {ours[kind]:.2f}" for kind in KINDS))
    console.print(
        f"{ours['requests']:.0f} requests for {ours['tiles_needed']:.0f} tiles needed; "
        f"{ours['bytes_read'] / 2**20:.0f} MiB read; a worker's peak was "
        f"{ours['worker_peak_mib']:.0f} MiB, planned {ours['planned_peak_mib']:.0f}"
    )


def flat(medians: dict[str, Measured], task: Task) -> dict[str, float]:
    """Return all medians under one name each, whatever the task alpage's as `alpage_...`."""
    numbers: dict[str, float] = {}
    for way, found in medians.items():
        name = way.removeprefix("snow_")
        numbers[f"{name}_s"] = found["work_s"]
        numbers |= {f"{name}_{key}": found[key] for key in found if key != "work_s"}
    return numbers


def goals_of(results: dict[str, dict[str, float]]) -> Table:
    """Return what is aimed at beside what was measured."""
    table = Table(title="goals")
    for heading in ("of", "goal", "measured", ""):
        table.add_column(heading)

    def row(key: str, goal: str, value: float, met: bool) -> None:
        table.add_row(key, goal, f"{value:.2f}", "met" if met else "missed")

    for key, found in results.items():
        ours = found["alpage_s"]
        for peer in ("odc_stac", "stackstac", "xarray"):
            if f"{peer}_s" in found:
                ratio = found[f"{peer}_s"] / ours
                row(key, f"10 times as fast as {peer}", ratio, ratio >= 10)
        ratio = ours / found["floor_s"]
        row(key, "at most 2 times the decode floor", ratio, ratio <= 2)
        ratio = found["alpage_requests"] / found["alpage_tiles_needed"]
        row(key, "at most 1.1 requests a tile needed", ratio, ratio <= 1.1)
        ratio = found["alpage_worker_peak_mib"] / found["alpage_planned_peak_mib"]
        row(key, "0.7 to 1 of the planned memory", ratio, 0.7 <= ratio <= 1)
        if "alpage_alone_s" in found:
            ratio = found["alpage_alone_s"] / ours
            # The rest is planning, which has one core, and the coordinator's share of both.
            blocks = (found["alpage_alone_s"] - found["alpage_alone_plan_s"]) / (
                ours - found["alpage_plan_s"]
            )
            gain = found["floor_alone_s"] / found["floor_s"]
            goal = "two workers 1.8 times as fast as one "
            goal += f"(at the blocks: {blocks:.2f}; the floor: {gain:.2f})"
            row(key, goal, ratio, ratio >= 1.8)
    for name in {key.removesuffix("s3") for key in results if key.endswith("s3")}:
        if f"{name}disk" in results:
            s3, disk = results[f"{name}s3"], results[f"{name}disk"]
            ratio, cpu = (s3[f"alpage_{unit}"] / disk[f"alpage_{unit}"] for unit in ("s", "cpu_s"))
            floor = s3["floor_s"] / disk["floor_s"]
            # The server has its share of the same cores.
            goal = "at most 1.3 times the time on disk "
            goal += f"(our own CPU seconds: {cpu:.2f}; the floor: {floor:.2f})"
            row(f"{name}s3", goal, ratio, ratio <= 1.3)
    return table


def keep(results: dict[str, dict[str, float]]) -> None:
    """Write the medians to results.json, beside what other benchmarks keep there."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
