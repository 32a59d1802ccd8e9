"""Two runs on one cube on S3, where nothing is locked: nothing is lost."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import icechunk
import pytest
import yaml
import zarr

import alpage
from alpage.cube.part import Part
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.report import Progress
from alpage.errors import CubeBusy
from alpage.study import Study

PATIENCE_S = 120
PERIODS = {
    "middle": "2022-01-20/2022-02-10",
    "early": "2021-12-05/2022-02-10",
    "late": "2022-01-20/2022-04-10",
    "whole": "2021-12-05/2022-04-10",
}
DRIVER = """
import sys
from pathlib import Path
import yaml
from alpage import verbs
from alpage.errors import CubeBusy
from alpage.study import make_study

study = make_study(yaml.safe_load(Path(sys.argv[1]).read_text()), folder=Path(sys.argv[2]))
found, part = verbs.search(study), sys.argv[3] or None
print("ready", flush=True)
sys.stdin.readline()
try:
    print("done", verbs.run(study, found, part=part).snapshot)
except CubeBusy as busy:
    print("busy", busy)
"""


class Runner:
    """A run in a process of its own that begins when it is told."""

    def __init__(self, study: Study, path: Path, part: str = "") -> None:
        path.write_text(yaml.safe_dump(study.resolved().model_dump(mode="json")))
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(path), str(study.folder), part],
            env=os.environ | ({"ALPAGE_COMMIT_BLOCKS": "1"} if part else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> str:
        """Return what it came to: done and the snapshot, or busy and why."""
        out, err = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0, err
        return out.strip()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def race(*studies: Study, folder: Path, parts: Sequence[str] = ("", "")) -> list[str]:
    """Run studies, or parts of them, at once; gives what each came to."""
    runners = [
        Runner(study, folder / f"{n}.yaml", part)
        for n, (study, part) in enumerate(zip(studies, parts, strict=True))
    ]
    try:
        for runner in runners:
            runner.wait()
        for runner in runners:
            runner.begin()
        return [runner.end() for runner in runners]
    finally:
        for runner in runners:
            runner.close()


def test_of_many_that_make_a_cube_at_once_one_does(s3: Any) -> None:
    rivals, rounds = 4, 8
    start = threading.Barrier(rivals)

    def make(url: str) -> str:
        start.wait()
        try:
            return CubeStore.create(url).tip()
        except CubeBusy:
            return "busy"

    with ThreadPoolExecutor(rivals) as pool:
        for n in range(rounds):
            url = f"{s3.url}/cube-{n}"
            came = sorted(pool.map(make, [url] * rivals))
            assert came == [CubeStore.open(url).tip(), *["busy"] * (rivals - 1)]


@pytest.mark.parametrize(
    ("begun", "rivals"),
    [
        pytest.param(False, ("whole", "whole"), id="making-the-cube"),
        pytest.param(True, ("whole", "whole"), id="one-study"),
        pytest.param(True, ("early", "late"), id="two-studies"),
    ],
)
def test_runs_at_once_lose_nothing(
    begun: bool,
    rivals: tuple[str, str],
    s3: Any,
    study_of: Callable[..., Study],
    same_cube: Callable[[str, str], None],
    tmp_path: Path,
) -> None:
    cube = f"{s3.url}/cube"
    studies = {name: study_of("monthly_ndvi", cube, period=PERIODS[name]) for name in PERIODS}
    if begun:
        alpage.run(studies["middle"])
    came = race(*(studies[name] for name in rivals), folder=tmp_path)
    assert any(one.startswith("done") for one in came), came
    assert all(one.startswith("done") or "run again" in one for one in came), came
    # Whoever was told "done" has been seen by readers.
    seen = {version.snapshot for version in CubeStore.open(cube).versions()}
    assert {one.split()[1] for one in came if one.startswith("done")} <= seen

    for name in dict.fromkeys((*rivals, "whole")):
        alpage.run(studies[name])
    assert alpage.run(studies["whole"]).n_blocks == 0
    fresh = study_of("monthly_ndvi", str(tmp_path / "cube"))
    alpage.run(fresh)
    same_cube(cube, fresh.cube)
    assert CubeStore.open(cube).branches() == {MAIN}


@pytest.mark.parametrize(
    "begun", [pytest.param(False, id="making-the-cube"), pytest.param(True, id="growing-it")]
)
def test_parts_that_begin_at_once_make_one_cube(
    begun: bool,
    s3: Any,
    study_of: Callable[..., Study],
    same_cube: Callable[[str, str], None],
    tmp_path: Path,
) -> None:
    cube = f"{s3.url}/cube"
    study = study_of("monthly_ndvi", cube, period=PERIODS["whole"])
    shown = alpage.run(study_of("monthly_ndvi", cube, period=PERIODS["middle"])) if begun else None
    parts = ("1/3", "2/3", "3/3")
    came = race(study, study, study, folder=tmp_path, parts=parts)
    assert came == ["done None"] * 3
    assert [one.snapshot for one in CubeStore.open(cube).versions()] == (
        [shown.snapshot] if shown else []
    )
    assert alpage.run(study).n_blocks == 0
    fresh = study_of("monthly_ndvi", str(tmp_path / "cube"))
    alpage.run(fresh)
    same_cube(cube, fresh.cube)
    assert CubeStore.open(cube).branches() == {MAIN}


def test_of_one_part_twice_one_is_told(
    s3: Any,
    study_of: Callable[..., Study],
    same_cube: Callable[[str, str], None],
    tmp_path: Path,
) -> None:
    cube = f"{s3.url}/cube"
    study = study_of("monthly_ndvi", cube)
    came = race(study, study, folder=tmp_path, parts=("1/2", "1/2"))
    assert "done None" in came, came
    assert all(one == "done None" or "of part 1/2, works on" in one for one in came), came
    assert alpage.run(study, part="1/2").n_blocks == 0
    assert alpage.run(study, part="2/2").n_blocks > 0
    assert alpage.run(study).n_blocks == 0
    fresh = study_of("monthly_ndvi", str(tmp_path / "cube"))
    alpage.run(fresh)
    same_cube(cube, fresh.cube)


@pytest.mark.parametrize("other", [None, "1/2", "2/3"])
def test_a_part_that_another_run_takes_over_is_told(
    other: str | None,
    s3: Any,
    study_of: Callable[..., Study],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALPAGE_COMMIT_BLOCKS", "1")
    study = study_of("monthly_ndvi", f"{s3.url}/cube")
    reports = []

    def take_over(_: Progress) -> None:
        if not reports:
            reports.append(alpage.run(study, part=other))

    with pytest.raises(CubeBusy, match=r"another run of this study.* run again"):
        alpage.run(study, part="1/2", on_progress=take_over)
    assert reports[0].n_blocks > 0
    alpage.run(study)
    assert alpage.run(study).n_blocks == 0


def test_parts_that_write_to_one_chunk_lose_nothing(s3: Any) -> None:
    url, branch = f"{s3.url}/cube", "run-1"
    first, second = CubeStore.create(url), CubeStore.open(url)
    base = first.tip()
    for number, store in enumerate((first, second), 1):
        store.share(branch, base, Part(number, 2))
    first.commit(branch, "layout", _make)
    tries = []

    def change(session: icechunk.Session) -> None:
        _set(session, slice(0, 4))
        tries.append(session.snapshot_id)
        if len(tries) == 1:
            second.commit(branch, "second", lambda beside: _set(beside, slice(4, 8)))

    first.commit(branch, "first", change)
    assert len(tries) == 2
    assert first.read(branch=branch)["rows"][:].tolist() == [1] * 8
    history = [one.message for one in first.repository.ancestry(branch=branch)]
    assert history[:3] == ["first", "second", "layout"]


def _make(session: icechunk.Session) -> None:
    zarr.create_group(session.store).create_array(
        "rows", shape=(8,), chunks=(8,), dtype="int8", fill_value=0
    )


def _set(session: icechunk.Session, rows: slice) -> None:
    zarr.open_group(session.store, mode="r+")["rows"][rows] = 1
