"""A real Prefect server on this machine."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from s3_server import free_port

STARTS_WITHIN_S = 240
DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """A database as Prefect lays it out: once for all processes, it takes half a minute."""
    folder = tmp_path_factory.getbasetemp().parent / f"prefect-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    path = folder / "prefect.db"
    with (folder / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not path.exists():
            url = f"sqlite+aiosqlite:///{folder}/new.db"
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env={**os.environ, "PREFECT_HOME": str(folder), DATABASE: url},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            (folder / "new.db").rename(path)
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, database: Path) -> dict[str, str]:
    """A Prefect home of its own, and the products of the examples."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copyfile(database, home / "prefect.db")
    return {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(EXAMPLES),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }


@pytest.fixture(scope="session")
def running_server() -> Callable[[dict[str, str]], AbstractContextManager[str]]:
    """Runs a server in an environment; gives the address of its API."""
    return _running_server


@contextlib.contextmanager
def _running_server(environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    api = f"http://127.0.0.1:{port}/api"
    try:
        end = time.monotonic() + STARTS_WITHIN_S
        while not _is_healthy(api):
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)
        yield api
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_healthy(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
