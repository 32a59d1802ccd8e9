"""What a server of releases tells Prometheus: requests, bytes and seconds, never whose."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# From a pointer in memory to a shard over a slow line.
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Watch:
    """The counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "alpage_service_requests", "Requests answered.", ["status"], registry=self.registry
        )
        self.sent = Counter(
            "alpage_service_sent_bytes", "Bytes of answers.", registry=self.registry
        )
        self.seconds = Histogram(
            "alpage_service_request_seconds",
            "Time from a request to the last byte of its answer.",
            buckets=BUCKETS,
            registry=self.registry,
        )


class Watched:
    """ASGI middleware that counts what an application answers."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app, self._watch = app, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), "none"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            elif message["type"] == "http.response.body":
                self._watch.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            # A reader that went away, or a store that broke off, has got no whole answer.
            self._watch.requests.labels(status).inc()
            self._watch.seconds.observe(time.perf_counter() - began)
