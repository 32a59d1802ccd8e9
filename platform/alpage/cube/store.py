"""The versioned store of a cube: an Icechunk repository, its branches and its history.

Readers see the branch `main`. A run writes to a branch of its own, which
becomes `main` in one step when its gate has passed.
"""

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import icechunk
import zarr
from filelock import FileLock, Timeout

from alpage.errors import CubeBusy, CubeError, StorageError

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


def is_local(url: str) -> bool:
    """Return whether a URL or path is on this machine's disk."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path of a local URL."""
    return Path(url.removeprefix("file://"))


def storage_for(url: str) -> icechunk.Storage:
    """Return Icechunk's storage of a cube's path or s3:// URL; credentials from the environment."""
    if is_local(url):
        return icechunk.local_filesystem_storage(str(local_path(url)))
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise StorageError(f"cube: expected a folder or an s3:// URL, got {parts.scheme}://")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return icechunk.s3_storage(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        region=os.environ.get("AWS_REGION", "us-east-1"),
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=endpoint is not None,
        from_env=True,
    )


class CubeStore:
    """A cube's repository. Cheap to make; opens the store once."""

    def __init__(self, url: str, repository: icechunk.Repository) -> None:
        self.url = url
        self.repository = repository

    @classmethod
    def exists(cls, url: str) -> bool:
        """Return whether there is a cube at a URL."""
        if is_local(url) and not local_path(url).exists():
            return False
        return bool(icechunk.Repository.exists(storage_for(url)))

    @classmethod
    def open(cls, url: str) -> "CubeStore":
        """Return an existing cube's store.

        Raises CubeError where there is none.
        """
        try:
            if not cls.exists(url):
                raise CubeError(f"cube: there is none at {url}; `alpage run` makes one")
            return cls(url, icechunk.Repository.open(storage_for(url)))
        except icechunk.IcechunkError as error:
            raise StorageError(f"cube: cannot open {url}: {_brief(error)}") from error

    @classmethod
    def create(cls, url: str) -> "CubeStore":
        """Return the store of a new, empty cube."""
        try:
            if is_local(url):
                local_path(url).mkdir(parents=True, exist_ok=True)
            return cls(url, icechunk.Repository.create(storage_for(url)))
        except (icechunk.IcechunkError, OSError) as error:
            raise StorageError(f"cube: cannot write to {url}: {_brief(error)}") from error

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
                f"cube: {self.url} has no snapshot {snapshot or branch}: {_brief(error)}"
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

        Raises CubeBusy where the branch is gone: another run of the study has finished it.
        """
        try:
            return self.repository.writable_session(branch)
        except icechunk.IcechunkError as error:
            if branch in self.branches():
                raise
            raise CubeBusy(
                f"cube: another run of this study finished {self.url} meanwhile; run again"
            ) from error

    def start_branch(self, name: str, snapshot: str) -> None:
        """Make a branch at a snapshot."""
        with reached(self.url):
            self.repository.create_branch(name, snapshot)

    def publish(self, branch: str, *, expected: str) -> str:
        """Make a run's branch what readers see, and drop the branch.

        Raises CubeBusy where `main` is no longer the snapshot that the run began on.
        """
        tip = self.tip(branch)
        try:
            self.repository.reset_branch(MAIN, tip, from_snapshot_id=expected)
        except icechunk.ConflictError as error:
            raise CubeBusy(
                f"cube: {self.url} was published by another run meanwhile; run again: what this "
                "run did is kept where it still fits"
            ) from error
        self.drop_branch(branch)
        return tip

    def move_main(self, snapshot: str, *, expected: str) -> None:
        """Show readers another snapshot."""
        try:
            self.repository.reset_branch(MAIN, snapshot, from_snapshot_id=expected)
        except icechunk.ConflictError as error:
            raise CubeBusy(f"cube: {self.url} changed meanwhile; look at its history") from error

    def unseal(self, branch: str) -> None:
        """Take back the sealing of a run that ended before readers saw it.

        History tells of what readers have seen, and the run that goes on seals again.
        """
        tip = next(iter(self.repository.ancestry(branch=branch)))
        if (tip.metadata or {}).get("published") and tip.parent_id is not None:
            self.repository.reset_branch(branch, tip.parent_id)

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
    def locked(self) -> Iterator[None]:
        """Hold the cube for one run, on local disks, where Icechunk cannot guard itself.

        Several writers of one Icechunk folder lose commits. An object store with
        conditional PUT needs no lock.
        """
        with held(self.url):
            yield


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
            f"cube: {url} cannot be read or written: {_brief(error)}; check that it is whole, "
            "that you may write to it and that there is room"
        ) from error


def _brief(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
