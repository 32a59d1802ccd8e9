"""The server that tests and benchmarks use: there when asked for, gone whatever happens."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import s3_server
from s3_server import NoServer

PATIENCE_S = 20
OWNER = """
import sys, time
from s3_server import running
with running():
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.usefixtures("s3_server")
def test_a_killed_owner_leaves_nothing(tmp_path: Path) -> None:
    scripts = str(Path(s3_server.__file__).parent)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=os.environ | {"PYTHONPATH": scripts, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    family = psutil.Process(owner.pid).children(recursive=True)
    assert any("versitygw" in one.name() for one in family)
    owner.kill()
    owner.communicate()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
    deadline = time.monotonic() + PATIENCE_S
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


def test_without_go_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3_server, "TOOLS", tmp_path)
    monkeypatch.setattr(s3_server, "PROGRAM", tmp_path / "versitygw")
    monkeypatch.setattr(s3_server, "USUAL_GO", str(tmp_path / "go"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServer, match="found none on PATH: install it"):
        s3_server.built()
