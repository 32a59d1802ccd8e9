"""Keep a cube up to date on a schedule: the same steps as `build`, on what the archive has now.

Blocks whose scenes did not change are not computed again, so running it daily
costs a search where nothing is new.
"""

import sys
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Completed

from alpage.study import Study
from build import bring_up_to_date, main, release, watched

AT_WORK = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}})


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

    It is not Prefect's limit of a deployment: that would hold up other studies too, and end a long
    run whose server was restarted, for the server keeps leases in memory.
    """
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(flow_run.id)
        if not own.auto_scheduled:
            return None
        for other in client.read_flow_runs(flow_run_filter=AT_WORK):
            if other.id != own.id and _cube(other) == _cube(own) and _is_before(other, own):
                return other
    return None


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
