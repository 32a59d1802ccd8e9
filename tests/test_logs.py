"""Logs as JSON: one object a line, with ids, and without credentials."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpage.redaction import redact

ROOT = Path(__file__).resolve().parents[1]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYa",
    "PREFECT_API_AUTH_STRING": "admin:correct-horse",
}
URL = "https://user:hunter2@example.org/a.tif?X-Amz-Signature=abcdef"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"GET {URL}: 403", "GET https://example.org/a.tif: 403"),
        (f"({URL!r})", "('https://example.org/a.tif')"),
        ("s3://AKIA:ab/cd+ef@bucket/key gone", "s3://bucket/key gone"),
        ("http://127.0.0.1:4200/api and s3://bucket/a@2x.png", None),
        ("https://example.org:8443/a@b/c.tif", None),
        ("block 3 of observe failed: 10 % done", None),
    ],
)
def test_only_credentials_are_taken_out(text: str, told: str | None) -> None:
    assert redact(text) == (text if told is None else told)


def lines_of(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **SECRETS, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_record_is_one_line_with_its_ids_and_no_secret() -> None:
    done = run_python(
        f"""
import logging, os
from alpage import logs
logs.configure()
logs.configure()
logger = logging.getLogger("alpage.engine")
with logs.about(run="r-1", stage="observe"):
    with logs.about(block="0,1,2"):
        logger.warning("GET %s with %s failed\\nagain", {URL!r}, os.environ["AWS_SESSION_TOKEN"])
    logger.info("next: 100 %")
try:
    raise OSError({URL!r} + os.environ["AWS_SECRET_ACCESS_KEY"])
except OSError:
    logger.exception("lost")
logger.debug("not told")
logging.getLogger("elsewhere").warning("auth %s", os.environ["PREFECT_API_AUTH_STRING"])
""",
        ALPAGE_LOG_FORMAT="json",
    )
    first, second, third, fourth = lines_of(done.stderr)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "alpage.engine",
        "message": "GET https://example.org/a.tif with *** failed\nagain",
        "run": "r-1",
        "stage": "observe",
        "block": "0,1,2",
    }
    assert (second["message"], second["stage"]) == ("next: 100 %", "observe")
    assert "block" not in second
    assert third["level"] == "error"
    assert "OSError: https://example.org/a.tif" in third["exception"]
    assert fourth["message"] == "auth ***"
    assert not any(secret in done.stderr for secret in (*SECRETS.values(), "hunter2", "abcdef"))


def test_plain_prints_nothing_that_nobody_asked_for() -> None:
    code = "import logging; from alpage import logs; logs.configure()\n"
    done = run_python(code + "logging.getLogger('alpage.engine').warning('told')")
    assert done.stderr == ""


BREAKING = f'''
"""The example product, with a function that always fails."""

from dataclasses import replace

import monthly_ndvi


def greenest(month):
    raise RuntimeError("no answer from {URL}")


observing, deriving = monthly_ndvi.product.stages
product = replace(
    monthly_ndvi.product, stages=(observing, replace(deriving, function=greenest))
)
'''


@pytest.mark.slow
def test_a_run_tells_its_blocks_from_both_sides_and_no_secret(shared: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "examples" / "monthly_ndvi.py", tmp_path)
    (tmp_path / "breaking.py").write_text(BREAKING)
    archive = shared / "archive" / "00002806639B424A" / "collection.json"
    study = {
        "product": "breaking:product",
        "area": {"bbox": [3.0193, 50.8131, 3.0284, 50.8188]},
        "period": "2018-05-01/2018-05-31",
        "archive": str(archive),
        "cube": "cube",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = subprocess.run(
        [sys.executable, "-m", "alpage.cli", "run", str(tmp_path / "study.yaml"), "--json"],
        env={**os.environ, "ALPAGE_LOG_FORMAT": "json", "ALPAGE_BLOCK_RETRIES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    # The last is the command's own sentence.
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert "hunter2" not in done.stderr
    assert "abcdef" not in done.stderr
    failed = [line for line in told if line["message"].startswith("greenest, tile")]
    workers = [line for line in failed if line["logger"] == "alpage.engine.block"]
    coordinator = [line for line in failed if line["logger"] == "alpage.engine.run"]
    assert {line["attempt"] for line in workers} == {line["attempt"] for line in coordinator}
    assert {line["attempt"] for line in coordinator} == {1, 2}
    for line in failed:
        assert line["product"] == "monthly_ndvi"
        assert (line["cube"], line["stage"], line["level"]) == ("cube", "greenest", "warning")
        assert line["message"].startswith(f"greenest, tile {line['block'].rpartition(',')[0]}, ")
        assert "no answer from https://example.org/a.tif" in line["message"]
    assert all("in greenest" in line["exception"] for line in workers)
    assert len({line["run"] for line in told if "run" in line}) == 1
    (ended,) = [line for line in told if line["level"] == "error"]
    assert ended["message"].startswith("the run has ended: greenest, tile")
