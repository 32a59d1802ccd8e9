"""Files and servers that the engine's tests read from."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from alpage.engine import storage


@dataclass
class RangeServer:
    """A folder over HTTP with ranges, as S3 in path style too; faults are played once each."""

    folder: Path
    port: int = 0
    faults: list[str] = field(default_factory=list)
    log: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    """Method, path, range and authorisation of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def gets(self) -> int:
        return sum(1 for method, *_ in self.log if method == "GET")


def _handler(server: RangeServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.log.append((self.command, self.path, wanted, self.headers.get("Authorization")))
            fault = server.faults.pop(0) if server.faults and self.command == "GET" else ""
            path = server.folder / self.path.lstrip("/").replace("%20", " ")
            if fault.isdigit():
                return self._answer(int(fault), b"<Error><Key>SECRETKEY</Key></Error>")
            if not path.is_file():
                return self._answer(404, b"")
            data = path.read_bytes()
            span = re.match(r"bytes=(\d+)-(\d+)", wanted or "")
            if not span:
                return self._answer(200, data)
            start, end = int(span[1]), min(int(span[2]) + 1, len(data))
            extent = f"bytes {start}-{end - 1}/{len(data)}"
            body = data[start:end]
            if fault == "short":
                body = body[: len(body) // 2]
            if fault == "broken":
                self.close_connection = True
            return self._answer(206, body, extent, cut=fault == "broken")

        def _answer(
            self, status: int, body: bytes, extent: str | None = None, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            if extent:
                self.send_header("Content-Range", extent)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if cut else body)

    return Handler


@pytest.fixture
def range_server(tmp_path: Path) -> Iterator[RangeServer]:
    server = RangeServer(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listening:
        server.port = listening.server_port
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield server
        listening.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _fresh_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the environment or the stores of another."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    storage.forget()
    yield
    storage.forget()


@pytest.fixture(scope="session")
def write_tif() -> Callable[..., Path]:
    """A function that writes an array as a GeoTIFF, 10 m pixels of UTM 32 unless told."""

    def write(
        path: Path, array: NDArray[Any], *, overviews: tuple[int, ...] = (), **profile: Any
    ) -> Path:
        height, width = array.shape[-2:]
        bands = array.reshape(-1, height, width)
        given = {
            "crs": "EPSG:32632",
            "transform": from_origin(300000, 5100000, 10, 10),
            "compress": "deflate",
        } | profile
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=len(bands),
            dtype=array.dtype.name,
            **given,
        ) as image:
            for number, band in enumerate(bands, 1):
                image.write(band, number)
            if overviews:
                image.build_overviews(list(overviews))
        return path

    return write


@pytest.fixture(scope="session")
def noise() -> Callable[..., NDArray[Any]]:
    """A function that returns arrays of smooth ground and noise, without zeros."""

    def make(shape: tuple[int, int], dtype: str = "uint16", seed: int = 0) -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[: shape[0], : shape[1]]
        smooth = 60 + 30 * np.sin(x / 9) + 20 * np.cos(y / 7) + rng.normal(0, 3, shape)
        return np.clip(smooth, 1, 126).astype(dtype)

    return make
