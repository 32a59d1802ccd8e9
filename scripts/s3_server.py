#!/usr/bin/env python3
"""A real S3 server on this machine, for tests, benchmarks and trying things out.

It is versitygw, built once into .tools/ by Go; its data are gone when it stops.

    scripts/s3_server.py COMMAND ...    runs a command with the server in its environment
    scripts/s3_server.py                a shell, until it ends
    scripts/s3_server.py --build        builds the server where it is not there yet
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

# Collecting garbage took a sixth of the compiler's time, a quarter of the server's.
GOGC = "400"
# Older ones lose races of conditional PUTs.
VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
TOOLS = Path(__file__).resolve().parents[1] / ".tools"
USUAL_GO = "/usr/local/go/bin/go"
START_S = 30.0
PROXIES = urllib.request.ProxyHandler({})

# Ends the server when its own input closes, which happens however its parent ends.
GUARD = """
folder=$1; shift
"$@" >"$folder/log" 2>&1 &
read -r _
kill $!
wait $!
rm -rf "$folder"
"""


class NoServer(RuntimeError):  # noqa: N818 - says what there is, not what went wrong
    """The server cannot be had here; the message says why and what to install."""


PROGRAM = TOOLS / f"versitygw-{VERSION}"


def built() -> Path:
    """Return the server's program, built where it is not there yet.

    Raises NoServer where there is no Go to build it with.
    """
    program = PROGRAM
    if program.exists():
        return program
    go = shutil.which("go") or (USUAL_GO if Path(USUAL_GO).exists() else None)
    if go is None:
        raise NoServer(
            f"expected Go to build the S3 server {MODULE}, found none on PATH: "
            "install it (https://go.dev/dl or apt-get install golang)"
        )
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "versitygw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(go, program)
    return program


def _build(go: str, program: Path) -> None:
    # Downloads stay in Go's module cache; what compiling leaves goes with this folder.
    with tempfile.TemporaryDirectory(prefix="versitygw-", dir=TOOLS) as scratch:
        own = {"CGO_ENABLED": "0", "GOBIN": scratch, "GOCACHE": f"{scratch}/cache"}
        done = subprocess.run(
            [go, "install", "-gcflags=all=-dwarf=false", "-ldflags=-s -w", MODULE],
            env={"GOGC": GOGC} | os.environ | own,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason"]
            raise NoServer(f"expected Go to build {MODULE}, it said: {last[0]}")
        Path(scratch, "versitygw").replace(program)


def free_port() -> int:
    """Return a port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Start a server on a free port of this machine; give the environment that reaches it.

    It is stopped and its data are deleted when the block ends, or this process does.
    """
    program = built()
    folder = Path(tempfile.mkdtemp(prefix="s3-server-"))
    key, secret = f"key{secrets.token_hex(8)}", secrets.token_urlsafe(30)
    for name in ("iam", "versions", "data"):
        (folder / name).mkdir()
    address = f"127.0.0.1:{free_port()}"
    command = [str(program), "--port", address, "--quiet", "--keep-alive", "--health", "/healthz"]
    command += ["--cors-allow-origin", "*", "--iam-dir", str(folder / "iam")]
    command += ["posix", "--versioning-dir", str(folder / "versions"), str(folder / "data")]
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "sh", str(folder), *command],
        stdin=subprocess.PIPE,
        env={"GOGC": GOGC} | os.environ | {"ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret},
        # A Ctrl-C at the terminal is for us: the guard then sees its input close.
        start_new_session=True,
    )
    try:
        _await(address, folder)
        yield {
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
        }
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _await(address: str, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    opener = urllib.request.build_opener(PROXIES)
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            opener.open(f"http://{address}/healthz", timeout=2).close()
            return
        time.sleep(0.02)
    said = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
    raise NoServer(f"the S3 server did not answer at {address} in {START_S:.0f} s: {said}")


def main() -> int:
    """Run a command, or a shell, beside a server."""
    command = sys.argv[1:] or [os.environ.get("SHELL", "sh")]
    try:
        if command == ["--build"]:
            built()
            return 0
        with running() as environment:
            told = " ".join(f"{k}={v}" for k, v in environment.items() if "KEY" not in k)
            sys.stderr.write(f"{told}, and its keys, are in the environment\n")
            return subprocess.run(command, env=os.environ | environment, check=False).returncode
    except NoServer as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
