"""Where a cube lies, and how Icechunk gets there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import icechunk

from alpage.errors import StorageError
from alpage.objectstore import (
    MAX_TRIES,
    has_keys_in_environment,
    keys,
    names_under,
    on_s3,
    settings,
    split,
)

TILES = 64
"""Along y and x, the tiles whose references are kept together; as in the ledger's chunks."""


def is_local(url: str) -> bool:
    """Return whether a URL or path is on this machine's disk."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path of a local URL."""
    return Path(url.removeprefix("file://"))


def names_in(url: str) -> Iterator[str]:
    """Yield the names of the objects, or files, at a cube's path or s3:// URL."""
    if on_s3(url):
        yield from names_under(url)
        return
    folder = local_path(url)
    for path in folder.rglob("*"):
        if not path.is_dir():
            yield path.relative_to(folder).as_posix()


def storage_of(url: str) -> icechunk.Storage:
    """Return Icechunk's storage of a cube's path or s3:// URL.

    It may be sent to workers: it holds no keys, each process takes its own.
    """
    if is_local(url):
        return icechunk.local_filesystem_storage(str(local_path(url)))
    if not on_s3(url):
        raise StorageError(f"cube: expected a folder or an s3:// URL, got {url.split('://')[0]}://")
    bucket, prefix = split(url)
    if not prefix:
        raise StorageError(f"cube: expected a place within the bucket, such as {url}/cubes/mine")
    reach = settings()
    if reach.skip_signature:
        signed: dict[str, Any] = {"anonymous": True}
    elif has_keys_in_environment():
        signed = {"from_env": True}
    else:
        signed = {"get_credentials": _icechunk_keys}
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=reach.region,
        endpoint_url=reach.endpoint,
        allow_http=reach.http_endpoint,
        force_path_style=reach.path_style,
        requester_pays=reach.requester_pays,
        **signed,
    )


def _icechunk_keys() -> icechunk.S3StaticCredentials:
    found = keys()
    return icechunk.S3StaticCredentials(
        access_key_id=found.key_id,
        secret_access_key=found.secret,
        session_token=found.token,
        expires_after=found.until,
    )


def repository_config() -> icechunk.RepositoryConfig:
    """Return how Icechunk treats every cube."""
    retries = icechunk.StorageRetriesSettings(max_tries=MAX_TRIES)
    # A commit then rewrites the references of the windows and tiles that it touched, not all.
    dimension = icechunk.ManifestSplitDimCondition.Axis
    paths = icechunk.ManifestSplitCondition.path_matches
    layers = paths("^/(day|dekad|month|season|year)/")
    records = paths("^/ledger/.*/(fingerprint|cost|statistics|result)$")
    tables = paths("^/ledger/")
    splitting = icechunk.ManifestSplittingConfig.from_dict(
        {
            layers: {dimension(0): 1, dimension(1): TILES, dimension(2): TILES},
            records: {dimension(0): 1},
            tables: {dimension(0): TILES**2, dimension(1): 1},
        }
    )
    return icechunk.RepositoryConfig(
        storage=icechunk.StorageSettings(retries=retries),
        manifest=icechunk.ManifestConfig(splitting=splitting),
    )
