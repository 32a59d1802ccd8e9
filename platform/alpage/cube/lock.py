"""Who may write to a cube in a folder: a whole run alone, or the parts of one run side by side.

Folders refuse no write that comes second, as object stores do: parts take turns at theirs.
"""

import contextlib
import glob
import re
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from alpage.cube.part import Part
from alpage.cube.place import is_local, local_path
from alpage.errors import CubeBusy, StorageError

PATIENCE_S = 5.0
"""Parts that begin at once pass each other in far less; a whole run stays."""


@contextlib.contextmanager
def held(url: str, part: Part | None = None) -> Iterator[None]:
    """Hold a local cube, or a part of it; raises CubeBusy where another process has it."""
    if not is_local(url):
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            local_path(url).parent.mkdir(parents=True, exist_ok=True)
            gate = FileLock(_file(url))
            gate.acquire(timeout=0 if part is None else PATIENCE_S)
            stack.callback(gate.release)
            _check_parts(url, part)
            if part is not None:
                stack.enter_context(FileLock(_file(url, _kind(part))))
                gate.release()
        except Timeout:
            raise CubeBusy(
                f"cube: another run on this machine holds {url}; wait for it or stop it"
            ) from None
        except OSError as error:
            raise StorageError(
                f"cube: expected to write to {local_path(url).parent}, got {error.strerror}; "
                "name a folder of yours with room in it"
            ) from error
        yield


@contextlib.contextmanager
def turn(url: str) -> Iterator[None]:
    """Wait until no other part of the run changes a local cube, then keep them waiting."""
    if not is_local(url):
        yield
        return
    with FileLock(_file(url, ".turn")):
        yield


def _check_parts(url: str, part: Part | None) -> None:
    """Raises CubeBusy where a part is at work that has tiles in common with what is to begin."""
    for path in local_path(url).parent.glob(glob.escape(_file(url).stem) + ".part-*.lock"):
        other = re.sub(r".*\.part-(\d+)-of-(\d+)\.lock", r"\1/\2", path.name)
        if part is not None and part.is_beside(other):
            continue
        try:
            with FileLock(path, timeout=0):
                # Parts come to theirs by the gate only, which is held here.
                path.unlink()
        except Timeout:
            expected = "no part" if part is None else f"only other parts of {part.of}"
            raise CubeBusy(
                f"cube: expected {expected} at work on {url}, part {other} is, on this machine; "
                "wait for it or stop it"
            ) from None


def _file(url: str, kind: str = "") -> Path:
    path = local_path(url)
    return path.parent / f".{path.name}{kind}.lock"


def _kind(part: Part) -> str:
    return f".part-{part.number}-of-{part.of}"
