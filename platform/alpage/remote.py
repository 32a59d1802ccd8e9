"""Runs on a Prefect server, from a laptop or notebook: submit, follow, logs, cancel.

The server is that of Prefect's own settings (PREFECT_API_URL, or its profile). Prefect is
imported as it is used: that takes seconds.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import alpage.errors as errors
from alpage.cube.part import Part
from alpage.errors import AlpageError, RemoteFailed, RemoteRefused, StudyError
from alpage.study import BUILT_IN, Study

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.exceptions import PrefectHTTPStatusError

SCHEME = "prefect://"
POLL_S = 1.0
ANSWER_S = 20.0
# A worker asks every ten or fifteen seconds: one that did not in this time is not there.
TAKEN_WITHIN_S = 45.0
SERVER_AWAY_S = 120.0
NAMED = 20
"""Most deployments that a refusal names."""
WARNING = 30


@dataclass(frozen=True)
class Status:
    """Where a run on the server stands."""

    id: str
    name: str
    deployment: str
    state: str
    """Prefect's name of it, such as Running."""
    message: str
    """One sentence of the state, empty where there is nothing to tell."""
    is_final: bool
    is_completed: bool
    percent: float
    progress: str
    """How far it is, in km² × dates, with an estimate; empty before it is known."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Line:
    """One line of a run's log."""

    at: datetime
    level: int
    """As in `logging`: 30 is a warning."""
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"at": self.at.isoformat(), "level": self.level, "text": self.text}


def submit(study: Study, deployment: str, *, part: str | None = None) -> Status:
    """Give a study, or one part of it, to a deployment to run; returns at once, `follow` waits.

    `deployment` is `prefect://build`, `build` or `flow/deployment`. GeoJSON files of the study are
    sent with it. Raises StudyError where it names another file that only this machine has, and
    RemoteRefused where there is no such deployment or nothing would run it.
    """
    parameters: dict[str, Any] = {
        "study": portable(study).model_dump(mode="json", exclude_unset=True)
    }
    if part is not None:
        parameters["part"] = str(Part.parse(part))
    with _client() as client:
        found = _find_deployment(client, deployment.removeprefix(SCHEME))
        _check_takes(found, parameters)
        _check_ready(client, found)
        _check_size(client, parameters)
        made = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        return _status(client, made)


def portable(study: Study) -> Study:
    """Return the study as another machine can run it: its GeoJSON inside.

    Raises StudyError with the key of a path that only this machine has.
    """
    for key in ("archive", "cube", "release", "dem"):
        value = getattr(study, key)
        if value is not None and "://" not in value:
            raise StudyError(
                f"{key}: only this machine has {study.locate(value)}; "
                f"expected an address that the workers reach, such as s3://bucket/{Path(value).name}"
            )
    if study.product not in BUILT_IN:
        module = study.folder.joinpath(*study.product.split(":")[0].split("."))
        if module.is_dir() or module.with_suffix(".py").exists():
            raise StudyError(
                f"product: only this machine has {study.product}; "
                "expected a module of the workers' image"
            )
    return study.with_geojson_inside()


def follow(
    run: str,
    *,
    on_status: Callable[[Status], None] = lambda status: None,
    on_line: Callable[[Line], None] = lambda line: None,
    level: int = WARNING,
) -> dict[str, Any]:
    """Wait for a run (id or name) to end; returns its report and its release by name.

    Raises RemoteFailed with the run's own sentence where it did not complete, and RemoteRefused
    where no worker takes it within 45 seconds; it is then taken back.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    asked = _Patience()
    with _client() as client:
        found = _find_run(client, run)
        polled = _last_polled(client, found)
        begun = time.monotonic()
        told = 0
        while True:
            try:
                found = client.read_flow_run(found.id)
                now = _status(client, found)
                on_status(now)
                lines = _lines(client, found, level, told)
                if now.state in ("Scheduled", "Late") and time.monotonic() - begun > TAKEN_WITHIN_S:
                    _check_taken(client, found, polled)
                asked.answered()
            except (httpx.TransportError, PrefectHTTPStatusError) as error:
                asked.failed(error, found.name)
                lines = []
                now = None
            for line in lines:
                on_line(line)
            told += len(lines)
            if now is not None and now.is_final and not lines:
                return _result(client, found, now)
            if now is None or not now.is_final:
                time.sleep(POLL_S)


def status(run: str) -> Status:
    """Return where a run (id or name) stands."""
    with _client() as client:
        return _status(client, _find_run(client, run))


def logs(run: str) -> list[Line]:
    """Return the log of a run (id or name), oldest first."""
    with _client() as client:
        found = _find_run(client, run)
        lines: list[Line] = []
        while more := _lines(client, found, 0, len(lines)):
            lines += more
        return lines


def cancel(run: str) -> Status:
    """Cancel a run (id or name); returns where it stands then, Cancelling or Cancelled.

    Its worker ends it and all that it started; the cube that readers see stays as it is.
    Raises RemoteRefused where it has ended already.
    """
    from prefect.client.schemas.objects import State, StateType

    with _client() as client:
        found = _find_run(client, run)
        if found.state is not None and found.state.is_final():
            raise RemoteRefused(f"run: {found.name} has ended already, it is {found.state.name}")
        client.set_flow_run_state(found.id, State(type=StateType.CANCELLING))
        return _status(client, client.read_flow_run(found.id))


class _Patience:
    """A server that restarts is waited for."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def answered(self) -> None:
        self._last = time.monotonic()

    def failed(self, error: "httpx.TransportError | PrefectHTTPStatusError", name: str) -> None:
        response = getattr(error, "response", None)
        if response is not None and response.status_code < 500:
            raise error
        if time.monotonic() - self._last > SERVER_AWAY_S:
            raise RemoteFailed(
                f"the Prefect server has not answered for {SERVER_AWAY_S:.0f} s; {name} may go on: "
                f"`alpage logs {name} --follow` once it answers"
            ) from error


