"""What the chart's hook makes on a real Prefect server, again after each upgrade."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.base import PrefectHttpxSyncClient

FLOWS = Path(__file__).resolve().parents[2] / "flows"
NIGHTLY = {"cron": "0 3 * * *", "timezone": "UTC", "active": True, "slug": "chart"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def register(
    environment: dict[str, str],
    running_server: Callable[[dict[str, str]], AbstractContextManager[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[dict[str, Any] | None], dict[str, Any]]]:
    """Registers `update`, with a schedule or none, as the hook does; gives the deployment."""
    folder = tmp_path_factory.mktemp("register")
    image = {"properties": {"image": {"type": "string"}}}
    template = {"job_configuration": {"image": "{{ image }}"}, "variables": image}
    (folder / "pool.json").write_text(json.dumps(template))
    with running_server(environment) as api:

        def run(schedule: dict[str, Any] | None) -> dict[str, Any]:
            update = {"name": "update", "entrypoint": "update.py:update"}
            update |= {"work_pool": {"name": "alpage"}}
            update |= {"schedules": [schedule]} if schedule else {}
            content = {"name": "alpage", "pull": [], "deployments": [update]}
            (folder / "prefect.yaml").write_text(yaml.safe_dump(content))
            files = (str(folder / "pool.json"), str(folder / "prefect.yaml"))
            subprocess.run(
                [sys.executable, "register.py", *files, "alpage"],
                cwd=FLOWS,
                env=environment | {"PREFECT_API_URL": api},
                check=True,
                timeout=120,
            )
            with PrefectHttpxSyncClient(base_url=api) as client:
                return dict(client.get("/deployments/name/update/update").json(), api=api)

        yield run


def test_a_schedule_goes_when_the_chart_sets_none_and_those_set_by_hand_stay(
    register: Callable[[dict[str, Any] | None], dict[str, Any]],
) -> None:
    set_by_chart = register(NIGHTLY)
    assert [one["slug"] for one in set_by_chart["schedules"]] == ["chart"]
    by_hand = {"schedule": {"cron": "0 12 * * *", "timezone": "UTC"}, "slug": "noon"}
    with PrefectHttpxSyncClient(base_url=set_by_chart["api"]) as client:
        client.post(f"/deployments/{set_by_chart['id']}/schedules", json=[by_hand])
    again = register(NIGHTLY | {"cron": "0 4 * * *"})
    crons = {one["slug"]: one["schedule"]["cron"] for one in again["schedules"]}
    assert crons == {"chart": "0 4 * * *", "noon": "0 12 * * *"}
    without = register(None)
    assert [one["slug"] for one in without["schedules"]] == ["noon"]
    assert without["id"] == set_by_chart["id"]
