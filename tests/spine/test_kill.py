"""Whoever is killed, whenever: the next run ends with the same cube, and readers saw no half."""

import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from distributed import Client

import alpage
from alpage.clusters import open_cluster
from alpage.cube.lock import held
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.report import Progress
from alpage.errors import ClusterError, CubeError
from alpage.study import ClusterChoice, Study

pytestmark = pytest.mark.slow

PATIENCE_S = 240
GRID = {"crs": "EPSG:32632", "resolution": 20, "tile_px": 33, "window_days": 96}
BEFORE = "2021-11-10/2022-01-20"
COORDINATOR_KILLS, WORKER_KILLS = 10, 3
SEED = 20211227

# Runs a study and tells of each step; with a third argument it dies at a call of a method.
DRIVER = """
import importlib, os, signal, sys
from alpage import verbs
from alpage.study import read_study

def die_at(module, owner, method, when):
    holder = getattr(importlib.import_module(module), owner)
    usual = getattr(holder, method)
    def deadly(*args, **kwargs):
        if when == "after":
            usual(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(holder, method, deadly)

if len(sys.argv) > 2:
    die_at(*sys.argv[2:])
verbs.run(
    read_study(sys.argv[1]),
    on_plan=lambda plan: print("planned", flush=True),
    on_progress=lambda progress: print("block", flush=True),
)
print("done", flush=True)
"""


class Coordinator:
    """A run in a process of its own, whose progress is read line by line."""

    def __init__(self, study: Study, folder: Path, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(study.resolved().model_dump(mode="json")))
        # Few blocks in a commit, so that there is much between two of them.
        environment = os.environ | {"ALPAGE_COMMIT_BLOCKS": "3", "TMPDIR": str(folder)}
        self._stderr = (folder / "stderr.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(path), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put("ended")

    def wait_for(self, *words: str) -> str:
        """Return the next line that is one of these words, or "ended"."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.1))
            if line in (*words, "ended"):
                return line

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes that run now."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self) -> list[psutil.Process]:
        """Kill the coordinator alone, and give its processes: they have to notice."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        return family

    def end(self) -> None:
        """Wait for a run to end well."""
        code = self.process.wait(PATIENCE_S)
        self._stderr.seek(0)
        assert code == 0, self._stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            assert_gone(self.kill())
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()


def assert_gone(processes: list[psutil.Process]) -> None:
    """The processes of killed runs end by themselves."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S / 4)
    assert not alive, f"processes of killed runs live on: {alive}"


class Reader(threading.Thread):
    """A dashboard that opens the cube again and again and keeps what it saw, by snapshot."""

    def __init__(self, cube: str) -> None:
        super().__init__(daemon=True)
        self.cube = cube
        self.seen: dict[str, dict[str, Any]] = {}
        self.refused: list[str] = []
        self.failure: BaseException | None = None
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.25):
            try:
                cube = alpage.open_cube(self.cube)
            except CubeError as error:
                self.refused.append(str(error))
                continue
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                self.failure = error
                return
            if cube.snapshot not in self.seen:
                root = CubeStore.open(self.cube).read(snapshot=cube.snapshot)
                self.seen[cube.snapshot] = {
                    path: np.asarray(root[path][...]) for path in (*cube.layers, "day/time")
                }

    def finish(self) -> None:
        self._over.set()
        self.join(PATIENCE_S)
        if self.failure is not None:
            raise self.failure


@pytest.fixture(scope="module")
def undisturbed(
    studies_in: Callable[[Path], Any], cells: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What nobody disturbed, by period."""
    study_of = studies_in(tmp_path_factory.mktemp("undisturbed"))
    found = {}
    for name, period in (("before", BEFORE), ("whole", None)):
        study = study_of("snow", name, grid=GRID, **({"period": period} if period else {}))
        alpage.run(study)
        found[name] = cells(study.cube)
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Coordinator]]:
    started: list[Coordinator] = []

    def begin(study: Study, *arguments: str) -> Coordinator:
        started.append(Coordinator(study, tmp_path / "coordinator", *arguments))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def watch() -> Iterator[Callable[[str], Reader]]:
    readers: list[Reader] = []

    def begin(cube: str) -> Reader:
        readers.append(Reader(cube))
        readers[-1].start()
        return readers[-1]

    yield begin
    for one in readers:
        one.finish()


