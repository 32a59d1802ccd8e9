"""What is told of an archive that does not answer."""

import logging
import socket

import pytest

from alpage.archive.fetch import TrustedIO
from alpage.archive.trust import TrustPolicy
from alpage.errors import ArchiveError


def test_retries_are_told_without_the_key(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others configure logging anew, which silences loggers that are there.
    logger = logging.getLogger("urllib3.connectionpool")
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    caplog.set_level(logging.WARNING, logger=logger.name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Nobody listens there.
        archive = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/search?api_key=hunter2hunter2"
        reader = TrustedIO(TrustPolicy(), archive, timeout_s=1, retries=1)
        with pytest.raises(ArchiveError, match="cannot be read"):
            reader.read_document(archive)
    assert "urllib3.connectionpool" in {record.name for record in caplog.records}
    assert "/v1/search" in caplog.text
    assert "hunter2" not in caplog.text
