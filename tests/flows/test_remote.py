"""From a laptop: a real Prefect server, a real worker, and the command line that follows."""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pytest
import yaml
from prefect.client.base import PrefectHttpxSyncClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from alpage import remote
from alpage.cube.reader import open_cube
from alpage.errors import CubeError, RemoteRefused
from alpage.study import read_study
from alpage.verbs import run as run_here

FLOWS = Path(__file__).resolve().parents[2] / "flows"
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
PATIENCE_S = 120
ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Told:
    """What one call of the command line ended with."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Laptop:
    """The command line with its environment."""

    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "alpage.cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str) -> Told:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        return Told(process.returncode, out, err)


@pytest.fixture(scope="module")
def laptop(environment: dict[str, str], running_server) -> Iterator[Laptop]:  # type: ignore[no-untyped-def]
    """The command line beside a server with both deployments, and no worker."""
    with running_server(environment) as api:
        reached = environment | {"PREFECT_API_URL": api}
        for command in (
            ["work-pool", "create", "alpage", "--type", "process"],
            ["--no-prompt", "deploy", "--all"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "prefect", *command],
                cwd=FLOWS,
                env=reached,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        yield Laptop(reached)


@pytest.fixture(scope="module")
def worker(laptop: Laptop) -> Iterator[psutil.Process]:
    """A process worker that polls the deployments' pool."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "alpage"]
    process = subprocess.Popen(
        command,
        env=laptop.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: _is_ready(laptop), "a worker polls")
        yield psutil.Process(process.pid)
    finally:
        own = psutil.Process(process.pid)
        for each in [*own.children(recursive=True), own]:
            each.kill()
        process.wait()


def _is_ready(laptop: Laptop) -> bool:
    api = laptop.environment["PREFECT_API_URL"]
    with PrefectHttpxSyncClient(base_url=api) as client:
        found = client.get("/deployments/name/build/build").json()
    return bool(found["status"] == "READY")


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s until {what}"
        time.sleep(0.2)


def _write(folder: Path, shared: Path, **change: Any) -> Path:
    """A study of the real archive, by addresses that hold for another process here."""
    archive = shared / "archive" / "00002806639B424A" / "collection.json"
    path = folder / "study.yaml"
    content = {
        "product": "monthly_ndvi:product",
        "area": {"bbox": [3.0193, 50.8131, 3.0284, 50.8188]},
        "period": "2018-05-01/2018-08-31",
        "archive": f"file://{archive}",
        "cube": f"file://{folder}/cube",
    }
    path.write_text(yaml.safe_dump(content | change))
    return path


@pytest.fixture
def study(shared: Path, tmp_path: Path) -> Path:
    return _write(tmp_path, shared)


