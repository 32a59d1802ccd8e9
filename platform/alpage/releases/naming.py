"""What a release is called, and how long caches may keep what lies where."""

import datetime as dt
import re

COLLECTION = "collection.json"
SNAPSHOT_LETTERS = 8
LASTING = "public, max-age=31536000, immutable"
"""Of what lies in a release that is whole."""
MOVING = "no-cache"
"""Of all else, above all the pointer to the newest release: kept, but asked for anew."""
_NAME = re.compile(rf"\d{{8}}T\d{{6}}Z-[0-9A-Z]{{{SNAPSHOT_LETTERS}}}")


def release_name(created: dt.datetime, snapshot: str) -> str:
    """Return the name of the release of a snapshot.

    >>> release_name(dt.datetime(2026, 11, 23, 4, 19, 48, tzinfo=dt.UTC), "AAAABBBBCCCCDDDDEEEE")
    '20261123T041948Z-AAAABBBB'
    """
    return f"{created.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}-{snapshot[:SNAPSHOT_LETTERS]}"


def release_of(path: str) -> str | None:
    """Return the path of the release that a path lies in, None where it may lie in none.

    >>> release_of("snow/20261123T041948Z-AAAABBBB/cube.zarr/zarr.json")
    'snow/20261123T041948Z-AAAABBBB'
    """
    steps = path.split("/")
    if ".." in steps:
        return None
    for place, step in enumerate(steps[:-1], 1):
        if _NAME.fullmatch(step):
            return "/".join(steps[:place])
    return None
