"""A real S3 server on this machine, a bucket for each test, and a proxy that breaks promises."""

import contextlib
import datetime as dt
import http.client
import http.server
import json
import random
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import s3fs
from s3_server import PROGRAM, running

from alpage.clusters import open_cluster
from alpage.cube.store import CubeStore
from alpage.objectstore import forget_environment
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import Valley, simulate
from alpage.study import ClusterChoice, Study, make_study

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
# Eight dates over a change of processing baseline; the last but one comes late.
SPEC = ValleySpec(
    size_px=128, start=date(2021, 12, 5), end=date(2022, 4, 10), revisit_days=18, block_px=128
)
ANYONE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*"}],
}
Environment = dict[str, str]


@dataclass(frozen=True)
class Bucket:
    """A bucket of the server, seen by another client than alpage's."""

    name: str
    environment: Environment
    """What reaches the server, keys included."""
    files: s3fs.S3FileSystem

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    @property
    def options(self) -> dict[str, Any]:
        """What fsspec's readers are told."""
        return {
            "key": self.environment["AWS_ACCESS_KEY_ID"],
            "secret": self.environment["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": self.environment["AWS_ENDPOINT_URL"],
        }

    def listing(self) -> list[str]:
        """Every object's key."""
        self.files.invalidate_cache()
        return [path.partition("/")[2] for path in self.files.find(self.name)]

    def upload(self, valley: Valley) -> str:
        """Put a valley's archive into the bucket; gives its address."""
        for path in valley.archive.rglob("*"):
            if path.is_file():
                key = path.relative_to(valley.archive)
                self.files.pipe_file(f"{self.name}/archive/{key}", path.read_bytes())
        return f"{self.url}/archive/collection.json"

    def open_to_all(self) -> None:
        """Let anyone do anything, unsigned."""
        where = {"Resource": [f"arn:aws:s3:::{self.name}", f"arn:aws:s3:::{self.name}/*"]}
        policy = ANYONE | {"Statement": [ANYONE["Statement"][0] | where]}
        self.files.call_s3("put_bucket_policy", Bucket=self.name, Policy=json.dumps(policy))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Environment]:
    """A server's environment; skips where it is not built."""
    if not PROGRAM.exists():
        pytest.skip("needs a real S3 server: `make s3-server` builds it, in some minutes, by Go")
    with running() as environment:
        yield environment


@pytest.fixture
def s3(s3_server: Environment, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, and the environment that reaches it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_SKIP_SIGNATURE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    forget_environment()
    return _new_bucket(s3_server)


def _new_bucket(environment: Environment) -> Bucket:
    files = s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
    )
    name = f"test-{uuid.uuid4().hex[:12]}"
    files.mkdir(name)
    return Bucket(name, environment, files)


@pytest.fixture(scope="session")
def valley(tmp_path_factory: pytest.TempPathFactory) -> Valley:
    """A valley of 1280 m on disk; read only."""
    return simulate(tmp_path_factory.mktemp("valley"), SPEC)


@pytest.fixture(scope="session")
def scheduler(s3_server: Environment) -> Iterator[str]:
    """The address of a cluster of two workers that take their keys from their environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        with open_cluster(ClusterChoice(workers=2, memory_gib=3)) as client:
            yield client.scheduler.address


StudyOf = Callable[..., Study]


def _studies(valley: Valley, scheduler: str) -> StudyOf:
    def make(product: str, cube: str, **changed: Any) -> Study:
        content = {
            "product": "monthly_ndvi:product" if product == "monthly_ndvi" else product,
            "area": {"bbox": valley.bbox},
            "period": f"{SPEC.start}/{SPEC.end}",
            "archive": str(valley.collection),
            "cube": cube,
            "zones": str(valley.zones),
            "dem": str(valley.dem) if product == "snow" else None,
            "grid": {"crs": "EPSG:32632", "resolution": 20, "tile_px": 32, "window_days": 96},
            "cluster": {"kind": "address", "address": scheduler},
        }
        return make_study(content | changed, folder=EXAMPLES)

    return make


@pytest.fixture
def study_of(valley: Valley, scheduler: str) -> StudyOf:
    """A function that makes a study: product, the cube's place, changed keys."""
    return _studies(valley, scheduler)


