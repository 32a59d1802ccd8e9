"""The versioned store of a cube: an Icechunk repository, its branches and its history.

Readers see the branch `main`. A run writes to a branch of its own, which
becomes `main` in one step when its gate has passed.
"""

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import icechunk
import zarr
from filelock import FileLock, Timeout

from alpage.cube.place import is_local, local_path, repository_config, storage_of
from alpage.errors import CubeBusy, CubeError, StorageError
from alpage.objectstore import reason, touch

MAIN = "main"
# Icechunk warns of local folders on stderr at every open; the lock below is the answer to it.
icechunk.set_logs_filter("error")


@dataclass(frozen=True)
class Version:
    """One state of a cube that readers have seen."""

    snapshot: str
    written_at: dt.datetime
    message: str
    metadata: dict[str, Any]


class CubeStore:
    """A cube's repository. Cheap to make; opens the store once."""

    def __init__(self, url: str, repository: icechunk.Repository) -> None:
        self.url = url
        self.repository = repository
        self._planned: dict[str, str] = {}
        """Where a run's branch stood when its work was planned, until it first writes there."""
        self._written: dict[str, str] = {}
        """Where a branch stood when a session to write was last given."""

    @classmethod
    def exists(cls, url: str) -> bool:
        """Return whether there is a cube at a URL."""
        storage = storage_of(url)
        if not is_local(url):
            # Icechunk takes a bucket that is not there for a cube that is not, and long to give up.
            touch(url)
        elif not local_path(url).exists():
            return False
        with reached(url):
            return bool(icechunk.Repository.exists(storage))

    @classmethod
    def open(cls, url: str) -> "CubeStore":
        """Return an existing cube's store.

        Raises CubeError where there is none.
        """
        try:
            if not cls.exists(url):
                raise CubeError(f"cube: there is none at {url}; `alpage run` makes one")
            return cls(url, icechunk.Repository.open(storage_of(url), config=repository_config()))
        except icechunk.IcechunkError as error:
            raise StorageError(f"cube: cannot open {url}: {_brief(url, error)}") from error

    @classmethod
    def create(cls, url: str) -> "CubeStore":
        """Return the store of a new, empty cube.

        Raises CubeBusy where another run makes one there at this moment.
        """
        try:
            if is_local(url):
                local_path(url).mkdir(parents=True, exist_ok=True)
            return cls(url, icechunk.Repository.create(storage_of(url), config=repository_config()))
        except (icechunk.IcechunkError, OSError) as error:
            if isinstance(error, icechunk.ConflictError) or cls.exists(url):
                raise CubeBusy(f"cube: another run began {url} meanwhile; run again") from error
            if "clean prefix" in str(error):
                raise StorageError(
                    f"cube: expected nothing at {url} yet, it holds other objects; name another "
                    "place"
                ) from error
            raise StorageError(f"cube: cannot write to {url}: {_brief(url, error)}") from error

    def tip(self, branch: str = MAIN) -> str:
        """Return the newest snapshot of a branch."""
        with reached(self.url):
            return str(self.repository.lookup_branch(branch))

    def branches(self) -> set[str]:
        """Return the names of all branches."""
        with reached(self.url):
            return set(self.repository.list_branches())

    def unfinished(self) -> set[str]:
        """Return the names of the branches whose work readers do not see yet."""
        main = self.tip()
        return {name for name in self.branches() - {MAIN} if self.tip(name) != main}

    def read(self, *, branch: str = MAIN, snapshot: str | None = None) -> zarr.Group:
        """Return the cube's root group, read-only, at a branch's tip or a snapshot."""
        try:
            if snapshot is not None:
                session = self.repository.readonly_session(snapshot_id=snapshot)
            else:
                session = self.repository.readonly_session(branch)
        except icechunk.IcechunkError as error:
            raise CubeError(
                f"cube: {self.url} has no snapshot {snapshot or branch}: {_brief(self.url, error)}"
            ) from error
        return zarr.open_group(session.store, mode="r")

    def about(self, *, branch: str = MAIN) -> dict[str, Any] | None:
        """Return what the cube says of itself, None where nothing was laid out yet."""
        try:
            return dict(self.read(branch=branch).attrs["alpage"])
        except (FileNotFoundError, KeyError):
            return None

    def continues(self, branch: str) -> bool:
        """Return whether a branch holds unfinished work on top of what readers see now."""
        if branch not in self.unfinished():
            return False
        main = self.tip()
        return any(snapshot.id == main for snapshot in self.repository.ancestry(branch=branch))

    def writable(self, branch: str) -> icechunk.Session:
        """Return a session that writes on top of a branch.

        Raises CubeBusy where another run of the study has finished the branch or begun it anew:
        what was planned and done on the one that was there does not fit any more.
        """
        try:
            session = self.repository.writable_session(branch)
        except icechunk.IcechunkError as error:
            if branch in self.branches():
                raise
            raise CubeBusy(
                f"cube: another run of this study finished {self.url} meanwhile; run again"
            ) from error
        planned, written = self._planned.pop(branch, None), self._written.get(branch)
        if planned not in (None, session.snapshot_id) or not self._descends(session, written):
            raise self._overtaken()
        self._written[branch] = session.snapshot_id
        return session

    def _descends(self, session: icechunk.Session, snapshot: str | None) -> bool:
        found = self.repository.ancestry(snapshot_id=session.snapshot_id)
        return snapshot is None or any(one.id == snapshot for one in found)

    def _overtaken(self) -> CubeBusy:
        return CubeBusy(f"cube: another run of this study works on {self.url}; run again later")

    def begin(self, branch: str, snapshot: str) -> None:
        """Make a run's branch at a snapshot, in place of what an earlier run left by its name.

        Raises CubeBusy where another run does the same at this moment.
        """
        there = self.tip(branch) if branch in self.branches() else None
        try:
            if there not in (None, snapshot):
                self.drop_branch(branch)
            if there != snapshot:
                self.start_branch(branch, snapshot)
        except (icechunk.AlreadyExistsError, icechunk.RefNotFoundError) as error:
            raise self._overtaken() from error
        self._planned[branch] = snapshot

    def resume(self, branch: str, tip: str) -> None:
        """Go on with a branch from the tip that was planned on.

        Raises CubeBusy where another run has written to it since.
        """
        try:
            if self.tip(branch) != tip:
                raise self._overtaken()
            self._planned[branch] = self.unseal(branch)
        except (icechunk.ConflictError, icechunk.RefNotFoundError) as error:
            raise self._overtaken() from error

    def start_branch(self, name: str, snapshot: str) -> None:
        """Make a branch at a snapshot."""
        self.repository.create_branch(name, snapshot)

    def publish(self, branch: str, *, expected: str) -> str:
        """Make a run's branch what readers see, and drop the branch.

        Raises CubeBusy where `main` is no longer the snapshot that the run began on, or another
        run has taken the branch over.
        """
        tip = self.tip(branch)
        if tip == self._written.get(branch):
            raise self._overtaken()
        try:
            self.repository.reset_branch(MAIN, tip, from_snapshot_id=expected)
        except icechunk.ConflictError as error:
            raise CubeBusy(
                f"cube: {self.url} was published by another run meanwhile; run again: what this "
                "run did is kept where it still fits"
            ) from error
        # Another run of the study may have published the same and dropped it.
        with contextlib.suppress(icechunk.RefNotFoundError):
            self.drop_branch(branch)
        return tip

    def move_main(self, snapshot: str, *, expected: str) -> None:
        """Show readers another snapshot."""
        try:
            self.repository.reset_branch(MAIN, snapshot, from_snapshot_id=expected)
        except icechunk.ConflictError as error:
            raise CubeBusy(f"cube: {self.url} changed meanwhile; look at its history") from error

    def unseal(self, branch: str) -> str:
        """Take back the sealing of a run that ended before readers saw it; return the tip.

        History tells of what readers have seen, and the run that goes on seals again.
        """
        tip = next(iter(self.repository.ancestry(branch=branch)))
        if not (tip.metadata or {}).get("published") or tip.parent_id is None:
            return str(tip.id)
        self.repository.reset_branch(branch, tip.parent_id, from_snapshot_id=tip.id)
        return str(tip.parent_id)

    def drop_branch(self, name: str) -> None:
        """Delete a branch; its data are left to garbage collection."""
        self.repository.delete_branch(name)

    def versions(self) -> Iterator[Version]:
        """Yield the states that runs published, newest first."""
        with reached(self.url):
            for snapshot in self.repository.ancestry(branch=MAIN):
                if (snapshot.metadata or {}).get("published"):
                    yield Version(
                        snapshot.id, snapshot.written_at, snapshot.message, dict(snapshot.metadata)
                    )


@contextlib.contextmanager
def held(url: str) -> Iterator[None]:
    """Hold a local cube's lock; raises CubeBusy where another process has it."""
    if not is_local(url):
        yield
        return
    path = local_path(url)
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise CubeBusy(
            f"cube: another run on this machine holds {url}; wait for it or stop it"
        ) from None
    except OSError as error:
        raise StorageError(
            f"cube: expected to write to {path.parent}, got {error.strerror}; "
            "name a folder of yours with room in it"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def reached(url: str) -> Iterator[None]:
    """Tell what Icechunk raises while a cube is read or written as a StorageError."""
    try:
        yield
    except icechunk.ConflictError as error:
        raise CubeBusy(
            f"cube: another run wrote to {url} meanwhile; run again to go on from there"
        ) from error
    except icechunk.IcechunkError as error:
        raise StorageError(
            f"cube: {url} cannot be read or written: {_brief(url, error)}; check that it is whole, "
            "that you may write to it and that there is room"
        ) from error


def _brief(url: str, error: BaseException) -> str:
    if not is_local(url) and isinstance(error, icechunk.StorageError):
        return reason(error)
    return str(error).strip().split("\n", 1)[0]