def test_killed_workers_leave_no_trace(
    study_of: Callable[..., Study],
    undisturbed: dict[str, Any],
    start: Any,
    watch: Any,
    cells: Any,
    same_cube: Any,
) -> None:
    study = study_of("snow", grid=GRID, cluster={"workers": 2, "memory_gib": 2})
    reader = watch(study.cube)
    moments = random.Random(SEED)
    run = start(study)
    killed = 0
    while run.wait_for("block", "done") == "block":
        if killed < WORKER_KILLS and moments.random() < 0.3:
            time.sleep(moments.uniform(0, 0.05))
            workers = run.workers()
            if workers:
                moments.choice(workers).kill()
                killed += 1
    run.end()
    reader.finish()
    assert killed == WORKER_KILLS
    assert len(reader.seen) <= 1
    same_cube(undisturbed["whole"], cells(study.cube))


def test_killed_coordinators_leave_no_trace(
    study_of: Callable[..., Study],
    undisturbed: dict[str, Any],
    start: Any,
    watch: Any,
    cells: Any,
    same_cube: Any,
) -> None:
    former = alpage.run(study_of("snow", period=BEFORE, grid=GRID)).snapshot
    study = study_of("snow", grid=GRID, cluster={"workers": 1, "memory_gib": 2})
    reader = watch(study.cube)
    moments = random.Random(SEED)
    orphans = []
    for _ in range(COORDINATOR_KILLS):
        run = start(study)
        assert run.wait_for("planned") == "planned"
        # Some die while the cluster starts, the others among the blocks.
        for _ in range(moments.choice((0, 1, 2, 3, 5))):
            assert run.wait_for("block") == "block"
        time.sleep(moments.uniform(0, 0.2))
        # The next run starts while the workers of this one are still about.
        orphans += run.kill()
        with held(study.cube):
            assert CubeStore.open(study.cube).tip() == former
    start(study).end()
    assert_gone(orphans)
    reader.finish()
    final = cells(study.cube)
    same_cube(undisturbed["whole"], final)
    assert not reader.refused
    assert former in reader.seen
    assert len(reader.seen) <= 2
    for snapshot, arrays in reader.seen.items():
        whole = cells(study.cube, snapshot=snapshot) if snapshot == former else final
        for path, array in arrays.items():
            np.testing.assert_array_equal(array, whole.arrays[path], err_msg=path)
    assert CubeStore.open(study.cube).branches() == {MAIN}
    assert alpage.run(study_of("snow", grid=GRID)).n_blocks == 0


@pytest.mark.parametrize(
    ("at", "is_published"),
    [
        pytest.param("alpage.cube.store CubeStore create after", False, id="cube-made"),
        pytest.param("alpage.cube.store CubeStore start_branch after", False, id="branch-made"),
        pytest.param("alpage.engine.run Run __init__ before", False, id="laid-out"),
        pytest.param("alpage.engine.run Run _commit before", False, id="before-first-commit"),
        pytest.param("alpage.engine.run Run _commit after", False, id="after-first-commit"),
        pytest.param("alpage.cube.store CubeStore publish before", False, id="before-publishing"),
        pytest.param("alpage.cube.store CubeStore drop_branch before", True, id="published"),
    ],
)
def test_no_moment_is_a_bad_one(
    at: str,
    is_published: bool,
    study_of: Callable[..., Study],
    undisturbed: dict[str, Any],
    start: Any,
    cells: Any,
    same_cube: Any,
) -> None:
    study = study_of("snow", period=BEFORE, grid=GRID)
    run = start(study, *at.split())
    assert run.wait_for("done") == "ended"
    assert run.process.wait(PATIENCE_S) == -9
    if not is_published:
        with pytest.raises(CubeError):
            alpage.open_cube(study.cube)
    alpage.run(study)
    same_cube(undisturbed["before"], cells(study.cube))
    assert alpage.run(study).n_blocks == 0
    assert len(alpage.history(study.cube)) == 1
    assert not alpage.status(study)["unfinished_runs"]


def test_a_scheduler_that_forgets_its_blocks_ends_the_run_by_name(
    study_of: Callable[..., Study], cells: Any, same_cube: Any
) -> None:
    with open_cluster(ClusterChoice(workers=2, memory_gib=3)) as client:
        address = client.scheduler.address
        cluster = {"kind": "address", "address": address}
        fresh = study_of("monthly_ndvi", "fresh", cluster=cluster, grid=GRID)
        alpage.run(fresh)
        study = study_of("monthly_ndvi", "forgotten", cluster=cluster, grid=GRID)

        def forget(_: Progress) -> None:
            if not forgotten:
                with Client(address, set_as_default=False) as other:
                    other.restart()
                forgotten.append(True)

        forgotten: list[bool] = []
        with pytest.raises(ClusterError, match="its scheduler went away while the run went on"):
            alpage.run(study, on_progress=forget)
        alpage.run(study)
    same_cube(cells(study.cube), cells(fresh.cube))
