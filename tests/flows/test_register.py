"""What the chart's hook makes on a real Prefect server, again after each upgrade."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from httpx import HTTPStatusError
from prefect.client.base import PrefectHttpxSyncClient

FLOWS = Path(__file__).resolve().parents[2] / "flows"
NIGHTLY = {"cron": "0 3 * * *", "timezone": "UTC", "active": True, "slug": "chart"}
POOL = "alpage"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Hook:
    """What the chart does after each install: the deployment `update`, on a server of its own."""

    folder: Path
    api: str
    environment: dict[str, str]

    def __call__(
        self,
        schedule: dict[str, Any] | None = None,
        *,
        pool: str = POOL,
        image: str = "one",
        namespace: str = "snow",
        name: str = "update",
    ) -> subprocess.CompletedProcess[str]:
        """Registers it, with a schedule or none."""
        properties = {"image": {"type": "string", "default": image}}
        template = {
            "job_configuration": {"image": "{{ image }}", "namespace": namespace},
            "variables": {"properties": properties},
        }
        update = {"name": name, "entrypoint": "update.py:update"}
        update |= {"work_pool": {"name": pool}}
        update |= {"schedules": [schedule]} if schedule else {}
        content = {"name": "alpage", "pull": [], "deployments": [update]}
        (self.folder / "pool.json").write_text(json.dumps(template))
        (self.folder / "prefect.yaml").write_text(yaml.safe_dump(content))
        files = (str(self.folder / "pool.json"), str(self.folder / "prefect.yaml"))
        return subprocess.run(
            [sys.executable, "register.py", *files, pool],
            cwd=FLOWS,
            env=self.environment | {"PREFECT_API_URL": self.api},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def get(self, path: str) -> dict[str, Any]:
        """What the server says."""
        with PrefectHttpxSyncClient(base_url=self.api) as client:
            return dict(client.get(path).raise_for_status().json())

    def send(self, method: str, path: str, content: Any) -> None:
        """What somebody does by hand."""
        with PrefectHttpxSyncClient(base_url=self.api) as client:
            client.request(method, path, json=content).raise_for_status()


@pytest.fixture(scope="module")
def hook(
    environment: dict[str, str],
    running_server: Callable[[dict[str, str]], AbstractContextManager[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hook]:
    with running_server(environment) as api:
        yield Hook(tmp_path_factory.mktemp("register"), api, environment)


def test_a_schedule_goes_when_the_chart_sets_none_and_those_set_by_hand_stay(hook: Hook) -> None:
    def registered(schedule: dict[str, Any] | None) -> dict[str, Any]:
        told = hook(schedule)
        assert told.returncode == 0, told.stderr
        return hook.get("/deployments/name/update/update")

    set_by_chart = registered(NIGHTLY)
    assert [one["slug"] for one in set_by_chart["schedules"]] == ["chart"]
    by_hand = {"schedule": {"cron": "0 12 * * *", "timezone": "UTC"}, "slug": "noon"}
    hook.send("POST", f"/deployments/{set_by_chart['id']}/schedules", [by_hand])
    again = registered(NIGHTLY | {"cron": "0 4 * * *"})
    crons = {one["slug"]: one["schedule"]["cron"] for one in again["schedules"]}
    assert crons == {"chart": "0 4 * * *", "noon": "0 12 * * *"}
    without = registered(None)
    assert [one["slug"] for one in without["schedules"]] == ["noon"]
    assert without["id"] == set_by_chart["id"]


def test_an_upgrade_gives_the_pool_its_jobs_and_leaves_a_pause_and_a_limit(hook: Hook) -> None:
    assert hook(image="one").returncode == 0
    before = hook.get(f"/work_pools/{POOL}")
    assert before["type"] == "kubernetes"
    by_hand = {"is_paused": True, "concurrency_limit": 3}
    hook.send("PATCH", f"/work_pools/{POOL}", by_hand)
    told = hook(image="two")
    assert told.returncode == 0, told.stderr
    after = hook.get(f"/work_pools/{POOL}")
    assert (after["is_paused"], after["concurrency_limit"]) == (True, 3)
    assert after["base_job_template"]["variables"]["properties"]["image"]["default"] == "two"
    assert after["id"] == before["id"]


def test_a_pool_of_another_type_is_refused_by_name(hook: Hook) -> None:
    hook.send("POST", "/work_pools/", {"name": "laptop", "type": "process"})
    told = hook(pool="laptop")
    assert told.returncode != 0
    assert "prefect.workPool: expected a pool of type kubernetes" in told.stderr
    assert "laptop is of type process" in told.stderr
    assert hook.get("/work_pools/laptop")["base_job_template"] == {}


def test_a_pool_of_another_namespace_is_refused_and_stays(hook: Hook) -> None:
    assert hook(pool="shared", name="shared").returncode == 0
    before = hook.get("/work_pools/shared")
    told = hook(NIGHTLY, pool="shared", name="shared", namespace="lakes")
    assert told.returncode != 0
    assert "prefect.workPool: expected a pool for namespace lakes" in told.stderr
    assert "shared is for namespace snow" in told.stderr
    assert hook.get("/work_pools/shared") == before
    assert hook.get("/deployments/name/update/shared")["schedules"] == []


def test_a_pool_with_prefects_own_jobs_is_taken(hook: Hook) -> None:
    variables = {"properties": {"namespace": {"type": "string"}}}
    stock = {"job_configuration": {"namespace": "{{ namespace }}"}, "variables": variables}
    made = {"name": "stock", "type": "kubernetes", "base_job_template": stock}
    hook.send("POST", "/work_pools/", made)
    told = hook(pool="stock", name="stock")
    assert told.returncode == 0, told.stderr
    template = hook.get("/work_pools/stock")["base_job_template"]
    assert template["job_configuration"]["namespace"] == "snow"


def test_teams_on_one_server_leave_each_other_alone(hook: Hook) -> None:
    assert hook(NIGHTLY, pool="snow", name="snow").returncode == 0
    before = hook.get("/deployments/name/update/snow")
    refused = hook(name="snow", pool="lakes", namespace="lakes")
    assert refused.returncode != 0
    assert "prefect.deploymentName: expected update/snow to be of pool lakes" in refused.stderr
    assert "is of pool snow" in refused.stderr
    with pytest.raises(HTTPStatusError, match="404"):
        hook.get("/work_pools/lakes")
    told = hook(name="lakes", pool="lakes", namespace="lakes")
    assert told.returncode == 0, told.stderr
    after = hook.get("/deployments/name/update/snow")
    assert [one["slug"] for one in after["schedules"]] == ["chart"]
    assert after["updated"] == before["updated"]
    assert hook.get("/deployments/name/update/lakes")["work_pool_name"] == "lakes"
