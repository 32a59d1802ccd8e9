"""`alpage serve` on a bucket, as browsers and readers see it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import xarray as xr
from prometheus_client.parser import text_string_to_metric_families
from s3_server import free_port

CONTENT = bytes(range(256)) * 5000
PATIENCE_S = 60


@pytest.fixture
def client(s3) -> Iterator[httpx.Client]:
    """Speaks to a server of the bucket's releases/; beside it lies what is nobody's business."""
    s3.files.pipe_file(f"{s3.name}/releases/snow/shard", CONTENT)
    s3.files.pipe_file(f"{s3.name}/releases/snow/collection.json", b'{"type": "Collection"}')
    s3.files.pipe_file(f"{s3.name}/secret", b"not for readers")
    with serving(f"{s3.url}/releases") as url, httpx.Client(base_url=url) as client:
        yield client


@contextlib.contextmanager
def serving(place: str, **environment: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "alpage.cli", "serve", place, "--port", str(port)]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/healthz").is_success:
                    break
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("asked", "expected", "told"),
    [
        ("bytes=0-0", CONTENT[:1], "bytes 0-0/1280000"),
        ("bytes=1000-1999", CONTENT[1000:2000], "bytes 1000-1999/1280000"),
        ("bytes=1279990-", CONTENT[-10:], "bytes 1279990-1279999/1280000"),
        ("bytes=-260", CONTENT[-260:], "bytes 1279740-1279999/1280000"),
        ("bytes=1279990-9999999", CONTENT[-10:], "bytes 1279990-1279999/1280000"),
    ],
)
def test_ranges(client: httpx.Client, asked: str, expected: bytes, told: str) -> None:
    answer = client.get("/snow/shard", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-range"] == told
    assert answer.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize("asked", ["bytes=5-3", "bytes=0-1,4-5", "rows=1-2", "bytes=-", "x"])
def test_other_ranges_get_everything(client: httpx.Client, asked: str) -> None:
    answer = client.get("/snow/shard", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_a_range_beyond_the_end(client: httpx.Client) -> None:
    answer = client.get("/snow/shard", headers={"Range": "bytes=1280000-1280001"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */1280000"


def test_browsers_may_read_and_ask_again(client: httpx.Client) -> None:
    answer = client.get("/snow/collection.json", headers={"Origin": "https://maps.example.org"})
    assert answer.json() == {"type": "Collection"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Content-Range" in answer.headers["access-control-expose-headers"]
    preflight = client.options(
        "/snow/shard",
        headers={
            "Origin": "https://maps.example.org",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "if-none-match,range",
        },
    )
    assert preflight.status_code == 200
    assert "Range" in preflight.headers["access-control-allow-headers"]
    etag = answer.headers["etag"]
    again = client.get("/snow/collection.json", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head("/snow/shard")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "1280000"


def test_caches_keep_what_is_whole_and_nothing_else(s3, client: httpx.Client) -> None:
    release = "snow/20261123T041948Z-AAAABBBB"
    s3.files.pipe_file(f"{s3.name}/releases/{release}/shard", CONTENT)

    def told(path: str, **headers: str) -> tuple[int, str]:
        answer = client.get(path, headers=headers)
        return answer.status_code, answer.headers["cache-control"]

    assert told("/snow/collection.json") == (200, "no-cache")
    assert told(f"/{release}/shard") == (200, "no-cache")
    s3.files.pipe_file(f"{s3.name}/releases/{release}/collection.json", b"{}")
    lasting = "public, max-age=31536000, immutable"
    assert told(f"/{release}/shard", Range="bytes=0-0") == (206, lasting)
    etag = client.head(f"/{release}/shard").headers["etag"]
    assert told(f"/{release}/shard", **{"If-None-Match": etag}) == (304, lasting)
    assert told(f"/{release}/none") == (404, "no-cache")
    assert told("/snow/collection.json") == (200, "no-cache")


@pytest.mark.parametrize(
    "path", ["/none", "/snow", "/../secret", "/%2e%2e/secret", "/snow/..%2f..%2fsecret", "//secret"]
)
def test_nothing_else_is_there(client: httpx.Client, path: str) -> None:
    # httpx would tidy the path up: this one goes as it is.
    answer = client.get(httpx.URL(str(client.base_url)).copy_with(raw_path=path.encode()))
    assert answer.status_code == 404
    assert b"readers" not in answer.content


def test_nobody_writes(client: httpx.Client) -> None:
    assert client.put("/snow/shard", content=b"mine").status_code == 405
    assert client.delete("/snow/shard").status_code == 405
    assert client.get("/snow/shard").content == CONTENT


def test_prometheus_sees_what_is_asked_and_sent(s3) -> None:
    s3.files.pipe_file(f"{s3.name}/releases/shard", CONTENT)
    metrics = free_port()
    with serving(f"{s3.url}/releases", ALPAGE_METRICS_PORT=str(metrics)) as url:
        for path, asked in (("shard", "bytes=0-99"), ("shard", "bytes=0-"), ("none", "bytes=0-")):
            httpx.get(f"{url}/{path}", headers={"Range": asked})
        text = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    told = {(one.name, one.labels.get("status")): one.value for one in samples}
    assert told["alpage_service_requests_total", "206"] == 2
    assert told["alpage_service_requests_total", "404"] == 1
    assert told["alpage_service_sent_bytes_total", None] >= 100 + len(CONTENT)
    # The first calls asked whether it is there.
    asked = sum(value for (name, _), value in told.items() if name.endswith("requests_total"))
    assert told["alpage_service_request_seconds_count", None] == asked
    documented = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    ours = {one.name for one in samples if one.name.startswith("alpage_service")}
    for name in {name for name in ours if not name.endswith(("_created", "_bucket", "_sum"))}:
        assert f"`{name.removesuffix('_count')}`" in documented


# HTTP lists nothing: only consolidated metadata say which arrays there are.
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_xarray_reads_a_store(s3) -> None:
    values = np.arange(48 * 40 * 40, dtype="int16").reshape(48, 40, 40)
    written = xr.Dataset({"ndvi": (("time", "y", "x"), values)})
    sharded = {"ndvi": {"chunks": (8, 20, 20), "shards": (24, 40, 40)}}
    to = f"{s3.url}/releases/one/cube.zarr"
    written.to_zarr(to, storage_options=s3.options, encoding=sharded, zarr_format=3)
    with serving(f"{s3.url}/releases") as url:
        found = xr.open_zarr(f"{url}/one/cube.zarr", chunks=None)
        np.testing.assert_array_equal(found["ndvi"][30, 5:9].values, values[30, 5:9])


def test_a_bucket_that_is_not_there_is_told(s3) -> None:
    command = [sys.executable, "-m", "alpage.cli", "serve", "s3://no-such-bucket-here/releases"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "there is no such bucket" in done.stderr
    assert "Traceback" not in done.stderr
