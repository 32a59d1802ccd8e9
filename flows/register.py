"""Make the work pool and the deployments of this version: run by the chart after each install.

python register.py pool.json prefect.yaml work-pool
"""

import subprocess
import sys


def main(pool: str, deployments: str, name: str) -> None:
    """Make or replace them; fails where the server does not answer yet, to be run again."""
    for command in (
        [
            "work-pool",
            "create",
            name,
            "--type",
            "kubernetes",
            "--base-job-template",
            pool,
            "--overwrite",
        ],
        ["--no-prompt", "deploy", "--all", "--prefect-file", deployments],
    ):
        subprocess.run(["prefect", *command], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
