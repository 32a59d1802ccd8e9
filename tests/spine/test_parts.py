"""Parts of a run side by side, each a process with a cluster of its own, and a run that joins."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import alpage
from alpage.cube.store import MAIN, CubeStore
from alpage.errors import CubeBusy, CubeError, LimitReached, StudyError
from alpage.simulate.valley import Valley, add_late_scene
from alpage.study import Study

pytestmark = pytest.mark.slow

PATIENCE_S = 240
# Told outright: the archive's majority decides otherwise, and some tests change the archive.
GRID = {"crs": "EPSG:32632", "resolution": 20, "tile_px": 24, "window_days": 96}
TILES = 9
EARLIER = "2021-11-10/2022-01-20"
CLUSTER = {"workers": 1, "memory_gib": 2}
# Waits at its first block until it is told to go on.
DRIVER = """
import sys
from pathlib import Path
import yaml
from alpage import verbs
from alpage.errors import AlpageError
from alpage.study import make_study

path, folder, part = sys.argv[1:]
study = make_study(yaml.safe_load(Path(path).read_text()), folder=Path(folder))
told = False

def wait(_):
    global told
    print("block", flush=True)
    if not told:
        told = bool(sys.stdin.readline())

try:
    report = verbs.run(study, part=part, on_progress=wait)
except AlpageError as error:
    sys.exit(str(error))
print("done", report.n_blocks, report.snapshot, flush=True)
"""


class Worker:
    """A run of one part in a process of its own."""

    def __init__(self, study: Study, part: str, folder: Path) -> None:
        path = folder / f"{part.replace('/', '-of-')}.yaml"
        path.write_text(yaml.safe_dump(study.resolved().model_dump(mode="json")))
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(path), str(study.folder), part],
            # Few blocks in a commit, so that the parts' commits meet.
            env=os.environ | {"ALPAGE_COMMIT_BLOCKS": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for_block(self) -> None:
        """Return when a block is done."""
        line = self.read()
        assert line == "block", self.process.communicate()[1]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Wait for the part to end well; gives what it says."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, err
        return out.splitlines()[-1]

    def refusal(self) -> str:
        """Wait for the part to be refused; gives the sentence."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 1, err
        return err.strip()


Start = Callable[[Study, str], Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a part; what is still at work when the test ends is killed."""
    workers: list[Worker] = []

    def begin(study: Study, part: str) -> Worker:
        workers.append(Worker(study, part, tmp_path))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


def side_by_side(start: Start, study: Study, *parts: str) -> list[str]:
    """Run parts that are all at work before one of them ends; gives what they say."""
    workers = [start(study, part) for part in parts]
    for worker in workers:
        worker.wait_for_block()
    for worker in workers:
        worker.go_on()
    return [worker.end() for worker in workers]


def kept_headers(study: Study) -> list[tuple[str, str]]:
    """Scene and band of every header that is kept beside a study's cube."""
    (path,) = Path(f"{study.locate(study.cube)}.scenes").glob("*.headers")
    rows = pq.read_table(path, columns=["scene", "band"]).to_pylist()
    return sorted((row["scene"], row["band"]) for row in rows)


@pytest.mark.parametrize("product", ["snow", "vegetation"])
def test_parts_and_a_joining_run_make_the_cube_of_one_run(
    product: str,
    study_of: Callable[..., Study],
    start: Start,
    cells: Any,
    same_cube: Any,
) -> None:
    study = study_of(product, grid=GRID, cluster=CLUSTER)
    ends = side_by_side(start, study, "1/2", "2/2")
    assert all(end.startswith("done ") and end.endswith(" None") for end in ends), ends
    with pytest.raises(CubeError):
        alpage.open_cube(study.cube)
    assert alpage.run(study, part="2/2").n_blocks == 0

    joined = alpage.run(study_of(product, grid=GRID))
    fresh = study_of(product, "fresh", grid=GRID)
    whole = alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))
    # No block was done twice.
    assert sum(int(end.split()[1]) for end in ends) + joined.n_blocks == whole.n_blocks
    assert joined.blocks.get("observe", 0) == 0
    assert kept_headers(study) == kept_headers(fresh)
    assert CubeStore.open(study.cube).branches() == {MAIN}
    assert len(alpage.history(study.cube)) == 1
    assert alpage.run(study, part="1/2").n_blocks == 0


def test_a_killed_part_is_resumed_alone(
    study_of: Callable[..., Study], start: Start, cells: Any, same_cube: Any
) -> None:
    study = study_of("monthly_ndvi", grid=GRID, cluster=CLUSTER)
    killed, other = start(study, "1/2"), start(study, "2/2")
    for worker in (killed, other):
        worker.wait_for_block()
        worker.go_on()
    killed.wait_for_block()
    killed.wait_for_block()
    killed.process.kill()
    done = int(other.end().split()[1])
    killed.process.communicate()
    with pytest.raises(CubeError):
        alpage.open_cube(study.cube)

    resumed = start(study, "1/2")
    resumed.wait_for_block()
    resumed.go_on()
    again = int(resumed.end().split()[1])
    joined = alpage.run(study_of("monthly_ndvi", grid=GRID))
    fresh = study_of("monthly_ndvi", "fresh", grid=GRID)
    whole = alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))
    assert joined.n_blocks == 0
    # What was committed before it was killed is not done again.
    assert done + again < whole.n_blocks


