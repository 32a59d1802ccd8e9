"""A cube that is kept up to date on a schedule."""

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

LATE = "./S2_00002806639B424A_20180827T110638.json"
TILES, SEASONS = 20, 2
# Four windows of days, two of dekads, each with its averages: of a tile, and of all.
ALL_BLOCKS = TILES * (4 + 2 + SEASONS + 4 + 2) + 4 + 2
# One window of each holds the late date; seasons reach over the turn of a year.
LATE_BLOCKS = TILES * (1 + 1 + SEASONS + 1 + 1) + 2


def test_a_late_scene_is_picked_up_and_costs_its_blocks_only(
    installed: Any,
    study: Callable[..., Any],
    same: Callable[..., int],
    until: Callable[..., Any],
    clean: Any,
    tmp_path: Any,
) -> None:
    own = study("late")
    collection = own["archive"].removeprefix("s3://").replace("collection.json", "late.json")
    own["archive"] = f"s3://{collection}"
    with installed.storage() as files:
        whole = json.loads(files.cat(collection.replace("late.json", "collection.json")))
        links = [link for link in whole["links"] if link["href"] != LATE]
        assert len(links) == len(whole["links"]) - 1
        files.pipe(collection, json.dumps({**whole, "links": links}).encode())
    values = tmp_path / "schedule.yaml"
    update = {"schedule": "* * * * *", "study": own}
    values.write_text(json.dumps({"flows": {"update": update}}))
    known: set[str] = set()

    def done() -> dict[str, Any] | None:
        """What the next run of the schedule that did something says of itself."""
        of_update = {
            "deployments": {"name": {"any_": ["update"]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        }
        for one in installed.call("POST", "/flow_runs/filter", of_update):
            if not one["auto_scheduled"] or one["id"] in known:
                continue
            known.add(one["id"])
            assert one["state"]["type"] == "COMPLETED", installed.logs(one["id"])
            if one["state"]["name"] == "Skipped":
                assert "is still at work on this cube" in one["state"]["message"]
                continue
            report = installed.report(one["id"])
            if report["blocks_done"]:
                return {**report, "seconds": one["total_run_time"]}
        return None

    def so_far() -> list[tuple[str, str, str | None]]:
        runs = installed.call("POST", "/flow_runs/filter", {})
        asked = [one for one in runs if one["auto_scheduled"]]
        return [(one["name"], one["state_name"], one["state"]["message"]) for one in asked]

    installed.helm("upgrade", "-f", str(values))
    try:
        # A minute until it is due, and the run itself, beside whatever else is tested.
        first = until(done, 600, "the schedule has made the cube", so_far)
        with installed.storage() as files:
            files.pipe(collection, json.dumps(whole).encode())
        second = until(done, 600, "the schedule has taken the late scene", so_far)
    finally:
        installed.helm("upgrade")
    assert (first["blocks_done"], second["blocks_done"]) == (ALL_BLOCKS, LATE_BLOCKS)
    installed.figures["on schedule: the whole cube, flow"] = first["seconds"]
    installed.figures["on schedule: a late scene, flow"] = second["seconds"]
    assert same("late") > 0
    deployment = installed.call("GET", "/deployments/name/update/update")
    assert deployment["schedules"] == []
    assert deployment["parameters"] == {}
    clean()
