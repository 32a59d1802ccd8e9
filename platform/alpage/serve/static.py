"""Releases over HTTP: byte ranges for readers of shards, CORS for browsers."""

from pathlib import Path

import uvicorn
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

EXPOSED = ["Content-Range", "Accept-Ranges", "Content-Length", "ETag"]


def app_for(place: str) -> Starlette:
    """Return the application that serves a folder or what lies below an s3:// URL, read-only.

    Raises StudyError where there is no such folder, StorageError where no such bucket.
    """
    if on_s3(place):
        touch(place)
        files: BaseRoute = Route("/{path:path}", BucketFiles(place))
    elif Path(place).is_dir():
        files = Mount("/", StaticFiles(directory=place))
    else:
        raise StudyError(f"folder: expected a folder of releases, there is none at {place}")
    cors = Middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "HEAD"], expose_headers=EXPOSED
    )
    return Starlette(routes=[Route("/healthz", _alive), files], middleware=[cors])


def serve_releases(place: str, *, host: str, port: int) -> None:
    """Serve a folder or what lies below an s3:// URL until interrupted."""
    uvicorn.run(app_for(place), host=host, port=port, log_level="warning")


def _alive(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")
