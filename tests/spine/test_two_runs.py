"""Two runs on one cube: one wins, the other is told, and nothing is lost."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import icechunk
import pytest
import zarr

import alpage
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.report import Progress
from alpage.errors import CubeBusy
from alpage.study import Study

PATIENCE_S = 240
EARLIER = "2021-07-20/2022-01-20"
# Told outright: a cube that begins with fewer scenes may find another CRS in the majority.
GRID = {"crs": "EPSG:32632", "resolution": 10, "tile_px": 48, "window_days": 96}


class Paused:
    """A run in a thread that stops at its first block until it is let go."""

    def __init__(self, study: Study) -> None:
        self.is_at_work = threading.Event()
        self.go_on = threading.Event()
        self.failure: BaseException | None = None
        self._study = study
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            alpage.run(self._study, on_progress=self._wait)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            self.failure = error

    def _wait(self, _: Progress) -> None:
        self.is_at_work.set()
        self.go_on.wait(PATIENCE_S)

    def end(self) -> BaseException | None:
        """Let the run go on and return what it failed with."""
        self.go_on.set()
        self._thread.join(PATIENCE_S)
        return self.failure


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cubes without the lock of local folders, as on an object store."""
    monkeypatch.setattr("alpage.verbs.held", lambda *_: contextlib.nullcontext())


def test_a_second_run_on_a_local_cube_is_told_to_wait(
    study_of: Callable[..., Study], cells: Any, same_cube: Any
) -> None:
    study = study_of("monthly_ndvi")
    first = Paused(study)
    assert first.is_at_work.wait(PATIENCE_S)
    for second in (study, study_of("monthly_ndvi", period=EARLIER)):
        with pytest.raises(CubeBusy, match=r"another run on this machine holds .*cube; wait"):
            alpage.run(second)
    with pytest.raises(CubeBusy, match="another run"):
        alpage.rollback(study.cube)
    assert first.end() is None
    assert alpage.run(study).n_blocks == 0
    fresh = study_of("monthly_ndvi", "fresh")
    alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))


def test_main_is_never_overwritten(study_of: Callable[..., Study]) -> None:
    study = study_of("monthly_ndvi", period=EARLIER)
    alpage.run(study)
    store = CubeStore.open(study.cube)
    base = store.tip()
    for name in ("one", "other"):
        store.start_branch(name, base)

        def sign(session: icechunk.Session, name: str = name) -> None:
            zarr.open_group(session.store, mode="r+").attrs["by"] = name

        store.commit(name, name, sign)
    shown = store.publish("one", expected=base)
    with pytest.raises(CubeBusy, match="published by another run meanwhile; run again"):
        store.publish("other", expected=base)
    assert store.tip() == shown
    assert store.read().attrs["by"] == "one"
    assert store.branches() == {MAIN, "other"}


@pytest.mark.usefixtures("unlocked")
def test_the_run_that_publishes_later_begins_again(
    study_of: Callable[..., Study], cells: Any, same_cube: Any
) -> None:
    alpage.run(study_of("monthly_ndvi", period="2021-11-10/2022-01-20", grid=GRID))
    slow = study_of("monthly_ndvi", grid=GRID)
    quick = study_of("monthly_ndvi", period=EARLIER, grid=GRID)
    first = Paused(slow)
    assert first.is_at_work.wait(PATIENCE_S)
    shown = alpage.run(quick).snapshot
    failure = first.end()
    assert isinstance(failure, CubeBusy), failure
    assert alpage.open_cube(slow.cube).snapshot == shown
    alpage.run(slow)
    fresh = study_of("monthly_ndvi", "fresh", grid=GRID)
    alpage.run(fresh)
    same_cube(cells(slow.cube), cells(fresh.cube))


@pytest.mark.usefixtures("unlocked")
def test_two_runs_of_one_study_do_not_mix(
    study_of: Callable[..., Study], cells: Any, same_cube: Any
) -> None:
    study = study_of("monthly_ndvi")
    first = Paused(study)
    assert first.is_at_work.wait(PATIENCE_S)
    shown = alpage.run(study).snapshot
    failure = first.end()
    assert isinstance(failure, CubeBusy), failure
    assert alpage.open_cube(study.cube).snapshot == shown
    assert alpage.run(study).n_blocks == 0
    fresh = study_of("monthly_ndvi", "fresh")
    alpage.run(fresh)
    same_cube(cells(study.cube), cells(fresh.cube))
