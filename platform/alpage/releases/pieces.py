"""The heavy part of a release in pieces, which threads here or the workers of a cluster write."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol, Self

import zarr
from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from alpage.cube.shards import ShardShape, shape_of
from alpage.cube.store import CubeStore
from alpage.engine.report import Pace
from alpage.engine.run import OUT_OF_MEMORY
from alpage.engine.workers import Threads
from alpage.errors import ClusterError, StorageError
from alpage.objectstore import is_passing, tries
from alpage.releases.contents import Contents, read_contents
from alpage.releases.shelf import Shelf, shelf_at

AHEAD = 2
"""Pieces at the cluster for each thread: one that it writes, and one that waits there."""


@dataclass(frozen=True)
class Place:
    """A cube's snapshot to read, and where its release is written."""

    root: zarr.Group
    contents: Contents
    shelf: Shelf
    target: str
    """Path of the release's store on the shelf."""

    @classmethod
    def of(cls, root: zarr.Group, shelf: Shelf, target: str) -> Self:
        """Return the place of a snapshot's release."""
        return cls(root, read_contents(root), shelf, target)

    @cached_property
    def cuts(self) -> dict[str, ShardShape]:
        """How the cube's layers are cut, by path: to open an array takes a few requests."""
        return {path: shape_of(self.root[path]) for path in self.contents.layer_paths}


@dataclass(frozen=True)
class Address:
    """What names a place to another process. Keys come from the environment there as here."""

    cube: str
    snapshot: str
    shelf: str
    target: str


class Piece(Protocol):
    """A share of a release that is written alone: again, where it was cut short, as the same."""

    def write(self, place: Place) -> None:
        """Read what it needs of the cube, or of the release, and write its own shards."""


def write_here(pieces: Iterable[Piece], place: Place, n_threads: int) -> None:
    """Write pieces by threads of this process; raises the first failure."""
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(partial(_write, place=place), pieces))


def write_on(client: Client, pieces: list[Piece], address: Address, pace: Pace) -> None:
    """Write pieces by the workers of a cluster; raises the first failure.

    The scheduler is given as many as keep its workers busy; workers may come and go.
    """
    flying, threads = as_completed(), Threads(client)
    try:
        for number, piece in enumerate(pieces):
            pace.tasks = len(pieces) - number + flying.count()
            while flying.count() >= AHEAD * threads.count:
                _landed(next(flying), pace)
            flying.add(client.submit(_write_at, piece, address, pure=False))
        for future in flying:
            pace.tasks = flying.count()
            _landed(future, pace)
    except (OSError, FutureCancelledError) as error:
        raise _scheduler_gone() from error
    finally:
        flying.clear()


def _landed(future: Future, pace: Pace) -> None:
    """Raise what a piece failed with, which is no failure of the cluster but where it is lost."""
    failure = future.exception()
    if failure is None:
        return
    if isinstance(failure, KilledWorker):
        raise ClusterError(
            "release: each worker that wrote a piece of it ended. "
            f"{pace.waiting or OUT_OF_MEMORY}. Readers see what they saw; release again"
        ) from failure
    if isinstance(failure, FutureCancelledError):
        raise _scheduler_gone() from failure
    if isinstance(failure, OSError):
        raise StorageError(f"release: a worker could not write a piece: {failure}") from failure
    raise failure


def _scheduler_gone() -> ClusterError:
    return ClusterError(
        "release: the cluster's scheduler went away while it was written; readers see what they "
        "saw, release again"
    )


def _write_at(piece: Piece, address: Address) -> None:
    _write(piece, _opened(address))


def _write(piece: Piece, place: Place) -> None:
    """Write a piece, again where the store's trouble may pass."""
    for is_last in tries():
        try:
            return piece.write(place)
        except StorageError as error:
            if is_last or not is_passing(error):
                raise
    raise AssertionError("unreachable")


@lru_cache(maxsize=1)
def _opened(address: Address) -> Place:
    root = CubeStore.open(address.cube).read(snapshot=address.snapshot)
    return Place.of(root, shelf_at(address.shelf), address.target)
