"""`alpage serve` on a folder, as browsers see it; tests/s3/test_serve.py has it on a bucket."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from alpage.serve.static import app_for
from alpage.serve.watch import Watch


@contextlib.contextmanager
def serving(place: Path) -> Iterator[httpx.Client]:
    """A client of a server of this process."""
    config = uvicorn.Config(app_for(str(place), Watch()), log_level="warning", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("header", ["range", "if-none-match", "if-range, if-modified-since"])
def test_browsers_may_name_what_readers_send(tmp_path: Path, header: str) -> None:
    asked = {
        "Origin": "https://maps.example.org",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": header,
    }
    with serving(tmp_path) as client:
        answer = client.options("/snow/collection.json", headers=asked)
        refused = client.options(
            "/snow", headers=asked | {"Access-Control-Request-Headers": "x-mine"}
        )
    assert answer.status_code == 200
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert set(header.split(", ")) <= set(allowed)
    assert int(answer.headers["access-control-max-age"]) == 86400
    assert refused.status_code == 400


LASTING = "public, max-age=31536000, immutable"
WHOLE, UNFINISHED = "snow/20261123T041948Z-AAAABBBB", "snow/20261124T041948Z-CCCCDDDD"


def test_caches_keep_what_is_whole_and_nothing_else(tmp_path: Path) -> None:
    shard = "cube.zarr/day/ndvi/c/0/0/0"
    for path in (f"{WHOLE}/{shard}", f"{UNFINISHED}/{shard}", f"{WHOLE}/collection.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"{}")
    (tmp_path / "snow" / "collection.json").write_text("{}")
    with serving(tmp_path) as client:

        def told(path: str, **headers: str) -> tuple[int, str]:
            answer = client.get(path, headers=headers)
            return answer.status_code, answer.headers["cache-control"]

        assert told("/snow/collection.json") == (200, "no-cache")
        assert told(f"/{WHOLE}/collection.json") == (200, LASTING)
        assert told(f"/{WHOLE}/{shard}", Range="bytes=0-0") == (206, LASTING)
        etag = client.head(f"/{WHOLE}/{shard}").headers["etag"]
        assert told(f"/{WHOLE}/{shard}", **{"If-None-Match": etag}) == (304, LASTING)
        assert told(f"/{WHOLE}/cube.zarr/day/ndvi/c/0/0/1") == (404, "no-cache")
        # Not by another way to the pointer either.
        assert told(f"/{WHOLE}/%2e%2e/collection.json") == (200, "no-cache")

        assert told(f"/{UNFINISHED}/{shard}") == (200, "no-cache")
        assert told(f"/{UNFINISHED}/collection.json") == (404, "no-cache")
        (tmp_path / UNFINISHED / "collection.json").write_text("{}")
        assert told(f"/{UNFINISHED}/{shard}") == (200, LASTING)
        assert told(f"/{'x' * 5000}/{WHOLE}/{shard}") == (404, "no-cache")


def test_browsers_see_what_readers_need(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(bytes(1000))
    asked = {"Origin": "https://maps.example.org", "Range": "bytes=10-19"}
    with serving(tmp_path) as client:
        answer = client.get("/shard", headers=asked)
    assert (answer.status_code, answer.headers["content-range"]) == (206, "bytes 10-19/1000")
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"Content-Range", "Accept-Ranges", "Content-Length", "ETag"} == set(exposed)
    assert {"accept-ranges", "content-length", "etag"} <= set(answer.headers)
