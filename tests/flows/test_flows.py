"""The flows as they are run: as scripts, in processes of their own, with a real Prefect server."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from prefect.client.base import PrefectHttpxSyncClient
from s3_server import free_port

from alpage.cube.reader import open_cube
from alpage.cube.store import MAIN, CubeStore
from alpage.errors import CubeError

FLOWS = Path(__file__).resolve().parents[2] / "flows"
PATIENCE_S = 240

pytestmark = pytest.mark.slow


@pytest.fixture
def study(shared: Path, tmp_path: Path) -> Path:
    archive = shared / "archive" / "00002806639B424A" / "collection.json"
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "product": "monthly_ndvi:product",
                "area": {"bbox": [3.0193, 50.8131, 3.0284, 50.8188]},
                "period": "2018-05-01/2018-08-31",
                "archive": str(archive),
                "cube": "cube",
            }
        )
    )
    return path


@pytest.fixture(scope="module")
def server(environment: dict[str, str], running_server) -> Iterator[str]:  # type: ignore[no-untyped-def]
    """The API address of a Prefect server."""
    with running_server(environment) as api:
        yield api


def _until(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s until {what}"
        time.sleep(0.2)


def _start(flow: str, study: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(FLOWS / f"{flow}.py"), str(study)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_build_runs_without_a_server(study: Path, environment: dict[str, str]) -> None:
    process = _start("build", study, environment)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    (line,) = out.split()
    assert (Path(line) / "collection.json").exists()
    assert "month/ndvi_max" in open_cube(str(study.parent / "cube")).layers


def test_update_on_a_server_leaves_its_artifacts(
    study: Path, environment: dict[str, str], server: str
) -> None:
    process = _start("update", study, environment | {"PREFECT_API_URL": server})
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    of_update = {"flows": {"name": {"any_": ["update"]}}}
    with PrefectHttpxSyncClient(base_url=server) as api:
        (run,) = api.post("/flow_runs/filter", json=of_update).json()
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        artifacts = api.post("/artifacts/filter", json=of_run).json()
        tasks = api.post("/task_runs/filter", json=of_run).json()
    assert run["state_type"] == "COMPLETED"
    assert {artifact["key"] for artifact in artifacts} == {"bill", "progress", "report", "release"}
    (data,) = (a["data"] for a in artifacts if a["key"] == "report")
    report = {row["name"]: row["value"] for row in json.loads(data)}
    assert report["read_seconds"] > 0
    assert report["quarantined"] == {}
    assert {task["name"].rsplit("-", 1)[0] for task in tasks} == {
        "search",
        "plan",
        "run",
        "release",
    }


def test_a_flow_is_seen_by_its_metrics_and_its_log_reaches_prefect(
    study: Path, environment: dict[str, str], server: str
) -> None:
    port = free_port()
    settings = {
        "PREFECT_API_URL": server,
        "PREFECT_LOGGING_EXTRA_LOGGERS": "alpage",
        "ALPAGE_LOG_FORMAT": "json",
        "ALPAGE_METRICS_PORT": str(port),
    }
    process = _start("build", study, environment | settings)
    seen = {}

    def scraped() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
            found = re.findall(r"^(alpage_run_blocks_\w+)\{.*\} (\S+)$", answer, re.MULTILINE)
            names = [name.removeprefix("alpage_run_blocks_") for name, _ in found]
            seen[len(seen)] = names
        return process.poll() is not None

    _until(scraped, "the flow has ended")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    # First nothing, then the run with its queue, then what it had done while it is released.
    kinds = [("done_total" in names, "remaining" in names) for names in seen.values()]
    assert list(dict.fromkeys(kinds)) == [(False, False), (True, True), (True, False)]
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    (begun,) = [line for line in lines if "blocks to do at most" in line["message"]]
    assert (begun["cube"], begun["product"]) == ("cube", "monthly_ndvi")
    of_flow = {"logs": {"level": {"ge_": 20}}, "limit": 200, "sort": "TIMESTAMP_DESC"}
    with PrefectHttpxSyncClient(base_url=server) as api:
        told = api.post("/logs/filter", json=of_flow).json()
    (log,) = [one for one in told if one["message"] == begun["message"]]
    assert log["name"] == "alpage.engine.run"
    assert log["flow_run_id"] == begun["run"]


def test_runs_are_made_from_a_schedule(server: str) -> None:
    """What no flow of ours does: here it broke by a library that Prefect was not ready for."""
    cron = {"schedule": {"cron": "0 3 * * *", "timezone": "UTC"}, "active": True}
    with PrefectHttpxSyncClient(base_url=server) as api:
        flow = api.post("/flows/", json={"name": "scheduled"}).json()
        nightly = {"name": "nightly", "flow_id": flow["id"], "schedules": [cron]}
        api.post("/deployments/", json=nightly)
        of_it = {"flows": {"id": {"any_": [flow["id"]]}}}
        _until(lambda: api.post("/flow_runs/filter", json=of_it).json(), "runs are scheduled")


def test_a_bad_study_is_a_sentence(study: Path, environment: dict[str, str]) -> None:
    study.write_text(study.read_text() + "cubes: x\n")
    process = _start("build", study, environment)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert err.strip().startswith("error cubes: this key is not known")


def test_a_cancelled_flow_leaves_no_process_and_the_cube_as_it_was(
    study: Path, environment: dict[str, str]
) -> None:
    cube = str(study.parent / "cube")
    process = _start("build", study, environment)
    own = psutil.Process(process.pid)

    def is_running_blocks() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return CubeStore.exists(cube) and bool(CubeStore.open(cube).branches() - {MAIN})

    _until(is_running_blocks, "the run has begun")
    children = own.children(recursive=True)
    assert children
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    with pytest.raises(CubeError):
        open_cube(cube)
