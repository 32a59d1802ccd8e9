"""Where Prometheus finds the metrics of this process's runs: open while somebody keeps it so."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from alpage.engine.metrics import Sample
    from alpage.engine.run import Run

logger = logging.getLogger(__name__)


@dataclass
class _Endpoint:
    """An open port, and the runs that it tells of: the last of each product on each cube."""

    server: "WSGIServer"
    thread: threading.Thread
    keepers: int = 1
    live: list["Run"] = field(default_factory=list)
    ended: dict[tuple[str, str], list["Sample"]] = field(default_factory=dict)


_open: _Endpoint | None = None
_lock = threading.Lock()


@contextlib.contextmanager
def serving(port: int | None) -> Iterator[None]:
    """Keep the metrics of this process open at the port, where one is given.

    Whoever opens it within another's time shares it, and the last one closes it. A port that
    cannot be had is told in the log: the work goes on unseen.
    """
    kept = port is not None and _keep(port)
    try:
        yield
    finally:
        if kept:
            _let_go()


@contextlib.contextmanager
def showing(run: "Run") -> Iterator[None]:
    """Tell of a run meanwhile; afterwards of what it had done, as long as the port is open."""
    endpoint = _open
    if endpoint is None:
        yield
        return
    from alpage.engine.metrics import QUEUE, run_samples

    with _lock:
        endpoint.live.append(run)
    try:
        yield
    finally:
        last = [sample for sample in run_samples(run) if sample[0] not in QUEUE]
        with _lock:
            endpoint.live.remove(run)
            endpoint.ended[run.running.cube, run.running.product] = last


def _keep(port: int) -> bool:
    global _open
    with _lock:
        if _open is not None:
            _open.keepers += 1
            return True
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

        from alpage.engine.metrics import RUN, Samples

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(Samples(RUN, _samples))
        try:
            _open = _Endpoint(*start_http_server(port, registry=registry))
        except OSError as error:
            logger.warning(
                "metrics: port %d cannot be opened (%s); choose another ALPAGE_METRICS_PORT. The "
                "run goes on without metrics",
                port,
                error.strerror,
            )
            return False
        return True


def _let_go() -> None:
    global _open
    with _lock:
        endpoint = _open
        assert endpoint is not None
        endpoint.keepers -= 1
        if endpoint.keepers:
            return
        _open = None
    endpoint.server.shutdown()
    endpoint.server.server_close()
    endpoint.thread.join()


def _samples() -> list["Sample"]:
    from alpage.engine.metrics import run_samples

    with _lock:
        endpoint = _open
        live = list(endpoint.live) if endpoint else []
        found = dict(endpoint.ended) if endpoint else {}
    for run in live:
        found[run.running.cube, run.running.product] = run_samples(run)
    return [sample for samples in found.values() for sample in samples]