def test_parts_bring_a_cube_up_to_date(
    own_valley: Valley,
    built: Callable[..., Any],
    study_of: Callable[..., Study],
    start: Start,
    cells: Any,
    same_cube: Any,
) -> None:
    _, first = built("snow", grid=GRID, period=EARLIER)
    add_late_scene(own_valley)
    study = study_of("snow", of=own_valley, grid=GRID, cluster=CLUSTER)
    before = cells(study.cube)
    side_by_side(start, study, "1/3", "2/3", "3/3")
    assert alpage.open_cube(study.cube).snapshot == first.snapshot
    now = cells(study.cube)
    assert sorted(now.arrays) == sorted(before.arrays)
    for path, array in now.arrays.items():
        np.testing.assert_array_equal(array, before.arrays[path], err_msg=path)

    joined = alpage.run(study_of("snow", of=own_valley, grid=GRID))
    assert "observe" not in joined.blocks
    fresh = study_of("snow", "fresh", of=own_valley, grid=GRID)
    alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))
    assert [one["snapshot"] for one in alpage.history(study.cube)] == [
        joined.snapshot,
        first.snapshot,
    ]


def test_a_scene_that_parts_find_bad_is_left_out_of_the_whole(
    own_valley: Valley, study_of: Callable[..., Study], start: Start, cells: Any, same_cube: Any
) -> None:
    bad = sorted(own_valley.archive.glob("items/*/*/B04.tif"))[3]
    data = bytearray(bad.read_bytes())
    # Only who decodes its pixels can see it.
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    bad.write_bytes(data)
    study = study_of("monthly_ndvi", of=own_valley, grid=GRID, cluster=CLUSTER)
    side_by_side(start, study, "1/2", "2/2")
    joined = alpage.run(study_of("monthly_ndvi", of=own_valley, grid=GRID))
    fresh = study_of("monthly_ndvi", "fresh", of=own_valley, grid=GRID)
    whole = alpage.run(fresh)
    assert list(joined.quarantined) == list(whole.quarantined) == [bad.parents[1].name]
    same_cube(cells(study.cube), cells(fresh.cube))


def test_what_has_tiles_in_common_with_a_part_at_work_is_refused(
    study_of: Callable[..., Study], start: Start
) -> None:
    study = study_of("monthly_ndvi", grid=GRID, cluster=CLUSTER)
    worker = start(study, "1/2")
    worker.wait_for_block()
    at_work = r"at work on .*cube, part 1/2 is, on this machine; wait for it or stop it"
    assert "expected only other parts of 2 at work on" in start(study, "1/2").refusal()
    for part, expected in (("1/2", "other parts of 2"), ("1/3", "other parts of 3")):
        with pytest.raises(CubeBusy, match=f"expected only {expected} {at_work}"):
            alpage.run(study, part=part)
    with pytest.raises(CubeBusy, match=f"expected no part {at_work}"):
        alpage.run(study)
    with pytest.raises(CubeBusy, match=f"expected no part {at_work}"):
        alpage.rollback(study.cube)
    worker.go_on()
    worker.end()
    assert alpage.run(study, part="1/2").n_blocks == 0
    assert alpage.run(study, part="1/3").n_blocks == 0


def test_a_part_beside_a_whole_run_is_refused(study_of: Callable[..., Study]) -> None:
    study = study_of("monthly_ndvi", grid=GRID)
    refusals = []

    def try_part(_: Any) -> None:
        if not refusals:
            with pytest.raises(CubeBusy, match=r"another run on this machine holds .*cube; wait"):
                alpage.run(study, part="1/2")
            refusals.append(True)

    alpage.run(study, on_progress=try_part)
    assert refusals


@pytest.mark.parametrize(
    ("part", "told"),
    [
        pytest.param("0/2", "one from 1/2 to 2/2, got 0/2", id="zero"),
        pytest.param("3/2", "one from 1/2 to 2/2, got 3/2", id="beyond"),
        pytest.param("1/0", "such as 2/4, the second of four, got '1/0'", id="of-none"),
        pytest.param("-1/2", "such as 2/4, the second of four, got '-1/2'", id="negative"),
        pytest.param("half", "such as 2/4, the second of four, got 'half'", id="word"),
        pytest.param("1/10", "at most 9 parts, one for each tile of the area, got 10", id="many"),
    ],
)
def test_a_part_that_cannot_be_is_refused(
    part: str, told: str, study_of: Callable[..., Study]
) -> None:
    study = study_of("monthly_ndvi", grid=GRID)
    for verb in (alpage.plan, alpage.run):
        with pytest.raises(StudyError, match=f"part: expected .*{told}"):
            verb(study, part=part)
    assert not Path(study.locate(study.cube)).exists()


def test_a_part_is_billed_alone(study_of: Callable[..., Study]) -> None:
    study = study_of("vegetation", grid=GRID)
    whole = alpage.plan(study).bill
    parts = [alpage.plan(study, part=f"{n}/4").bill for n in (1, 2, 3, 4)]
    totals = sum(len(blocks) for step, blocks in whole.blocks.items() if step.endswith("_total"))
    assert totals
    assert sum(bill.n_blocks for bill in parts) == whole.n_blocks - totals
    # Nine tiles with as many blocks each: two, two, two and three of them.
    assert [bill.n_blocks * TILES // (whole.n_blocks - totals) for bill in parts] == [2, 2, 2, 3]
    assert all(bill.read_bytes < whole.read_bytes for bill in parts)

    limited = study_of("vegetation", grid=GRID, limits={"blocks": whole.n_blocks // 2})
    with pytest.raises(LimitReached, match=r"limits\.blocks"):
        alpage.run(limited)
    assert alpage.plan(limited, part="4/4").bill.n_blocks == parts[3].n_blocks