@contextmanager
def _client() -> "Iterator[SyncPrefectClient]":
    import httpx
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise RemoteRefused(
            "PREFECT_API_URL: expected the address of a Prefect server such as "
            "http://prefect.example.org/api, neither the environment nor Prefect's profile has one"
        )
    with get_client(httpx_settings={"timeout": ANSWER_S}, sync_client=True) as client:
        failure = client.api_healthcheck()
        if failure is not None:
            raise RemoteRefused(
                f"PREFECT_API_URL: expected a Prefect server at {url}, "
                f"it does not answer: {_first_line(failure)}"
            ) from failure
        try:
            yield client
        except PrefectHTTPStatusError as error:
            raise RemoteRefused(
                f"the Prefect server at {url} refused: {error.response.status_code}, "
                f"{error.response.text[:300]}"
            ) from error
        except httpx.TransportError as error:
            raise RemoteFailed(
                f"the Prefect server at {url} was lost: {_first_line(error)}"
            ) from error


def _find_deployment(client: "SyncPrefectClient", name: str) -> "DeploymentResponse":
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    flow, _, last = name.rpartition("/")
    # Asked for by name: of all there are, a server tells the first 200.
    called = DeploymentFilter(name=DeploymentFilterName(any_=[last]))
    found = client.read_deployments(deployment_filter=called)
    known = {_deployment_name(client, each): each for each in found}
    fitting = [full for full in known if full == name or not flow]
    if len(fitting) == 1:
        return known[fitting[0]]
    if fitting:
        raise RemoteRefused(
            f"deployment: several are called {name}, expected one of {', '.join(sorted(fitting))}"
        )
    others = client.read_deployments(limit=NAMED + 1)
    names = sorted(_deployment_name(client, each) for each in others[:NAMED])
    more = " and others" if len(others) > NAMED else ""
    raise RemoteRefused(
        f"deployment: the server has none called {name!r}, it has "
        f"{', '.join(names) or 'none at all'}{more}"
    )


def _deployment_name(client: "SyncPrefectClient", found: "DeploymentResponse") -> str:
    return f"{client.read_flow(found.flow_id).name}/{found.name}"


def _check_takes(found: "DeploymentResponse", parameters: dict[str, Any]) -> None:
    known = (found.parameter_openapi_schema or {}).get("properties", {})
    for name in parameters:
        if name not in known:
            raise RemoteRefused(
                f"{name}: expected a deployment that takes one, such as build; {found.name} takes "
                f"{', '.join(known) or 'nothing'}"
            )


def _check_ready(client: "SyncPrefectClient", found: "DeploymentResponse") -> None:
    from prefect.client.schemas.objects import DeploymentStatus

    if found.paused:
        raise RemoteRefused(
            f"deployment: {found.name} is paused; `prefect deployment resume` lets it run"
        )
    pool = found.work_pool_name
    if pool is not None and client.read_work_pool(pool).is_paused:
        raise RemoteRefused(
            f"deployment: work pool {pool} of {found.name} is paused; "
            f"`prefect work-pool resume {pool}` lets it run"
        )
    if found.status == DeploymentStatus.NOT_READY:
        raise _nobody(found)


def _nobody(found: "DeploymentResponse") -> RemoteRefused:
    pool = found.work_pool_name
    if pool is None:
        return RemoteRefused(f"deployment: no process serves {found.name}; start the one that does")
    return RemoteRefused(
        f"deployment: no worker polls work pool {pool} of {found.name}; "
        f"start one, such as `prefect worker start --pool {pool}`"
    )


