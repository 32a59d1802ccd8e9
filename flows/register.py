"""Make the work pool and the deployments of this version: run by the chart after each install.

python register.py pool.json prefect.yaml work-pool
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

KIND = "kubernetes"
SLUG = "chart"
"""Of the schedule that the chart sets: others, set by hand, are left alone."""


def main(pool: str, deployments: str, name: str) -> None:
    """Make or replace them; fails where the server does not answer yet, to be run again.

    The server may be others' too: what is theirs is refused before anything is changed.
    """
    jobs = json.loads(Path(pool).read_text())
    with get_client(sync_client=True) as client:
        there = _read_pool(client, name)
        if there is not None:
            _check_pool(there, jobs)
        own = _read_deployments(client, Path(deployments))
        for full, deployment in own.items():
            _check_deployment(full, deployment, name)
        _set_pool(client, name, jobs, is_there=there is not None)
        _remove_schedule(client, own)
    command = ("--no-prompt", "deploy", "--all", "--prefect-file", deployments)
    subprocess.run([sys.executable, "-m", "prefect", *command], check=True)


def _read_pool(client: SyncPrefectClient, name: str) -> WorkPool | None:
    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        return None


def _read_deployments(client: SyncPrefectClient, file: Path) -> dict[str, DeploymentResponse]:
    """Those of the file that the server has, by their full names."""
    found = {}
    for one in yaml.safe_load(file.read_text())["deployments"]:
        # A flow is called like its function.
        full = f"{one['entrypoint'].rpartition(':')[2]}/{one['name']}"
        try:
            found[full] = client.read_deployment_by_name(full)
        except ObjectNotFound:
            continue
    return found


def _check_pool(there: WorkPool, jobs: dict[str, Any]) -> None:
    if there.type != KIND:
        raise SystemExit(
            f"prefect.workPool: expected a pool of type {KIND}, the server's {there.name} is of "
            f"type {there.type}; name another in the values, or delete that one"
        )
    wanted = jobs["job_configuration"]["namespace"]
    namespace = there.base_job_template.get("job_configuration", {}).get("namespace") or wanted
    # Prefect's own template leaves it open.
    if namespace != wanted and "{{" not in namespace:
        raise SystemExit(
            f"prefect.workPool: expected a pool for namespace {wanted}, the server's {there.name} "
            f"is for namespace {namespace}; name another in the values, or delete that one"
        )


def _check_deployment(full: str, there: DeploymentResponse, pool: str) -> None:
    # Of no pool are those whose pool was deleted.
    if there.work_pool_name not in (None, pool):
        raise SystemExit(
            f"prefect.deploymentName: expected {full} to be of pool {pool}, the server's is of "
            f"pool {there.work_pool_name}; choose another name in the values, or delete that one"
        )


def _set_pool(
    client: SyncPrefectClient, name: str, jobs: dict[str, Any], *, is_there: bool
) -> None:
    """Give the pool this version's jobs; a pause or a limit that somebody set there stays."""
    if is_there:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=jobs))
    else:
        client.create_work_pool(WorkPoolCreate(name=name, type=KIND, base_job_template=jobs))


def _remove_schedule(client: SyncPrefectClient, own: dict[str, DeploymentResponse]) -> None:
    """Remove the schedule that was set before, which `deploy` leaves where none is wanted now."""
    for deployment in own.values():
        for schedule in deployment.schedules:
            if schedule.slug == SLUG:
                client.delete_deployment_schedule(deployment.id, schedule.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
