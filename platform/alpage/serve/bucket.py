"""Objects below a prefix over HTTP, read-only: ranges are passed on, nothing is kept."""

import logging
import mimetypes
import re
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, NotModifiedError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from alpage.objectstore import bucket_store, reason, split

if TYPE_CHECKING:
    from obstore import GetOptions

METHODS = ("GET", "HEAD")
PART_BYTES = 2**20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")

logger = logging.getLogger(__name__)


class BucketFiles:
    """An ASGI application: paths are keys below the prefix of an s3:// URL."""

    def __init__(self, url: str) -> None:
        self._bucket, self._prefix = split(url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def has(self, path: str) -> bool:
        """Return whether an object is there and may be read."""
        return await self._size(self._key(path.split("/"))) is not None

    def _key(self, steps: list[str]) -> str:
        return "/".join(step for step in (self._prefix, *steps) if step)

    async def _answer(self, request: Request) -> Response:
        if request.method not in METHODS:
            return _told(405, {"Allow": ", ".join(METHODS)})
        steps = request.path_params["path"].split("/")
        if any(step in ("", ".", "..") or _CONTROL.search(step) for step in steps):
            return _told(404)
        key = self._key(steps)
        asked = _range_of(request)
        try:
            return await self._read(request, key, asked)
        except FileNotFoundError:
            return _told(404)
        except NotModifiedError:
            return Response(status_code=304, headers={"ETag": request.headers["if-none-match"]})
        except BaseError as error:
            # A 403 as well: a reader takes what is absent for empty, and this may only be denied.
            if asked is not None and (size := await self._size(key)) is not None:
                return _told(416, {"Content-Range": f"bytes */{size}"})
            logger.warning("s3://%s/%s cannot be read: %s", self._bucket, key, reason(error))
            return _told(502)

    async def _read(self, request: Request, key: str, asked: Any) -> Response:
        wanted: GetOptions = {"head": request.method == "HEAD"}
        if asked is not None:
            wanted["range"] = asked
        if (known := request.headers.get("if-none-match")) is not None:
            wanted["if_none_match"] = known
        found = await obstore.get_async(bucket_store(self._bucket), key, options=wanted)
        first, stop = found.range
        size = found.meta["size"]
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Length": str(stop - first),
            "Content-Type": mimetypes.guess_type(key)[0] or "application/octet-stream",
        }
        if etag := found.meta["e_tag"]:
            headers["ETag"] = etag
        if asked is not None:
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
        status = 200 if asked is None else 206
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        return StreamingResponse(found.stream(PART_BYTES), status, headers)

    async def _size(self, key: str) -> int | None:
        try:
            found = await obstore.head_async(bucket_store(self._bucket), key)
        except (FileNotFoundError, BaseError):
            return None
        size: int = found["size"]
        return size


def _range_of(request: Request) -> Any:
    """The one range of bytes that is asked for, as obstore takes it.

    None for all of it: also where several are, or only under a condition, which a server may
    answer with everything. Source: RFC 9110, sections 13.1.5 and 14.2.
    """
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or "if-range" in request.headers:
        return None
    first, last = found.groups()
    if first and last:
        return (int(first), int(last) + 1) if int(first) <= int(last) else None
    if first:
        return {"offset": int(first)}
    return {"suffix": int(last)} if last else None


def _told(status: int, headers: dict[str, str] | None = None) -> Response:
    told = {404: "not found", 405: "only read", 416: "outside the object", 502: "store failed"}
    return PlainTextResponse(told[status], status, headers)
