"""Logs of the package, and their form as JSON: one object a line, with run, stage and block.

A worker that Dask starts with `--preload alpage.logs`, or with that in its configuration, writes
them so too where ALPAGE_LOG_FORMAT says it.
"""

import contextlib
import datetime as dt
import json
import logging
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from alpage.redaction import redact
from alpage.settings import settings

# Nothing of a library is printed unless somebody asks for it.
logging.getLogger("alpage").addHandler(logging.NullHandler())

_replaced: list[logging.Handler] = []
"""Kept, since Prefect configures its handlers by name again: one that is gone would come back."""
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


@contextlib.contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Give every record that is written meanwhile these fields, besides those it has already."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def run_id() -> str:
    """Return the id of the run that records are about; a new one where nobody gave it."""
    return str(_about.get().get("run") or uuid.uuid4())


class Redacting(logging.Filter):
    """Takes credentials out of a record's message and traceback; lets every record through."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record as it may be read."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            # What a formatter finds here it does not make anew.
            record.exc_text = redact(self._formatter.formatException(record.exc_info))
        return True


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                "T", "milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about.get(),
        }
        if record.exc_info:
            fields["exception"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def configure() -> None:
    """Write this process's logs as the settings say; plain leaves them as they are."""
    if settings().log_format == "plain":
        return
    root = logging.getLogger()
    known = [root, *map(logging.getLogger, tuple(root.manager.loggerDict))]
    for logger in known:
        _keep_no_console(logger)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Redacting())
    root.addHandler(handler)
    logging.getLogger("alpage").setLevel(logging.INFO)


def dask_setup(_worker: object) -> None:
    """Configure a worker of Dask."""
    configure()


def _keep_no_console(logger: logging.Logger) -> None:
    """Leave a logger only what does not write to the console: that is the root's to do, once."""
    for handler in tuple(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            continue
        if isinstance(handler, logging.StreamHandler):
            logger.removeHandler(handler)
            _replaced.append(handler)
            logger.propagate = True
            # What was kept from the console still is.
            logger.setLevel(max(logger.level, handler.level))
        elif not any(isinstance(one, Redacting) for one in handler.filters):
            # Prefect's, which sends records to its server.
            handler.addFilter(Redacting())
