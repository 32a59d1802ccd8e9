"""What browsers and caches may keep of releases: all of one that is whole, of nothing else."""

from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alpage.releases.naming import COLLECTION, LASTING, MOVING, release_of

GIVEN = (200, 206, 304)
"""Statuses of what is there: a shard that is not there now may only be not there yet."""


Exists = Callable[[str], Awaitable[bool]]


class Cached:
    """ASGI middleware that tells how long each answer may be kept."""

    def __init__(self, app: ASGIApp, exists: Exists) -> None:
        self._app, self._exists = app, exists
        self._whole: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Before it is read: what was read first may have been replaced since.
        is_lasting = await self._is_lasting(scope["path"].removeprefix("/"))

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                lasts = is_lasting and message["status"] in GIVEN
                MutableHeaders(scope=message)["Cache-Control"] = LASTING if lasts else MOVING
            await send(message)

        await self._app(scope, receive, told)

    async def _is_lasting(self, path: str) -> bool:
        release = release_of(path)
        if release is None:
            return False
        if release not in self._whole and await self._exists(f"{release}/{COLLECTION}"):
            self._whole.add(release)
        return release in self._whole
