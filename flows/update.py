"""Keep a cube up to date on a schedule: the same steps as `build`, on what the archive has now.

Blocks whose scenes did not change are not computed again, so running it daily
costs a search where nothing is new.
"""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed, Crashed

from alpage.study import Study
from build import bring_up_to_date, main, release, watched

AT_WORK = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}})
HEARTBEAT = "prefect.flow-run.heartbeat"
MISSED = 3
"""Heartbeats after which a run that tells no more is taken for gone."""


@flow(name="update", log_prints=False)
def update(study: Study) -> dict[str, Any] | State[Any]:
    """Search, plan, run and, where anything changed, release.

    A run on schedule whose cube another one still works on is skipped: both would do the same.
    """
    with watched():
        if (other := _other_at_work()) is not None:
            said = f"{other.name} is still at work on this cube; the next run on schedule goes on"
            return Completed(name="Skipped", message=said)
        report = bring_up_to_date(study)
        published = release(study)
    return {"report": report.to_json(), "release": vars(published)}


def _other_at_work() -> FlowRun | None:
    """The run that had begun on this cube before this one; None also if this is not on schedule.

    Those that must be gone are ended on the way. It is not Prefect's limit of a deployment: that
    would hold up other studies too, and end a long run whose server was restarted, for the server
    keeps leases in memory.
    """
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(flow_run.id)
        if not own.auto_scheduled:
            return None
        for other in client.read_flow_runs(flow_run_filter=AT_WORK):
            if other.id != own.id and _cube(other) == _cube(own) and _is_before(other, own):
                if (silence := _silent_since(client, other)) is None:
                    return other
                _end(client, other, silence, own)
    return None


def _silent_since(client: SyncPrefectClient, other: FlowRun) -> datetime | None:
    """When a run was last heard of that must be gone; None of one that may be at work.

    Prefect learns of a pod that dies from its worker alone, and never where that was away. What a
    run told while the server was away, it tells again.
    """
    every_s = get_current_settings().flows.heartbeat_frequency
    if every_s is None or other.state is None:
        return None
    of_other = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{other.id}"]),
    )
    newest = client.read_events(of_other, limit=1).events
    if not newest:
        return None
    heard = max(other.state.timestamp, newest[0].occurred)
    return heard if datetime.now(UTC) - heard > MISSED * timedelta(seconds=every_s) else None


def _end(client: SyncPrefectClient, other: FlowRun, silence: datetime, own: FlowRun) -> None:
    said = f"not heard of since {silence:%Y-%m-%d %H:%M} UTC; {own.name} went on in its place"
    get_run_logger().warning("%s is taken for gone: %s", other.name, said)
    # Should it be at work all the same, the cube refuses its next commit.
    client.set_flow_run_state(other.id, Crashed(message=said), force=True)


def _cube(one: FlowRun) -> str | None:
    study = one.parameters.get("study")
    return str(study.get("cube")).rstrip("/") if isinstance(study, dict) else None


def _is_before(other: FlowRun, own: FlowRun) -> bool:
    # Each asks once it runs itself: of two that begin at once only the later one goes.
    return (
        other.state is not None
        and own.state is not None
        and (other.state.timestamp, other.id) < (own.state.timestamp, own.id)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], update))
