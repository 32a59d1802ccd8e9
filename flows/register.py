"""Make the work pool and the deployments of this version: run by the chart after each install.

python register.py pool.json prefect.yaml work-pool
"""

import subprocess
import sys

from prefect.client.orchestration import get_client

SLUG = "chart"
"""Of the schedule that the chart sets: others, set by hand, are left alone."""


def main(pool: str, deployments: str, name: str) -> None:
    """Make or replace them; fails where the server does not answer yet, to be run again."""
    kind = ("--type", "kubernetes", "--base-job-template", pool)
    _prefect("work-pool", "create", name, *kind, "--overwrite")
    _remove_schedule()
    _prefect("--no-prompt", "deploy", "--all", "--prefect-file", deployments)


def _prefect(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "prefect", *command], check=True)


def _remove_schedule() -> None:
    """Remove the schedule that was set before, which `deploy` leaves where none is wanted now."""
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            for schedule in deployment.schedules:
                if schedule.slug == SLUG:
                    client.delete_deployment_schedule(deployment.id, schedule.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
