"""Fixtures that every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says more of the machine than of the code.
settings.register_profile("alpage", deadline=None)
settings.load_profile("alpage")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real imagery, truths and test vectors that lies beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data folder beside the project: {SHARED.name}/ is absent")
    return SHARED
