"""The Dask operator's own settings, beside a Kubernetes API that takes requests and is silent."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml
from kr8s import APITimeoutError
from kr8s.asyncio.objects import Service

from alpage.kube import operator

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An API that tells its version, and of anything else nothing for as long as the test runs."""
    end = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/version"):
                end.wait()
                return
            body = json.dumps(VERSION).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = {"server": f"http://127.0.0.1:{server.server_port}"}
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "own",
        "clusters": [{"name": "own", "cluster": where}],
        "users": [{"name": "own", "user": {}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(told))
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield
    end.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_that_is_lost_is_not_waited_for_for_ever(
    silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "ANSWER_S", 0.5)

    async def ask() -> None:
        settings, memo = kopf.OperatorSettings(), kopf.Memo()
        await operator.configure(settings=settings, memo=memo)
        assert settings.scanning.disabled
        # As dask-kubernetes asks: by whatever client kr8s has.
        async with asyncio.timeout(20):
            await Service.get("a-scheduler", namespace="team")

    with pytest.raises(APITimeoutError):
        asyncio.run(ask())
