"""Releases over HTTP: byte ranges for readers of shards, CORS for browsers."""

import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from anyio import to_thread
from prometheus_client import start_http_server
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from alpage.errors import StudyError
from alpage.objectstore import on_s3, touch
from alpage.serve.bucket import BucketFiles
from alpage.serve.caching import Cached, Exists
from alpage.serve.watch import Watch, Watched

ASKED = ["Range", "If-None-Match", "If-Range", "If-Modified-Since"]
EXPOSED = ["Content-Range", "Accept-Ranges", "Content-Length", "ETag"]
PREFLIGHT_SECONDS = 86400


def app_for(place: str, watch: Watch) -> Starlette:
    """Return the application that serves a folder or what lies below an s3:// URL, read-only.

    Raises StudyError where there is no such folder, StorageError where no such bucket.
    """
    if on_s3(place):
        touch(place)
        objects = BucketFiles(place)
        exists: Exists = objects.has
        files: BaseRoute = Route("/{path:path}", objects)
    elif Path(place).is_dir():
        exists = partial(_has_file, place)
        files = Mount("/", StaticFiles(directory=place))
    else:
        raise StudyError(f"folder: expected a folder of releases, there is none at {place}")
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD"],
        allow_headers=ASKED,
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_SECONDS,
    )
    middleware = [Middleware(Watched, watch=watch), cors, Middleware(Cached, exists=exists)]
    return Starlette(routes=[Route("/healthz", _alive), files], middleware=middleware)


def serve_releases(
    place: str,
    *,
    host: str,
    port: int,
    metrics_port: int | None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve a folder or what lies below an s3:// URL until interrupted; `say` is told where.

    Raises StudyError or StorageError where there is nothing to serve, StudyError where a port
    is taken.
    """
    watch = Watch()
    app = app_for(place, watch)
    if metrics_port is not None:
        try:
            start_http_server(metrics_port, registry=watch.registry)
        except OSError as error:
            raise StudyError(
                f"metrics: port {metrics_port} cannot be opened ({error.strerror}); choose "
                "another ALPAGE_METRICS_PORT"
            ) from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StudyError(
            f"--port: {host}, port {port} cannot be opened ({error.strerror}); choose another"
        ) from error
    with listening:
        named = f"[{host}]" if family == socket.AF_INET6 else host
        say(f"serving {place} at http://{named}:{listening.getsockname()[1]}")
        # It raises again what ended it, once it has ended well.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


async def _has_file(folder: str, path: str) -> bool:
    # Path.is_file raises where a name is too long.
    return await to_thread.run_sync(os.path.isfile, f"{folder}/{path}")


def _alive(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")
