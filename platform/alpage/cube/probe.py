"""Whether an object store keeps the promises that a cube rests on. Asked before a run writes.

Folders are not asked: they have a lock instead.
"""

import contextlib
import datetime as dt
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from alpage.cube.place import is_local
from alpage.errors import StorageError
from alpage.objectstore import bucket_store, reason, split, until_whole

MOST_SKEW = dt.timedelta(minutes=5)
SERVERS = "use AWS S3, Ceph, or versitygw 1.8 or newer"
LENGTH = 1024


def probe(url: str) -> None:
    """Try what a cube needs of its store, beside the cube, and leave nothing behind.

    Conditional PUTs that are refused when they should be, and done when they should be;
    listings that show what was just written; reads of a range; a clock near ours. On a sound
    store it costs 16 small requests.

    Raises
    ------
    StorageError
        What failed, what was expected, and what to set or which server to use.
    """
    if is_local(url):
        return
    bucket, prefix = split(url)
    asked = _Asked(url, bucket_store(bucket), f"{prefix}.probe/{uuid.uuid4().hex}")
    try:
        asked.clock()
        asked.create_once()
        asked.replace_if_same()
        asked.listing()
        asked.range()
    finally:
        # A store that keeps them loses us nothing: a run deletes no objects itself.
        with contextlib.suppress(BaseError, FileNotFoundError):
            for name in ("clock", "once", "same", "range"):
                obstore.delete(asked.store, asked.key(name))


@dataclass(frozen=True)
class _Asked:
    """The questions to one store, each with a key of its own."""

    url: str
    store: S3Store
    prefix: str

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def clock(self) -> None:
        """The time that the store gives a new object is near ours."""
        before = dt.datetime.now(dt.UTC)
        self._do("write", lambda: obstore.put(self.store, self.key("clock"), b"alpage"))
        told = self._do("read", lambda: obstore.head(self.store, self.key("clock")))
        # To the second, and up to the time that the answers took.
        waited = dt.datetime.now(dt.UTC) - before
        skew = told["last_modified"] - before
        if not -MOST_SKEW <= skew <= MOST_SKEW + waited:
            ahead = "ahead of" if skew > dt.timedelta() else "behind"
            raise self._failed(
                f"its clock is {abs(skew.total_seconds()):.0f} s {ahead} this machine's, expected "
                f"{MOST_SKEW.total_seconds():.0f} s at most: set both by NTP"
            )

    def create_once(self) -> None:
        """A PUT with If-None-Match writes where nothing is, and is refused where something is."""
        key, first = self.key("once"), os.urandom(LENGTH)
        self._put_when("If-None-Match", key, first, None)
        if self._is_done("If-None-Match", key, os.urandom(LENGTH), None):
            raise self._failed(
                "it took a PUT with If-None-Match: * for a key that exists, expected 412 "
                f"Precondition Failed; two runs would lose each other's work: {SERVERS}"
            )

    def replace_if_same(self) -> None:
        """A PUT with If-Match replaces what is as it was read, and nothing else."""
        key = self.key("same")
        stale = self._do("write", lambda: obstore.put(self.store, key, os.urandom(LENGTH)))
        if stale["e_tag"] is None:
            raise self._failed(f"it gives objects no ETag, expected one with each PUT: {SERVERS}")
        now = self._put_when("If-Match", key, os.urandom(LENGTH), stale["e_tag"])
        if now == stale["e_tag"] or self._is_done(
            "If-Match", key, os.urandom(LENGTH), stale["e_tag"]
        ):
            raise self._failed(
                "it took a PUT with If-Match and an ETag that had changed, expected 412 "
                f"Precondition Failed; two runs would lose each other's work: {SERVERS}"
            )

    def listing(self) -> None:
        """What was just written is listed."""
        found = self._do(
            "list",
            lambda: [one["path"] for page in obstore.list(self.store, self.prefix) for one in page],
        )
        missing = {self.key(name) for name in ("clock", "once", "same")} - set(found)
        if missing:
            raise self._failed(
                f"its listing lacks {len(missing)} of 3 objects just written, expected all; do "
                f"not put a cache before it, or {SERVERS}"
            )

    def range(self) -> None:
        """A part of an object is read alone."""
        key, content = self.key("range"), os.urandom(LENGTH)
        self._do("write", lambda: obstore.put(self.store, key, content))
        try:
            part = until_whole(
                lambda: bytes(obstore.get_range(self.store, key, start=100, length=50))
            )
        except (BaseError, FileNotFoundError) as error:
            whole = "non-partial" in str(error)
            told = "it answered with the whole object" if whole else reason(error)
            raise self._no_range(told) from None
        if part != content[100:150]:
            raise self._no_range(f"{len(part)} other bytes came")

    def _no_range(self, told: str) -> StorageError:
        return self._failed(
            f"bytes 100-149 of an object were asked for and {told}, expected these 50 bytes: "
            f"let Range through what stands before it, or {SERVERS}"
        )

    def _put_when(self, condition: str, key: str, content: bytes, e_tag: str | None) -> str | None:
        """Put under a condition that holds; give the new ETag."""
        if not self._is_done(condition, key, content, e_tag):
            # A PUT whose answer was lost is tried again, and then meets its own work.
            found = self._do("read", lambda: bytes(obstore.get(self.store, key).bytes()))
            if found != content:
                raise self._failed(
                    f"it refused a PUT with {condition} whose condition held, expected it done: "
                    f"{SERVERS}"
                )
        return self._do("read", lambda: obstore.head(self.store, key))["e_tag"]

    def _is_done(self, condition: str, key: str, content: bytes, e_tag: str | None) -> bool:
        try:
            if e_tag is None:
                obstore.put(self.store, key, content, mode="create")
            else:
                obstore.put(self.store, key, content, mode={"e_tag": e_tag})
        except (AlreadyExistsError, PreconditionError):
            return False
        except (BaseError, FileNotFoundError) as error:
            raise self._failed(
                f"a PUT with {condition} failed, expected it done or refused with 412; "
                f"{reason(error)}; if it does not know {condition}: {SERVERS}"
            ) from None
        return True

    def _do[T](self, verb: str, ask: Callable[[], T]) -> T:
        try:
            return until_whole(ask)
        except (BaseError, FileNotFoundError) as error:
            raise self._failed(
                f"cannot {verb} an object beside it, expected to: {reason(error)}"
            ) from None

    def _failed(self, told: str) -> StorageError:
        return StorageError(f"cube: {self.url} is not fit to hold a cube: {told}")
