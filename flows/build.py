"""Build a cube and release it: search, plan, run, release. Names, order, artifacts; no work.

python flows/build.py study.yaml      without a Prefect server
prefect deploy --all                  with one, see prefect.yaml
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from prefect import flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.utilities.annotations import quote

from alpage import logs, verbs
from alpage.archive.search import SearchResult
from alpage.engine.endpoint import serving
from alpage.engine.plan import Plan
from alpage.engine.report import Progress, RunReport
from alpage.errors import AlpageError
from alpage.releases.publish import Release
from alpage.settings import settings
from alpage.study import Study, read_study


# To look for cached results Prefect would pickle and hash what each task is given: all scenes.
@task(name="search", retries=2, retry_delay_seconds=10, cache_policy=NO_CACHE)
def search(study: Study) -> SearchResult:
    """Find the scenes."""
    return verbs.search(study)


@task(name="plan", cache_policy=NO_CACHE)
def plan(study: Study, found: SearchResult, part: str | None = None) -> Plan:
    """Draw the bill, and stop where a limit would be passed."""
    made = verbs.plan(study, found, part=part)
    create_markdown_artifact(key="bill", markdown=_table(made.bill.to_json()), description="bill")
    made.bill.check(study.limits)
    return made


@task(name="run", cache_policy=NO_CACHE)
def run(study: Study, found: SearchResult, planned: Plan, part: str | None = None) -> RunReport:
    """Bring the cube, or one part of it, up to date; the report is left also where that fails."""
    progress = create_progress_artifact(progress=0.0, key="progress", description="km² × dates")
    shown = 0

    def show(now: Progress) -> None:
        nonlocal shown
        percent = int(100 * now.done_km2_dates / now.total_km2_dates) if now.total_km2_dates else 0
        # A server is told of whole percents, not of every block.
        if percent > shown:
            shown = percent
            update_progress_artifact(progress, progress=float(percent), description=str(now))

    def leave(report: RunReport) -> None:
        create_table_artifact(_rows(report.to_json()), key="report", description="run report")

    report = verbs.run(study, found, part=part, planned=planned, on_progress=show, on_report=leave)
    # Where nothing was left to do, nothing was told.
    if shown < 100:
        update_progress_artifact(progress, progress=100.0)
    return report


@task(name="release", cache_policy=NO_CACHE)
def release(study: Study) -> Release:
    """Publish what readers of the cube see."""
    made = verbs.release(study)
    create_table_artifact(_rows(vars(made)), key="release", description="release")
    return made


@flow(name="build", log_prints=False)
def build(study: Study, part: str | None = None) -> dict[str, Any]:
    """Search, plan, run and release one study; returns the run's report and the release.

    Runs of parts, such as 2/4, go side by side and release nothing: one without part does the rest.
    """
    with watched():
        report = bring_up_to_date(study, part)
        if part is not None:
            return {"report": report.to_json(), "release": None}
        published = release(study)
    return {"report": report.to_json(), "release": vars(published)}


def bring_up_to_date(study: Study, part: str | None = None) -> RunReport:
    """Search, plan and run; returns the run's report."""
    # Unquoted, Prefect searches each scene for futures: 20 ms of a core a scene and run.
    found = cast(SearchResult, quote(search(study)))
    planned = cast(Plan, quote(plan(study, found, part)))
    return run(study, found, planned, part)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Write logs, with the flow run's id, and show metrics, as the settings say."""
    logs.configure()
    with logs.about(run=flow_run.id), serving(settings().metrics_port):
        yield


def _rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    # `alpage.remote` reads the values back, so they stay values.
    return [{"name": name, "value": value} for name, value in values.items()]


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| | |", "|--|--|", *rows])


def main(arguments: list[str], run_flow: Any = build) -> int:
    """Run the flow on a study file; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python flows/build.py study.yaml\n")
        return 2

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    # Without a server Prefect starts one for the run; on a busy machine that takes a while.
    patience = temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180})
    try:
        with patience:
            answer = run_flow(read_study(Path(arguments[0])).resolved())
    except AlpageError as error:
        sys.stderr.write(f"error {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped: the cube that readers see is as it was\n")
        return 130
    sys.stdout.write(f"{answer['release']['url']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
