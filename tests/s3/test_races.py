"""Two runs on one cube on S3, where nothing is locked: nothing is lost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import alpage
from alpage.cube.store import MAIN, CubeStore
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
found = verbs.search(study)
print("ready", flush=True)
sys.stdin.readline()
try:
    print("done", verbs.run(study, found).snapshot)
except CubeBusy as busy:
    print("busy", busy)
"""


class Runner:
    """A run in a process of its own that begins when it is told."""

    def __init__(self, study: Study, path: Path) -> None:
        path.write_text(yaml.safe_dump(study.resolved().model_dump(mode="json")))
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(path), str(study.folder)],
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


def race(*studies: Study, folder: Path) -> list[str]:
    """Run studies at once; gives what each came to."""
    runners = [Runner(study, folder / f"{n}.yaml") for n, study in enumerate(studies)]
    try:
        for runner in runners:
            runner.wait()
        for runner in runners:
            runner.begin()
        return [runner.end() for runner in runners]
    finally:
        for runner in runners:
            runner.close()


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
