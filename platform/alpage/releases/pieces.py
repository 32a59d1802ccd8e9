"""The heavy part of a release in pieces, which threads here or the workers of a cluster write."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import zarr
from distributed import Client, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from alpage.cube.store import CubeStore
from alpage.engine.report import Pace
from alpage.engine.workers import workers_of
from alpage.errors import ClusterError
from alpage.releases.contents import Contents, read_contents
from alpage.releases.shelf import Shelf, shelf_at

AHEAD = 2
"""Pieces at the cluster for each thread: one that it writes, and one that waits there."""
TRIES = 2
"""How often a worker begins a piece that failed."""


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
        list(pool.map(lambda piece: piece.write(place), pieces))


def write_on(client: Client, pieces: list[Piece], address: Address, pace: Pace) -> None:
    """Write pieces by the workers of a cluster; raises the first failure.

    The scheduler is given as many as keep its workers busy; workers may come and go.
    """
    flying = as_completed()
    try:
        for number, piece in enumerate(pieces):
            pace.tasks = len(pieces) - number + flying.count()
            while flying.count() >= AHEAD * max(_threads_of(client), 1):
                next(flying).result()
            flying.add(client.submit(_write, piece, address, pure=False, retries=TRIES - 1))
        for future in flying:
            pace.tasks = flying.count()
            future.result()
    except KilledWorker as error:
        raise ClusterError(
            "release: each worker that wrote a piece of it ended. Most often they passed their "
            "memory limit: raise cluster.memory_gib. Readers see what they saw; release again"
        ) from error
    except (OSError, FutureCancelledError) as error:
        raise ClusterError(
            "release: the cluster's scheduler went away while it was written; readers see what "
            "they saw, release again"
        ) from error
    finally:
        flying.clear()


def _threads_of(client: Client) -> int:
    return sum(worker["nthreads"] for worker in workers_of(client).values())


def _write(piece: Piece, address: Address) -> None:
    piece.write(_opened(address))


@lru_cache(maxsize=1)
def _opened(address: Address) -> Place:
    root = CubeStore.open(address.cube).read(snapshot=address.snapshot)
    return Place.of(root, shelf_at(address.shelf), address.target)