def test_what_cannot_be_is_said_before_anything_is_submitted(
    study: Path, laptop: Laptop, environment: dict[str, str]
) -> None:
    unknown = laptop.call("run", str(study), "--on", "prefect://built")
    assert unknown.code == 2
    assert "none called 'built', it has build/build, update/update" in unknown.err
    nobody = laptop.call("run", str(study), "--on", "prefect://build")
    assert nobody.code == 2
    assert "no worker polls work pool alpage of build" in nobody.err
    away = Laptop(environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    told = away.call("run", str(study), "--on", "prefect://build")
    assert told.code == 2
    assert "expected a Prefect server at http://127.0.0.1:9/api" in told.err
    assert laptop.call("status", "nobody-knows").code == 2


def test_a_deployment_is_found_among_more_than_a_server_lists(study: Path, laptop: Laptop) -> None:
    api = laptop.environment["PREFECT_API_URL"]
    with PrefectHttpxSyncClient(base_url=api, timeout=30) as client:
        flow = client.post("/flows/", json={"name": "a-flow"}).json()
        for number in range(210):
            other = {"name": f"a-{number:03}", "flow_id": flow["id"]}
            client.post("/deployments/", json=other).raise_for_status()
        listed = client.post("/deployments/filter", json={}).json()
        assert "build" not in {one["name"] for one in listed}
    for name in ("build", "build/build"):
        told = laptop.call("run", str(study), "--on", f"prefect://{name}")
        assert (told.code, "no worker polls work pool alpage" in told.err) == (2, True), told.err
    unknown = laptop.call("run", str(study), "--on", "prefect://update/build")
    assert unknown.code == 2
    assert "none called 'update/build', it has a-flow/a-000, " in unknown.err
    assert "a-flow/a-019 and others" in unknown.err


def test_a_run_from_a_laptop_is_the_run_here(
    study: Path, shared: Path, laptop: Laptop, worker: psutil.Process
) -> None:
    outline = {"type": "Polygon", "coordinates": [_ring(3.0193, 50.8131, 3.0284, 50.8188)]}
    (study.parent / "area.geojson").write_text(json.dumps(outline))
    _write(study.parent, shared, area={"file": "area.geojson"})
    told = laptop.call("run", str(study), "--on", "prefect://build/build")
    assert told.code == 0, told.err
    assert "Completed" in told.err
    assert "cube: " in told.out
    assert "release: " in told.out

    elsewhere = study.parent / "here"
    elsewhere.mkdir()
    shutil.copyfile(EXAMPLES / "monthly_ndvi.py", elsewhere / "monthly_ndvi.py")
    (elsewhere / "area.geojson").write_text(json.dumps(outline))
    run_here(read_study(_write(elsewhere, shared, area={"file": "area.geojson"})))
    there, here = (open_cube(str(at / "cube")) for at in (study.parent, elsewhere))
    assert there.layers == here.layers
    for layer in here.layers:
        np.testing.assert_array_equal(there[layer].values, here[layer].values)

    name = told.err.split()[1]
    status = json.loads(laptop.call("status", name, "--json").out)
    assert (status["state"], status["percent"]) == ("Completed", 100.0)
    assert "km² × dates" in status["progress"]
    lines = json.loads(laptop.call("logs", name, "--json").out)
    assert any("Finished in state Completed" in line["text"] for line in lines)
    assert laptop.call("logs", name, "--follow").code == 0
    ended = laptop.call("cancel", name)
    assert (ended.code, "has ended already" in ended.err) == (2, True)


def _ring(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def test_parts_from_a_laptop_are_joined_by_a_run_without_part(
    study: Path, shared: Path, laptop: Laptop, worker: psutil.Process
) -> None:
    _write(study.parent, shared, grid={"tile_px": 32})
    on = ("run", str(study), "--on", "prefect://build")
    refused = laptop.call(*on, "--part", "3/2")
    assert (refused.code, "expected one from 1/2 to 2/2" in refused.err) == (2, True)
    unknown = laptop.call("run", str(study), "--on", "prefect://update", "--part", "1/2")
    assert unknown.code == 2, unknown.err
    assert "part: expected a deployment that takes one" in unknown.err
    parts = [laptop.start(*on, "--part", part, "--json") for part in ("1/2", "2/2")]
    reports = []
    for part in parts:
        out, err = part.communicate(timeout=PATIENCE_S)
        assert part.returncode == 0, err
        reports.append(json.loads(out))
    assert [one["report"]["part"] for one in reports] == ["1/2", "2/2"]
    assert all(one["report"]["blocks_done"] > 0 and not one["release"] for one in reports)
    with pytest.raises(CubeError):
        open_cube(str(study.parent / "cube"))
    told = laptop.call(*on)
    assert told.code == 0, told.err
    assert "release: " in told.out
    assert open_cube(str(study.parent / "cube")).layers


@pytest.mark.parametrize(
    ("limit", "left"),
    [({"blocks": 1}, {"bill"}), ({"hours": 1e-9}, {"bill", "progress", "report"})],
    ids=["planned", "begun"],
)
def test_a_failed_run_is_its_sentence(
    limit: dict[str, float],
    left: set[str],
    study: Path,
    shared: Path,
    laptop: Laptop,
    worker: psutil.Process,
) -> None:
    _write(study.parent, shared, limits=limit)
    told = laptop.call("run", str(study), "--on", "prefect://build")
    assert told.code == 1, told.err
    assert "error " in told.err
    assert f"limits.{next(iter(limit))}" in told.err
    assert "Traceback" not in told.err
    name = told.err.split()[1]
    of_run = {"flow_runs": {"name": {"any_": [name]}}}
    with PrefectHttpxSyncClient(base_url=laptop.environment["PREFECT_API_URL"]) as api:
        artifacts = api.post("/artifacts/filter", json=of_run).json()
    # Prefect's own have no key.
    assert {one["key"] for one in artifacts if one["key"]} == left
    for report in (one for one in artifacts if one["key"] == "report"):
        values = {row["name"]: row["value"] for row in json.loads(report["data"])}
        assert values["blocks_done"] > 0


def test_a_cancelled_run_leaves_no_process(
    study: Path, shared: Path, laptop: Laptop, worker: psutil.Process
) -> None:
    _write(study.parent, shared, period="2017-08-01/2018-11-30")
    following = laptop.start("run", str(study), "--on", "prefect://build")
    assert following.stderr is not None
    name = following.stderr.readline().split()[1]
    _until(lambda: len(worker.children(recursive=True)) > 3, "the run has its cluster")
    children = worker.children(recursive=True)
    # Ends the command as Ctrl-C does, also where the tests were started with that ignored.
    following.send_signal(signal.SIGTERM)
    _, err = following.communicate(timeout=PATIENCE_S)
    assert following.returncode == 130
    assert f"alpage cancel {name}" in err
    told = laptop.call("cancel", name)
    assert told.code == 0, told.err
    assert "is ending" in told.out
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    followed = laptop.call("logs", name, "--follow")
    assert followed.code == 1
    assert f"{name} cancelled" in followed.err


def test_a_run_on_schedule_is_skipped_while_another_is_at_work_on_its_cube(
    study: Path, laptop: Laptop, worker: psutil.Process
) -> None:
    with PrefectHttpxSyncClient(base_url=laptop.environment["PREFECT_API_URL"], timeout=30) as api:
        before = set(worker.children(recursive=True))
        by_hand = laptop.start("run", str(study), "--on", "prefect://build")
        assert by_hand.stderr is not None
        name = by_hand.stderr.readline().split()[1]
        by_name = {
            "flow_runs": {"name": {"any_": [name]}, "state": {"type": {"any_": ["RUNNING"]}}}
        }
        _until(lambda: bool(api.post("/flow_runs/filter", json=by_name).json()), "it runs")
        # Held where it is, for as long as the other one needs.
        own = [one for one in worker.children(recursive=True) if one not in before]
        for each in own:
            each.suspend()
        beside = _on_schedule(api, study)
        for each in own:
            each.resume()
        _, err = by_hand.communicate(timeout=PATIENCE_S)
        assert by_hand.returncode == 0, err
        after = _on_schedule(api, study)
        of_after = {"flow_runs": {"id": {"any_": [after["id"]]}}}
        left = api.post("/artifacts/filter", json=of_after).json()
    assert (beside["state_type"], beside["state_name"]) == ("COMPLETED", "Skipped")
    assert f"{name} is still at work on this cube" in beside["state"]["message"]
    assert (after["state_type"], after["state_name"]) == ("COMPLETED", "Completed")
    assert {one["key"] for one in left} >= {"report", "release"}
    status = json.loads(laptop.call("status", after["name"], "--json").out)
    assert status["percent"] == 100.0


def test_a_run_on_schedule_goes_on_in_place_of_one_that_is_gone(
    study: Path, laptop: Laptop, worker: psutil.Process
) -> None:
    """Such as one whose pod died while Prefect's worker was away: its state stays as it was."""
    with PrefectHttpxSyncClient(base_url=laptop.environment["PREFECT_API_URL"], timeout=30) as api:
        heard = _begun_long_ago(api, study, laptop, heard=timedelta(minutes=5))
        beside = _on_schedule(api, study)
        cancelled = {"state": {"type": "CANCELLED"}, "force": True}
        api.post(f"/flow_runs/{heard['id']}/set_state", json=cancelled)
        gone = _begun_long_ago(api, study, laptop, heard=timedelta(minutes=10))
        after = _on_schedule(api, study)
        told = api.get(f"/flow_runs/{gone['id']}").json()["state"]
    assert (beside["state_type"], beside["state_name"]) == ("COMPLETED", "Skipped")
    assert f"{heard['name']} is still at work on this cube" in beside["state"]["message"]
    assert (after["state_type"], after["state_name"]) == ("COMPLETED", "Completed")
    assert told["type"] == "CRASHED"
    assert told["message"].startswith("not heard of since 20")
    assert told["message"].endswith(f"{after['name']} went on in its place")
    assert open_cube(str(study.parent / "cube")).layers


def _update(api: PrefectHttpxSyncClient, study: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The deployment `update`, and the parameters with which it keeps a study's cube."""
    parameters = {"study": read_study(study).resolved().model_dump(mode="json")}
    return api.get("/deployments/name/update/update").json(), parameters


def _on_schedule(api: PrefectHttpxSyncClient, study: Path) -> dict[str, Any]:
    """How the first run ended that was made from a schedule of now."""
    update, parameters = _update(api, study)

    def schedule(*schedules: dict[str, Any]) -> None:
        content = {"parameters": parameters, "schedules": schedules}
        api.patch(f"/deployments/{update['id']}", json=content)

    # The server looks every 5 s for changed schedules, and makes no run of the past.
    soon = datetime.now(UTC) + timedelta(seconds=12)
    # On a busy machine it may look too late for the first: there is another in a minute.
    schedule({"schedule": {"interval": 60, "anchor_date": soon.isoformat()}})
    since = {"after_": (soon - timedelta(seconds=1)).isoformat()}
    at = {"flow_runs": {"expected_start_time": since, "state": {"type": {"any_": ENDED}}}}
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        found[:] = api.post("/flow_runs/filter", json=at).json()
        return bool(found)

    _until(ended, "a run on schedule has ended")
    schedule()
    assert found[0]["auto_scheduled"]
    return found[0]


def _begun_long_ago(
    api: PrefectHttpxSyncClient, study: Path, laptop: Laptop, *, heard: timedelta
) -> dict[str, Any]:
    """A run that the server has as running for an hour, and heard of so long ago."""
    update, parameters = _update(api, study)
    content = {"flow_id": update["flow_id"], "parameters": parameters, "state": {"type": "RUNNING"}}
    made: dict[str, Any] = api.post("/flow_runs/", json=content).json()
    # The server dates states itself.
    with (
        contextlib.closing(
            sqlite3.connect(Path(laptop.environment["PREFECT_HOME"], "prefect.db"), timeout=30)
        ) as database,
        database,
    ):
        began = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
        of_run = "update flow_run_state set timestamp = ? where flow_run_id = ?"
        assert database.execute(of_run, (began, made["id"])).rowcount == 1
    beat = {
        "id": str(uuid4()),
        "occurred": (datetime.now(UTC) - heard).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{made['id']}"},
    }
    api.post("/events", json=[beat])
    of_beat = {"filter": {"id": {"id": [beat["id"]]}}}
    _until(lambda: api.post("/events/filter", json=of_beat).json()["total"] == 1, "it is kept")
    return made


def test_a_run_that_no_worker_takes_is_taken_back(
    study: Path, laptop: Laptop, worker: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in [*worker.children(recursive=True), worker]:
        each.kill()
    # For the server the pool is still ready: its worker asked a moment ago.
    monkeypatch.setattr(remote, "TAKEN_WITHIN_S", 5.0)
    with temporary_settings({PREFECT_API_URL: laptop.environment["PREFECT_API_URL"]}):
        made = remote.submit(read_study(study), "build")
        with pytest.raises(RemoteRefused, match=f"no worker polls .*{made.name} was taken back"):
            remote.follow(made.id)
        assert remote.status(made.id).state == "Cancelled"
