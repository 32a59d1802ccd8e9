"""Bytes of an object, wherever it lies: S3, HTTPS, loopback HTTP or a local path.

Stores are built in the process that uses them, one per bucket or host; only hrefs travel
between workers.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError
from obstore.store import HTTPStore, LocalStore, ObjectStore

from alpage.cube.place import is_local
from alpage.engine.hrefs import Place, place_of
from alpage.errors import StorageError
from alpage.objectstore import (
    MAX_TRIES,
    TIMEOUTS,
    forget_environment,
    is_passing,
    reason,
    settings,
    status_of,
    tries,
)
from alpage.redaction import safe_name
from alpage.settings import settings as installation

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

ONCE: "RetryConfig" = {"max_retries": 0}
MERGE_GAP = 256 * 1024
"""Bytes read for nothing rather than asking twice: about one round trip's worth."""
REQUEST_BYTES = 8 * 2**20
"""A merged request grows no further: two at once are then faster than a larger one."""
CONCURRENT = 16
"""Requests that fly at once where each is waited for."""


@dataclass
class ReadCounters:
    """What reading cost. GDAL's requests cannot be seen here."""

    requests: int = 0
    bytes: int = 0
    fetch_seconds: float = 0.0
    """Summed over files fetched at once, so it may pass the wall clock."""
    decode_seconds: float = 0.0
    """Includes the whole of reads that GDAL makes."""
    retries: int = 0
    """Requests that failed and were made again."""
    failures: Counter[str] = field(default_factory=Counter)
    """Requests that failed, by status, made again or not."""

    def add(self, other: "ReadCounters") -> None:
        """Add another reader's counts to these."""
        self.requests += other.requests
        self.bytes += other.bytes
        self.fetch_seconds += other.fetch_seconds
        self.decode_seconds += other.decode_seconds
        self.retries += other.retries
        self.failures += other.failures


def forget() -> None:
    """Drop settings and stores, so that a changed environment is read again."""
    forget_environment()
    installation.cache_clear()
    _place.cache_clear()
    _store.cache_clear()


def locate(href: str) -> tuple[ObjectStore, str]:
    """Return the store that holds the href and the object's path in it.

    Raises `UntrustedHref` for what `alpage.engine.hrefs.place_of` refuses.

    >>> locate("s3://bucket/scene/B04.tif")[1]
    'scene/B04.tif'
    """
    place = _place(href)
    return _store(place.scheme, place.root), place.path.lstrip("/")


def gdal_path(href: str) -> tuple[str, dict[str, str]]:
    """Return the path by which GDAL opens a trusted href, and the options it needs.

    >>> gdal_path("s3://bucket/a.tif")[0]
    '/vsis3/bucket/a.tif'
    """
    place, options = _place(href), settings().gdal_options()
    if place.scheme == "file":
        return place.path, options
    if place.scheme == "s3":
        return f"/vsis3/{place.root}/{place.path}", options
    return f"/vsicurl/{place.scheme}://{place.root}/{quote(place.path)}", options


def version_of(href: str, counters: ReadCounters) -> str | None:
    """Return what changes when an object is written anew; None where its store does not tell.

    Raises `FileNotFoundError` when it does not exist, `StorageError` when it cannot be read.
    """
    place = _place(href)
    if place.scheme == "file":
        with _local(place, href) as file:
            told = os.fstat(file)
        return f"{told.st_ino}-{told.st_ctime_ns}-{told.st_size}"
    store, path = locate(href)

    def ask() -> str | None:
        # Not HEAD, which some servers do not answer.
        answer = obstore.get(store, path, options={"range": (0, 1)})
        answer.bytes()
        return answer.meta["e_tag"]

    counters.requests += 1
    return _asked(href, ask, counters)


def readers_for(hrefs: Iterable[str]) -> int:
    """Return how many threads to read from some files with, where each waits for its answer."""
    # Files of this machine are not waited for: more threads than cores would only disturb it.
    return (os.cpu_count() or 1) if all(map(is_local, hrefs)) else CONCURRENT


def fetch_head(href: str, length: int, counters: ReadCounters) -> tuple[memoryview, int]:
    """Return the first bytes of an object (all of it when shorter) and its whole size.

    Raises `FileNotFoundError` when it does not exist, `StorageError` when it cannot be read.
    """
    place = _place(href)
    started = time.perf_counter()
    if place.scheme == "file":
        with _local(place, href) as file:
            size = os.fstat(file).st_size
            head = [memoryview(os.pread(file, length, 0))]
    else:
        store, path = locate(href)

        def ask() -> tuple[list[memoryview], int]:
            answer = obstore.get(store, path, options={"range": (0, length)})
            size = answer.meta["size"]
            head = memoryview(answer.bytes())
            if len(head) != min(length, size):
                raise _ShortAnswerError
            return [head], size

        head, size = _asked(href, ask, counters)
    _count(counters, head, started)
    return head[0], size


