"""Where releases are put: a folder or an s3:// prefix, written object by object."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, ObjectStore

from alpage.cube.place import is_local, local_path
from alpage.errors import StorageError
from alpage.objectstore import bucket_store, on_s3, reason, split, until_whole
from alpage.releases.naming import LASTING, MOVING, release_of

if TYPE_CHECKING:
    from obstore import UpdateVersion

MEDIA_TYPES = {
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
}
OS_REASON = re.compile(r"(?:^|: )([^:\n]+) \(os error \d+\)")


@dataclass(frozen=True)
class Shelf:
    """A store and the prefix under which everything is put."""

    url: str
    store: ObjectStore
    prefix: str
    conditional: bool
    """Whether the store takes conditions on a PUT; folders replace atomically instead."""

    def key(self, path: str) -> str:
        """Return the store's key of a path on the shelf."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def href(self, path: str) -> str:
        """Return the URL, or path of this machine, of a path on the shelf."""
        return f"{self.url}/{path}"

    def read(self, path: str) -> tuple[bytes, str | None] | None:
        """Return an object and its entity tag; None where there is none."""

        def ask() -> tuple[bytes, str | None]:
            answer = obstore.get(self.store, self.key(path))
            return bytes(answer.bytes()), answer.meta["e_tag"]

        try:
            return until_whole(ask)
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise self.failure("read", path, error) from None

    def read_json(self, path: str) -> dict[str, Any] | None:
        """Return a JSON document; None where there is none."""
        found = self.read(path)
        if found is None:
            return None
        try:
            document = json.loads(found[0])
        except ValueError as error:
            raise StorageError(f"release: {self.href(path)} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise StorageError(f"release: {self.href(path)} holds no JSON object")
        return document

    def put(self, path: str, content: bytes | Path) -> None:
        """Write an object, whatever is there."""
        try:
            obstore.put(self.store, self.key(path), content, attributes=self.attributes(path))
        except (BaseError, FileNotFoundError) as error:
            raise self.failure("write", path, error) from None

    def replace(self, path: str, content: bytes, expected: tuple[bytes, str | None] | None) -> bool:
        """Write an object if it still is what `read` returned; tell whether that was so."""
        mode: Literal["create", "overwrite"] | UpdateVersion = "overwrite"
        if self.conditional:
            mode = "create" if expected is None else {"e_tag": expected[1]}
        try:
            obstore.put(
                self.store, self.key(path), content, mode=mode, attributes=self.attributes(path)
            )
        except (AlreadyExistsError, PreconditionError):
            # A PUT whose answer was lost is tried again, and then meets its own work.
            found = self.read(path)
            return found is not None and found[0] == content
        except (BaseError, FileNotFoundError) as error:
            raise self.failure("write", path, error) from None
        return True

    def failure(self, what: str, path: str, error: BaseException) -> StorageError:
        """Return the failure to raise, not chained: an S3 answer may repeat what was signed."""
        if self.conditional:
            told = reason(error)
        else:
            found = OS_REASON.search(str(error))
            told = (
                f"{found[1] if found else type(error).__name__}: check that the place exists, that "
                "it may be written and that there is room"
            )
        return StorageError(f"release: cannot {what} {self.href(path)}: {told}")

    def attributes(self, path: str) -> dict[str, str] | None:
        """Return what readers are told with an object; None where files are written."""
        if not self.conditional:
            return None
        # Nobody is pointed to a release before it is whole.
        attributes = {"Cache-Control": LASTING if release_of(path) else MOVING}
        if media_type := MEDIA_TYPES.get(Path(path).suffix):
            attributes["Content-Type"] = media_type
        return attributes


def shelf_at(url: str) -> Shelf:
    """Return the shelf at a folder or s3:// URL; keys come from the environment.

    >>> shelf_at("s3://bucket/lakes/").href("a.json")
    's3://bucket/lakes/a.json'
    """
    if is_local(url):
        path = local_path(url).resolve()
        try:
            store = LocalStore(path, mkdir=True)
        except (OSError, BaseError) as error:
            raise StorageError(f"release: cannot write to {path}: {error}") from error
        return Shelf(str(path), store, "", conditional=False)
    if not on_s3(url):
        got = url.split("://")[0]
        raise StorageError(f"release: expected a folder or an s3:// URL, got {got}://")
    bucket, prefix = split(url)
    bare = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
    return Shelf(bare, bucket_store(bucket), prefix, conditional=True)