def _check_size(client: "SyncPrefectClient", parameters: dict[str, Any]) -> None:
    from prefect.settings import get_current_settings

    study, most = parameters["study"], get_current_settings().server.api.max_parameter_size
    size = len(json.dumps(parameters))
    if size > most:
        key = max(study, key=lambda name: len(json.dumps(study[name])))
        raise StudyError(
            f"{key}: the study would be sent with {size / 1e6:.1f} MB, a Prefect server takes "
            f"{most / 1e6:.1f} MB; simplify the outlines"
        )


def _last_polled(client: "SyncPrefectClient", run: "FlowRun") -> datetime | None:
    if run.deployment_id is None:
        return None
    return client.read_deployment(run.deployment_id).last_polled


def _check_taken(client: "SyncPrefectClient", run: "FlowRun", polled: datetime | None) -> None:
    """Take a run back that nobody asked for; one that waits for its turn stays."""
    if run.deployment_id is None:
        return
    found = client.read_deployment(run.deployment_id)
    if found.last_polled == polled:
        cancel(str(run.id))
        raise RemoteRefused(f"{_nobody(found)}; {run.name} was taken back")


def _find_run(client: "SyncPrefectClient", run: str) -> "FlowRun":
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_flow_run(UUID(run))
    except ObjectNotFound:
        raise RemoteRefused(f"run: the server has none with id {run}") from None
    except ValueError:
        pass
    named = FlowRunFilter(name=FlowRunFilterName(any_=[run]))
    found = client.read_flow_runs(flow_run_filter=named)
    if len(found) > 1:
        ids = ", ".join(str(each.id) for each in found)
        raise RemoteRefused(f"run: several are called {run}, expected one of the ids {ids}")
    if not found:
        raise RemoteRefused(f"run: the server has none called {run!r}")
    return found[0]


def _status(client: "SyncPrefectClient", run: "FlowRun") -> Status:
    state = run.state
    progress = _artifacts(client, run, "progress")
    name = "none"
    if run.deployment_id is not None:
        name = _deployment_name(client, client.read_deployment(run.deployment_id))
    return Status(
        id=str(run.id),
        name=run.name,
        deployment=name,
        state="unknown" if state is None else str(state.name),
        message="" if state is None else _sentence(state.message)[0],
        is_final=state is not None and state.is_final(),
        is_completed=state is not None and state.is_completed(),
        percent=float(progress[0].data) if progress else 0.0,
        progress=(progress[0].description or "") if progress else "",
        seconds=run.estimated_run_time.total_seconds(),
    )


def _artifacts(client: "SyncPrefectClient", run: "FlowRun", key: str) -> list[Any]:
    """The artifacts of a run's key, newest first: a retried run has several."""
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        ArtifactFilterKey,
    )
    from prefect.client.schemas.sorting import ArtifactSort

    of_run = ArtifactFilter(
        key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])
    )
    return list(client.read_artifacts(artifact_filter=of_run, sort=ArtifactSort.CREATED_DESC))


def _lines(client: "SyncPrefectClient", run: "FlowRun", level: int, after: int) -> list[Line]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterLevel
    from prefect.client.schemas.sorting import LogSort

    of_run = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[run.id]), level=LogFilterLevel(ge_=level)
    )
    found = client.read_logs(of_run, offset=after, sort=LogSort.TIMESTAMP_ASC)
    return [Line(each.timestamp, each.level, each.message) for each in found]


def _result(client: "SyncPrefectClient", run: "FlowRun", now: Status) -> dict[str, Any]:
    if not now.is_completed:
        message, exit_code = _sentence(run.state.message if run.state else None)
        raise RemoteFailed(
            f"{run.name} {now.state.lower()}: {message or 'no reason told'}", exit_code
        )
    return {
        "run": run.name,
        "report": _table(client, run, "report"),
        "release": _table(client, run, "release"),
    }


def _table(client: "SyncPrefectClient", run: "FlowRun", key: str) -> dict[str, Any]:
    found = _artifacts(client, run, key)
    rows = json.loads(found[0].data) if found else []
    return {row["name"]: row["value"] for row in rows}


def _sentence(message: str | None) -> tuple[str, int]:
    """The sentence within a state's message, and the exit code of its failure."""
    text = (message or "").removeprefix("Flow run encountered an exception: ").strip()
    name, colon, rest = text.partition(": ")
    known = getattr(errors, name, None) if colon else None
    if isinstance(known, type) and issubclass(known, AlpageError):
        return _one_line(rest), known.exit_code
    return _one_line(text), 1


def _first_line(error: Exception) -> str:
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())