@pytest.fixture(scope="session")
def studies() -> Callable[[Valley, str], StudyOf]:
    """What gives, for a scheduler's address, what `study_of` is."""
    return _studies


def read_arrays(cube: str) -> dict[str, Any]:
    """Every array of a cube but what its blocks cost, and what they were read from."""
    root = CubeStore.open(cube).read()
    return {
        path: np.asarray(node[...])
        for path, node in root.members(max_depth=None)
        if hasattr(node, "dtype") and not path.endswith(("/cost", "/fingerprint"))
    }


@pytest.fixture(scope="session")
def same_cube() -> Callable[[str, str], None]:
    """A function that compares two cubes array by array."""

    def compare(one: str, other: str) -> None:
        mine, theirs = read_arrays(one), read_arrays(other)
        assert sorted(mine) == sorted(theirs)
        for path, array in mine.items():
            np.testing.assert_array_equal(array, theirs[path], err_msg=path)

    return compare


@dataclass
class Proxy:
    """A store that keeps all promises of the server behind it but those named here."""

    server: str
    port: int = 0
    ignored: tuple[str, ...] = ()
    """Headers of requests that it overlooks."""
    clock_minutes: float | None = None
    """How far the times that it gives objects are from ours."""
    lists_nothing: bool = False
    refuses_conditions: bool = False
    faults: tuple[str, ...] = ()
    """What goes wrong: 503, reset, lost, truncated or stalled."""
    fault_rate: float = 0.1
    played: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    bucket: Any = None
    scheduler: str = ""

    def next_fault(self, method: str) -> str:
        """Return what goes wrong with a request, nothing for most."""
        if not self.faults or self.chance.random() > self.fault_rate:
            return ""
        fault = self.chance.choice(self.faults)
        if fault == "truncated" and method != "GET":
            return ""
        self.played[fault] += 1
        return fault

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _handler(proxy: Proxy) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.next_fault(self.command)
            if fault == "503":
                busy = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
                return self._answer(503, {"Retry-After": "1"}, busy)
            if fault == "reset":
                return self._reset()
            if fault == "stalled":
                time.sleep(2)
            conditional = any(name.lower().startswith("if-") for name in self.headers)
            if proxy.refuses_conditions and conditional:
                return self._answer(400, {}, b"<Error><Code>InvalidArgument</Code></Error>")
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in proxy.ignored
            }
            back = http.client.HTTPConnection(urlsplit(proxy.server).netloc)
            back.request(self.command, self.path, body, headers)
            answer = back.getresponse()
            content = answer.read()
            if proxy.lists_nothing and "list-type=2" in self.path:
                content = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
            told = dict(answer.getheaders())
            if proxy.clock_minutes is not None:
                moment = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=proxy.clock_minutes)
                told["Last-Modified"] = format_datetime(moment, usegmt=True)
            back.close()
            if fault == "lost":
                # It was done, and nobody is told.
                return self._reset()
            self._answer(answer.status, told, content, cut=fault == "truncated")

        def _reset(self) -> None:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True

        def _answer(
            self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
        ) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if cut:
                self.close_connection = True
                content = content[: len(content) // 2]
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815

    return Handler


@pytest.fixture
def proxy(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, unsigned so that it may change what it passes on."""
    s3.open_to_all()
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with _proxied(s3.environment, monkeypatch) as made:
        yield made


@contextlib.contextmanager
def _proxied(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = Proxy(environment["AWS_ENDPOINT_URL"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(made)) as listening:
        listening.daemon_threads = True
        made.port = listening.server_port
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        forget_environment()
        yield made
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def proxied() -> Callable[..., Any]:
    """The function that puts a proxy before a server, which passes on signatures unchanged."""
    return _proxied


@pytest.fixture(scope="session")
def new_bucket() -> Callable[[Environment], Bucket]:
    """The function that makes a bucket."""
    return _new_bucket
