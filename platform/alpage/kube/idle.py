"""What a scheduler's HTTP server tells the Dask operator: since when nothing is done, no more.

The operator ends forgotten clusters by it; it has no certificate to ask the scheduler otherwise.
"""

from distributed.http.scheduler.api import CheckIdleHandler

routes: list[tuple[str, type[CheckIdleHandler], dict[str, object]]] = [
    ("/api/v1/check_idle", CheckIdleHandler, {})
]
