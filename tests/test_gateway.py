"""Runs on clusters of a real dask-gateway-server, whose backend starts processes here."""

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dask.config
import dask_gateway  # noqa: F401 - it brings the settings that tests change
import httpx
import icechunk
import pytest
import xarray as xr
from s3_server import free_port

from alpage import verbs
from alpage.clusters import open_cluster
from alpage.errors import ClusterError
from alpage.settings import settings
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import Valley, simulate
from alpage.study import ClusterChoice, Study, make_study

pytestmark = pytest.mark.slow

# distributed has no dask-scheduler any more, which the server starts by default.
CONFIG = """
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = {password!r}
c.DaskGateway.address = "127.0.0.1:{server}"
c.Proxy.address = "127.0.0.1:{proxy}"
c.UnsafeLocalBackend.clusters_directory = {folder!r}
c.ClusterConfig.scheduler_cmd = ["dask", "scheduler"]
c.ClusterConfig.worker_cmd = ["dask", "worker"]
c.ClusterConfig.worker_memory = "2 G"
c.ClusterConfig.cluster_max_workers = {workers}
"""


@dataclass(frozen=True)
class Server:
    """A gateway, and what its users must know."""

    address: str
    password: str

    def settings(self, password: str | None = None) -> dask.config.set:
        """Dask's settings of a user, as a context."""
        told = {"username": "ann", "password": password or self.password}
        return dask.config.set({"gateway.auth.type": "basic", "gateway.auth.kwargs": told})

    def clusters(self) -> list[str]:
        """The names of the clusters that run."""
        answer = httpx.get(f"{self.address}/api/v1/clusters/", auth=("ann", self.password))
        return list(answer.raise_for_status().json())


def serve(folder: Path, workers: int) -> Iterator[Server]:
    folder.mkdir(parents=True)
    password, proxy = secrets.token_hex(8), free_port()
    config = folder / "config.py"
    config.write_text(
        CONFIG.format(
            password=password, server=free_port(), proxy=proxy, folder=str(folder), workers=workers
        )
    )
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    log = folder / "log"
    with log.open("w") as to:
        server = subprocess.Popen(
            [programs / "dask-gateway-server", "-f", config],
            env=environment,
            stdout=to,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{proxy}"
    try:
        until = time.monotonic() + 60
        while not _answers(f"{address}/api/health"):
            assert time.monotonic() < until, log.read_text()
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield Server(address, password)
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tmp_path_factory.mktemp("gateway") / "server", workers=2)


@pytest.fixture(scope="module")
def valley(tmp_path_factory: pytest.TempPathFactory) -> Valley:
    spec = ValleySpec(
        size_px=128, start=date(2021, 6, 1), end=date(2021, 8, 1), revisit_days=20, block_px=128
    )
    return simulate(tmp_path_factory.mktemp("gateway-valley") / "valley", spec)


def study_on(valley: Valley, cube: Path, cluster: dict[str, object]) -> Study:
    return make_study(
        {
            "product": "vegetation",
            "area": {"bbox": list(valley.bbox)},
            "period": "2021-06-01/2021-07-31",
            "archive": str(valley.collection),
            "cube": str(cube),
            "grid": {"tile_px": 64},
            "cluster": cluster,
        },
        folder=cube.parent,
    )


def test_a_run_on_a_gateway_is_the_local_one(gateway: Server, valley: Valley, tmp_path) -> None:
    there = {"kind": "gateway", "address": gateway.address, "memory_gib": 1.8}
    with gateway.settings():
        report = verbs.run(study_on(valley, tmp_path / "there", there))
    assert report.n_blocks
    assert gateway.clusters() == []
    verbs.run(study_on(valley, tmp_path / "here", {"memory_gib": 1.8}))
    groups = [alpage_open(tmp_path / name) for name in ("there", "here")]
    assert groups[0].keys() == groups[1].keys()
    for name, group in groups[0].items():
        xr.testing.assert_identical(group, groups[1][name])


def alpage_open(cube: Path) -> dict[str, xr.Dataset]:
    storage = icechunk.local_filesystem_storage(str(cube))
    store = icechunk.Repository.open(storage).readonly_session("main").store
    calendars = ("day", "dekad", "year")
    return {
        name: xr.open_zarr(store, group=name, consolidated=False, chunks=None)
        .load()
        .drop_attrs(deep=False)
        for name in calendars
    }


def test_a_run_that_fails_leaves_no_cluster(gateway: Server) -> None:
    choice = ClusterChoice(kind="gateway", address=gateway.address, memory_gib=1.8)

    def fail() -> None:
        with open_cluster(choice) as client:
            assert len(gateway.clusters()) == 1
            client.wait_for_workers(2, timeout=60)
            raise KeyboardInterrupt

    with gateway.settings(), pytest.raises(KeyboardInterrupt):
        fail()
    assert gateway.clusters() == []


def test_less_memory_than_planned_is_refused(gateway: Server) -> None:
    choice = ClusterChoice(kind="gateway", address=gateway.address, memory_gib=4)
    with (
        gateway.settings(),
        pytest.raises(ClusterError, match=r"has 2\.00 GiB of memory, the study plans for 4"),
        open_cluster(choice),
    ):
        pass
    assert gateway.clusters() == []


def _event_loops() -> set[int | None]:
    """The threads of distributed's event loops."""
    return {each.ident for each in threading.enumerate() if each.name == "IO loop"}


def test_who_may_not_come_in_is_told(gateway: Server) -> None:
    choice = ClusterChoice(kind="gateway", address=gateway.address)
    before = _event_loops()
    with (
        gateway.settings(password="wrong"),
        pytest.raises(ClusterError, match=r"gave no cluster: .*gateway\.auth") as caught,
        open_cluster(choice),
    ):
        pass
    assert "wrong" not in str(caught.value)
    # Nothing is left for finalizers, which run in whatever thread collects them.
    assert _event_loops() == before


def test_no_server_is_told() -> None:
    choice = ClusterChoice(kind="gateway", address=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match=r"gave no cluster: "), open_cluster(choice):
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ALPAGE_CLUSTER_START_SECONDS", "5")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.usefixtures("impatient")
def test_no_worker_is_told(tmp_path: Path) -> None:
    for server in serve(tmp_path / "server", workers=0):
        choice = ClusterChoice(kind="gateway", address=server.address)
        with (
            server.settings(),
            pytest.raises(
                ClusterError, match=r"none of 2 workers within 5 s: .*resource limit of 0 workers"
            ),
            open_cluster(choice),
        ):
            pass
        assert server.clusters() == []