def fetch_ranges(
    href: str, ranges: Sequence[tuple[int, int]], counters: ReadCounters
) -> list[memoryview]:
    """Return the bytes of each (offset, length) of an object, in the order asked.

    Neighbours are asked for together, and up to 10 requests fly at once. Raises
    `FileNotFoundError` when the object does not exist, `StorageError` when it cannot be read
    or ends before a range does.
    """
    place = _place(href)
    merged = merge(ranges)
    started = time.perf_counter()
    if place.scheme == "file":
        with _local(place, href) as file:
            found = [memoryview(os.pread(file, b - a, a)) for a, b in merged]
        if any(len(one) != b - a for one, (a, b) in zip(found, merged, strict=True)):
            raise StorageError(f"{safe_name(href)}: the file is shorter than its header said")
    elif merged:
        store, path = locate(href)
        starts, ends = [a for a, _ in merged], [b for _, b in merged]

        def ask() -> list[memoryview]:
            answer = obstore.get_ranges(store, path, starts=starts, ends=ends, coalesce=0)
            parts = [memoryview(one) for one in answer]
            if any(len(one) != b - a for one, (a, b) in zip(parts, merged, strict=True)):
                raise _ShortAnswerError
            return parts

        found = _asked(href, ask, counters)
    else:
        found = []
    _count(counters, found, started)
    return _cut(ranges, merged, found)


def announce(href: str, ranges: Sequence[tuple[int, int]]) -> None:
    """Let the kernel bring parts of a local file into memory while something else is done."""
    if not hasattr(os, "posix_fadvise"):
        return
    # Whoever reads it is told why it cannot be.
    with (
        contextlib.suppress(FileNotFoundError, StorageError),
        _local(_place(href), href) as file,
    ):
        for start, length in ranges:
            os.posix_fadvise(file, start, length, os.POSIX_FADV_WILLNEED)


def merge(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (start, end) spans to ask for, so that every (offset, length) lies in one.

    >>> merge([(0, 10), (5_000_000, 10), (10, 20)])
    [(0, 30), (5000000, 5000010)]
    """
    spans: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        end = start + length
        if spans and start - spans[-1][1] <= MERGE_GAP:
            first, last = spans[-1]
            if end <= last or end - first <= REQUEST_BYTES:
                spans[-1] = (first, max(last, end))
                continue
        spans.append((start, end))
    return spans


class _ShortAnswerError(Exception):
    """A store sent fewer bytes than it was asked for."""


def _asked[Answer](href: str, ask: Callable[[], Answer], counters: ReadCounters) -> Answer:
    """Return the answer, asking again where what failed may pass.

    obstore's own retries are off: they cannot be counted, a body is resumed only where the server
    sends an ETag, and a short one is taken for whole.
    """
    for is_last in tries():
        try:
            return ask()
        except FileNotFoundError:
            counters.failures["404"] += 1
            raise FileNotFoundError(safe_name(href)) from None
        except (_ShortAnswerError, BaseError) as error:
            is_short = isinstance(error, _ShortAnswerError)
            counters.failures["short" if is_short else status_of(error)] += 1
            # Not chained: an S3 answer may repeat the key id and what was signed.
            if is_last or not (is_short or is_passing(error)):
                raise StorageError(f"{safe_name(href)}: {_reason(error)}") from None
        counters.retries += 1
    raise AssertionError("unreachable")


def _reason(error: Exception) -> str:
    if isinstance(error, _ShortAnswerError):
        return f"answers came short {MAX_TRIES} times: try again later"
    return reason(error)


@contextlib.contextmanager
def _local(place: Place, href: str) -> Iterator[int]:
    """Gives a descriptor: opened thousands of times a second, a file object costs more."""
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(safe_name(href)) from None
    except OSError as error:
        raise StorageError(f"{safe_name(href)}: {error.strerror}") from error
    try:
        yield descriptor
    except OSError as error:
        raise StorageError(f"{safe_name(href)}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _count(counters: ReadCounters, found: Sequence[memoryview], started: float) -> None:
    counters.requests += len(found)
    counters.bytes += sum(map(len, found))
    counters.fetch_seconds += time.perf_counter() - started


def _cut(
    ranges: Sequence[tuple[int, int]],
    merged: Sequence[tuple[int, int]],
    found: Sequence[memoryview],
) -> list[memoryview]:
    pieces = []
    for start, length in ranges:
        a, whole = next(
            (a, whole)
            for (a, b), whole in zip(merged, found, strict=True)
            if a <= start and start + length <= b
        )
        pieces.append(whole[start - a : start - a + length])
    return pieces


@lru_cache(maxsize=4096)
def _place(href: str) -> Place:
    return place_of(href, installation().plain_http_hosts or ())


@cache
def _store(scheme: str, root: str) -> ObjectStore:
    if scheme == "file":
        return LocalStore()
    if scheme == "s3":
        return settings().s3_store(root, ONCE)
    client: ClientConfig = {**TIMEOUTS, "allow_http": scheme == "http"}
    return HTTPStore(f"{scheme}://{root}", client_options=client, retry_config=ONCE)
