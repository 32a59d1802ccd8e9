"""A folder of releases over HTTP: byte ranges for readers of shards, CORS for browsers."""

from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from alpage.errors import StudyError

EXPOSED = ["Content-Range", "Accept-Ranges", "Content-Length", "ETag"]


def app_for(folder: Path) -> Starlette:
    """Return the application that serves a folder, read-only.

    Raises StudyError where there is no such folder.
    """
    if not folder.is_dir():
        raise StudyError(f"folder: expected a folder of releases, there is none at {folder}")
    cors = Middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "HEAD"], expose_headers=EXPOSED
    )
    return Starlette(routes=[Mount("/", StaticFiles(directory=folder))], middleware=[cors])


def serve_folder(folder: Path, *, host: str, port: int) -> None:
    """Serve a folder until interrupted."""
    uvicorn.run(app_for(folder), host=host, port=port, log_level="warning")
