"""Pieces of a release: the same however they are cut, and whoever writes them."""

import os
from functools import partial
from pathlib import Path

import pytest

from alpage.clusters import open_cluster
from alpage.engine.report import Pace
from alpage.errors import ClusterError, CubeError
from alpage.releases import publish as publishing
from alpage.releases import pyramid
from alpage.releases.pieces import Address, write_on
from alpage.releases.publish import Release, Workers, publish_release
from alpage.study import ClusterChoice

from .conftest import ABOUT, Published

local = partial(open_cluster, ClusterChoice(workers=2, memory_gib=1))


def store_of(folder: str) -> dict[str, bytes]:
    """What every file of a release's store holds, by its path."""
    store = Path(folder)
    files = [path for path in store.rglob("*") if path.is_file()]
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def publish_again(published: Published, folder: Path, workers: Workers | None = None) -> Release:
    """The same snapshot, published to another place."""
    return publish_release(
        published.cube,
        published.snapshot,
        str(folder),
        scenes=None,
        about=ABOUT,
        workers=workers,
    )


def test_pieces_of_one_level_make_the_same_pyramid(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "LEVELS", 1)
    again = publish_again(published, tmp_path)
    assert store_of(again.store) == store_of(published.store)


def test_workers_write_what_threads_do(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "LARGE_BYTES", 0)
    paces: list[Pace] = []

    def workers(pace: Pace):
        paces.append(pace)
        return local(pace)

    again = publish_again(published, tmp_path, workers)
    assert store_of(again.store) == store_of(published.store)
    assert [pace.tasks for pace in paces] == [0]


def test_a_small_release_opens_no_cluster(published: Published, tmp_path: Path) -> None:
    def workers(pace: Pace):
        raise AssertionError("a cluster for a handful of shards")

    publish_again(published, tmp_path, workers)


PIECES = """
import os
from alpage.errors import CubeError

class Deadly:
    def write(self, place):
        os._exit(1)

class Damaged:
    def write(self, place):
        raise CubeError("cube: the index of day/ndvi/c/0/0/0 is damaged")
"""


def test_what_fails_on_a_worker_is_told(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pieces_of_this_test.py").write_text(PIECES)
    monkeypatch.syspath_prepend(tmp_path)
    # Workers are processes of their own.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    import pieces_of_this_test as pieces

    address = Address(published.cube, published.snapshot, str(tmp_path), "release/cube.zarr")
    with local(Pace()) as client:
        with pytest.raises(CubeError, match="index of day/ndvi/c/0/0/0 is damaged"):
            write_on(client, [pieces.Damaged()], address, Pace())
        with pytest.raises(ClusterError, match=r"raise cluster\.memory_gib.*release again"):
            write_on(client, [pieces.Deadly()], address, Pace())
