"""A small valley, a cluster that all tests of the spine share, and cubes as plain arrays."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alpage.clusters import open_cluster
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.report import RunReport
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import Valley, simulate
from alpage.study import ClusterChoice, Study, make_study
from alpage.verbs import run

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
CALENDARS = ("day", "dekad", "month", "season", "year")

# Fourteen dates over a change of season, of year and of processing baseline.
SPEC = ValleySpec(
    size_px=128, start=date(2021, 7, 20), end=date(2022, 4, 10), revisit_days=20, block_px=128
)
WHOLE = "2021-07-20/2022-04-10"


@dataclass(frozen=True)
class Cells:
    """Every array of a cube at one snapshot, by path."""

    arrays: dict[str, NDArray[Any]]
    fills: dict[str, Any]

    def values(self) -> tuple[str, ...]:
        """Paths of the layers and of the series."""
        return tuple(
            path
            for path, array in sorted(self.arrays.items())
            if (path.split("/")[0] in CALENDARS and array.ndim == 3)
            or (path.startswith("zones/") and array.ndim == 2)
        )

    def on_slots(self, path: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """A layer's or series' slots, and its array with time first."""
        times = self.arrays[f"{path.rsplit('/', 1)[0]}/time"]
        array = self.arrays[path]
        return times, np.moveaxis(array, -1, 0) if path.startswith("zones/") else array


def read_cells(cube: str, *, branch: str = MAIN, snapshot: str | None = None) -> Cells:
    """Read the whole cube."""
    root = CubeStore.open(cube).read(branch=branch, snapshot=snapshot)
    found = {path: node for path, node in root.members(max_depth=None) if hasattr(node, "dtype")}
    return Cells(
        {path: np.asarray(node[...]) for path, node in found.items()},
        {path: node.fill_value for path, node in found.items()},
    )


def assert_same_values(one: Cells, other: Cells) -> None:
    """Layers and series agree on the slots of both, and are empty on those of one alone."""
    assert one.values() == other.values()
    for path in one.values():
        (times, array), (other_times, other_array) = one.on_slots(path), other.on_slots(path)
        _, mine, theirs = np.intersect1d(times, other_times, return_indices=True)
        assert mine.size, path
        np.testing.assert_array_equal(array[mine], other_array[theirs], err_msg=path)
        for left, alone in ((array, mine), (other_array, theirs)):
            rest = np.delete(left, alone, axis=0)
            np.testing.assert_array_equal(rest, np.full_like(rest, one.fills[path]), err_msg=path)


def assert_same_cube(one: Cells, other: Cells) -> None:
    """Every array is the same, the record as well; only what blocks cost may differ."""
    assert sorted(one.arrays) == sorted(other.arrays)
    for path, array in one.arrays.items():
        if not path.endswith("/cost"):
            np.testing.assert_array_equal(array, other.arrays[path], err_msg=path)


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> Valley:
    """A valley of 1280 m and fourteen dates; read only."""
    return simulate(tmp_path_factory.mktemp("valley"), SPEC)


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every test's own valley lies, one after the other."""
    return tmp_path_factory.mktemp("ground") / "valley"


@pytest.fixture
def own_valley(valley: Valley, ground: Path) -> Iterator[Valley]:
    """A copy of the valley whose archive a test may change."""
    yield Valley(Path(shutil.copytree(valley.folder, ground)), valley.spec)
    shutil.rmtree(ground)


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """The address of a cluster of two workers."""
    with open_cluster(ClusterChoice(workers=2, memory_gib=3)) as client:
        yield client.scheduler.address


StudyOf = Callable[..., Study]


@pytest.fixture(scope="session")
def studies_in(valley: Valley, scheduler: str) -> Callable[[Path], StudyOf]:
    """A function that gives, for the folder of the cubes, what `study_of` is."""

    def within(folder: Path) -> StudyOf:
        def make(product: str, cube: str = "cube", *, of: Valley = valley, **changed: Any) -> Study:
            content = {
                "product": "monthly_ndvi:product" if product == "monthly_ndvi" else product,
                "area": {"bbox": of.bbox},
                "period": WHOLE,
                "archive": str(of.collection),
                "cube": str(folder / cube),
                "zones": str(of.zones),
                "dem": str(of.dem) if product == "snow" else None,
                "grid": {"tile_px": 48, "window_days": 96},
                "cluster": {"kind": "address", "address": scheduler},
            }
            return make_study(content | changed, folder=EXAMPLES)

        return make

    return within


@pytest.fixture
def study_of(studies_in: Callable[[Path], StudyOf], tmp_path: Path) -> StudyOf:
    """A function that makes a study of the valley: product, name of the cube, changed keys."""
    return studies_in(tmp_path)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[RunReport]]]:
    """A function that gives, by name, a folder and the report of the run that filled it."""
    found: dict[str, tuple[Path, list[RunReport]]] = {}

    def keep(name: str) -> tuple[Path, list[RunReport]]:
        return found.setdefault(name, (tmp_path_factory.mktemp("kept"), []))

    return keep


@pytest.fixture
def built(
    own_valley: Valley,
    studies_in: Callable[[Path], StudyOf],
    study_of: StudyOf,
    kept: Callable[[str], tuple[Path, list[RunReport]]],
    tmp_path: Path,
) -> Callable[..., tuple[Study, RunReport]]:
    """A function that gives a study of the test's own valley, yet unchanged, whose cube is built.

    A cube is computed once; every test has a copy of it.
    """

    def build(product: str, cube: str = "cube", **changed: Any) -> tuple[Study, RunReport]:
        folder, reports = kept(json.dumps([product, cube, changed]))
        if not reports:
            reports.append(run(studies_in(folder)(product, cube, of=own_valley, **changed)))
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return study_of(product, cube, of=own_valley, **changed), reports[0]

    return build


@pytest.fixture(scope="session")
def cells() -> Callable[..., Cells]:
    return read_cells


@pytest.fixture(scope="session")
def same_values() -> Callable[[Cells, Cells], None]:
    return assert_same_values


@pytest.fixture(scope="session")
def same_cube() -> Callable[[Cells, Cells], None]:
    return assert_same_cube
