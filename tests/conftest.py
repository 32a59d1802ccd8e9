"""Fixtures that every test may use."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from alpage.objectstore import forget_environment

# How long one example takes says more of the machine than of the code.
settings.register_profile("alpage", deadline=None)
settings.load_profile("alpage")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    """Let Python keep bytecode, as `make test` does: tests start dozens of processes.

    Compiling every module anew would take most of their time.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest folders first, so that at the end no core waits for the other."""
    items.sort(key=lambda item: not {"s3", "spine", "flows"}.intersection(item.path.parts))


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the package logs meanwhile."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("alpage")
    logger.addHandler(handler)
    yield told
    logger.removeHandler(handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real imagery, truths and test vectors that lies beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data folder beside the project: {SHARED.name}/ is absent")
    return SHARED


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """No test reaches object stores by the environment of another."""
    forget_environment()
    yield
    forget_environment()
