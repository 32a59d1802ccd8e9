"""The versioned store of a cube: an Icechunk repository, its branches and its history.

Readers see the branch `main`. A run writes to a branch of its own, which
becomes `main` in one step when its gate has passed. Parts of one run share its branch.
"""

import contextlib
import datetime as dt
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import icechunk
import zarr

from alpage.cube.lock import turn
from alpage.cube.part import Part
from alpage.cube.place import is_local, local_path, names_in, repository_config, storage_of
from alpage.errors import CubeBusy, CubeError, StorageError
from alpage.objectstore import reason, touch

MAIN = "main"
FIRST_SNAPSHOT = "1CECHNKREP0F1RSTCMT0"
"""Of every repository of Icechunk: when it was written is when the cube was made."""
FIRST_OBJECTS = frozenset((f"snapshots/{FIRST_SNAPSHOT}", f"transactions/{FIRST_SNAPSHOT}", "repo"))
"""What Icechunk writes until there is a repository: a run makes one now, or was killed there."""
STAGED = re.compile(r"#\d+$")
"""How the name of a local file ends that is still being written."""
# Icechunk warns of local folders on stderr at every open; `alpage.cube.lock` is the answer to it.
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
        self._part: Part | None = None
        self._run = uuid.uuid4().hex
        """Who commits: told with each commit."""
        self._known: dict[str, str] = {}
        """A state of a branch that its run goes on from: only the run has written to it since."""

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
    def check_place(cls, url: str) -> None:
        """Raises StorageError where other objects are and no cube: a new one would lie among them.

        Writes nothing. A cube that another run makes at this moment is none of them.
        """
        if cls.exists(url):
            return
        is_taken = any(STAGED.sub("", name) not in FIRST_OBJECTS for name in names_in(url))
        # Another run may have made it while its objects were looked at.
        if is_taken and not cls.exists(url):
            raise StorageError(
                f"cube: expected nothing at {url} yet, it holds other objects; name another place"
            )

    @classmethod
    def create(cls, url: str) -> "CubeStore":
        """Return the store of a new, empty cube.

        Raises CubeBusy where another run makes one there at this moment.
        """
        try:
            if is_local(url):
                local_path(url).mkdir(parents=True, exist_ok=True)
            cls.check_place(url)
            # Icechunk's own look at the place takes a cube in the making for something else.
            repository = icechunk.Repository.create(
                storage_of(url), config=repository_config(), check_clean_root=False
            )
        except icechunk.ConflictError as error:
            raise CubeBusy(f"cube: another run began {url} meanwhile; run again") from error
        except (icechunk.IcechunkError, OSError) as error:
            raise StorageError(f"cube: cannot write to {url}: {_brief(url, error)}") from error
        return cls(url, repository)

    def tip(self, branch: str = MAIN) -> str:
        """Return the newest snapshot of a branch.

        Raises CubeBusy where there is no such branch: its run has finished.
        """
        with reached(self.url):
            try:
                return str(self.repository.lookup_branch(branch))
            except icechunk.RefNotFoundError as error:
                raise self._finished_meanwhile() from error

    def branches(self) -> set[str]:
        """Return the names of all branches."""
        with reached(self.url):
            return set(self.repository.list_branches())

    def unfinished(self) -> set[str]:
        """Return the names of the branches whose work readers do not see yet."""
        main, found = self.tip(), set()
        for name in self.branches() - {MAIN}:
            # One that its run drops at this moment is finished.
            with contextlib.suppress(CubeBusy):
                if self.tip(name) != main:
                    found.add(name)
        return found

    def read(self, *, branch: str = MAIN, snapshot: str | None = None) -> zarr.Group:
        """Return the cube's root group, read-only, at a branch's tip or a snapshot.

        Raises CubeError where there is no such snapshot, CubeBusy where another run of the study
        has finished the branch.
        """
        try:
            if snapshot is not None:
                session = self.repository.readonly_session(snapshot_id=snapshot)
            else:
                session = self.repository.readonly_session(branch)
        except icechunk.IcechunkError as error:
            if snapshot is None and branch not in self.branches():
                raise self._finished_meanwhile() from error
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

        Raises CubeBusy where another run of the study has finished the branch, begun it anew or
        written to it: what was planned and done on the one that was there does not fit any more.
        """
        with reached(self.url):
            try:
                session = self.repository.writable_session(branch)
            except icechunk.IcechunkError as error:
                if branch in self.branches():
                    raise
                raise self._finished_meanwhile() from error
            if branch in self._known:
                self._check_ours(branch, session.snapshot_id)
                self._known[branch] = session.snapshot_id
        return session

    def _finished_meanwhile(self) -> CubeBusy:
        return CubeBusy(f"cube: another run of this study finished {self.url} meanwhile; run again")

    def commit(
        self,
        branch: str,
        message: str,
        change: Callable[[icechunk.Session], None],
        *,
        seal: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit a change on top of a branch, nothing where it changes nothing.

        It is made anew on top of what another part of the run commits at the same moment. A seal
        is what history will tell of a state that readers may see. Raises CubeBusy or
        StorageError; nothing of the change is there then.
        """
        told = {**(seal or {}), "run": self._run}
        with reached(self.url), contextlib.ExitStack() as stack:
            if self._part is not None:
                told["part"] = str(self._part)
                stack.enter_context(turn(self.url))
            while True:
                session = self.writable(branch)
                change(session)
                if seal is None and not session.has_uncommitted_changes:
                    return
                try:
                    session.commit(message, told, allow_empty=seal is not None)
                except icechunk.ConflictError:
                    # Not rebased: parts share chunks of the ledger, and others are told at once.
                    if self._part is None:
                        raise
                    continue
                return

    def _check_ours(self, branch: str, snapshot: str) -> None:
        """Raises CubeBusy where others than this run, or the parts beside it, have written."""
        known = self._known.get(branch, snapshot)
        for one in self.repository.ancestry(snapshot_id=snapshot):
            if one.id == known:
                return
            told, part = one.metadata or {}, self._part
            if told.get("run") != self._run and not (part and part.is_beside(told.get("part"))):
                break
        raise self._overtaken()

    def _descends(self, snapshot: str, earlier: str) -> bool:
        return any(one.id == earlier for one in self.repository.ancestry(snapshot_id=snapshot))

    def _overtaken(self) -> CubeBusy:
        who = "this study" if self._part is None else f"this study, or of part {self._part},"
        return CubeBusy(f"cube: another run of {who} works on {self.url}; run again later")

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
        self._known[branch] = snapshot

    def resume(self, branch: str, tip: str) -> None:
        """Go on with a branch from the tip that was planned on.

        Raises CubeBusy where another run has written to it since.
        """
        try:
            if self.tip(branch) != tip:
                raise self._overtaken()
            self._known[branch] = self.unseal(branch)
        except (icechunk.ConflictError, icechunk.RefNotFoundError) as error:
            raise self._overtaken() from error

    def share(self, branch: str, snapshot: str, part: Part) -> None:
        """Work as one part of a run on its branch, which is made where no part has made it yet.

        `snapshot` is what was planned on. Raises CubeBusy where readers see another since.
        """
        self._part = part
        with turn(self.url):
            snapshot = self._before_seal(snapshot)
            if not self._descends(snapshot, self.tip()):
                raise self._overtaken()
            while True:
                try:
                    self._bring(branch, snapshot)
                except (
                    icechunk.AlreadyExistsError,
                    icechunk.ConflictError,
                    icechunk.RefNotFoundError,
                ):
                    # Another part did the same meanwhile.
                    continue
                break
        self._known[branch] = snapshot

    def _bring(self, branch: str, snapshot: str) -> None:
        """Make a branch, unless it is there and goes on from a snapshot."""
        if branch not in self.branches():
            self.start_branch(branch, snapshot)
            return
        tip = self.unseal(branch)
        if not self._descends(tip, snapshot):
            self.repository.reset_branch(branch, snapshot, from_snapshot_id=tip)

    def start_branch(self, name: str, snapshot: str) -> None:
        """Make a branch at a snapshot."""
        self.repository.create_branch(name, snapshot)

    def publish(self, branch: str, *, expected: str) -> str:
        """Make a run's branch what readers see, and drop the branch.

        Raises CubeBusy where `main` is no longer the snapshot that the run began on, or another
        run has taken the branch over.
        """
        tip = self.tip(branch)
        if tip == self._known.get(branch):
            raise self._overtaken()
        self._check_ours(branch, tip)
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
        tip = self.tip(branch)
        before = self._before_seal(tip)
        if before != tip:
            self.repository.reset_branch(branch, before, from_snapshot_id=tip)
        return before

    def _before_seal(self, snapshot: str) -> str:
        """The state that was sealed, where readers do not see the sealed one."""
        one = next(iter(self.repository.ancestry(snapshot_id=snapshot)))
        is_sealed = (one.metadata or {}).get("published") and snapshot != self.tip()
        return str(one.parent_id) if is_sealed and one.parent_id else snapshot

    def drop_branch(self, name: str) -> None:
        """Delete a branch; its data are left to garbage collection."""
        self.repository.delete_branch(name)

    def was_published(self, snapshot: str) -> bool:
        """Return whether readers have seen a state, be it one that was rolled back from since."""
        with reached(self.url):
            try:
                one = next(iter(self.repository.ancestry(snapshot_id=snapshot)))
            except (icechunk.InvalidInputError, icechunk.NotFoundError):
                return False
        # A run seals its branch before it shows readers what is on it.
        is_waiting = snapshot in {self.tip(branch) for branch in self.unfinished()}
        return bool((one.metadata or {}).get("published")) and not is_waiting

    def versions(self) -> Iterator[Version]:
        """Yield the states that runs published, newest first."""
        with reached(self.url):
            for snapshot in self.repository.ancestry(branch=MAIN):
                if (snapshot.metadata or {}).get("published"):
                    yield Version(
                        snapshot.id, snapshot.written_at, snapshot.message, dict(snapshot.metadata)
                    )


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
