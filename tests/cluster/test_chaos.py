"""What is taken away under a run: an identical cube or a named failure, and nothing left behind."""

import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from distributed import Client
from distributed.security import Security

from alpage.engine.workers import workers_of

pytestmark = pytest.mark.cluster

Study = dict[str, Any]
Make = Callable[..., Study]
Until = Callable[..., Any]
AWAY_S = 20
TWENTY, AT_A_TIME = 20, 5


@pytest.fixture(scope="module")
def begun(installed: Any, until: Until) -> Callable[[str], str]:
    """Waits until the first blocks of a run are done; gives the name of its cluster."""

    def wait(run_id: str) -> str:
        of_run = {"flow_runs": {"id": {"any_": [run_id]}}}

        def progress() -> bool:
            state = installed.state(run_id)
            assert state["type"] not in ("FAILED", "CRASHED"), installed.logs(run_id)
            told = installed.call("POST", "/artifacts/filter", of_run)
            return any(one["key"] == "progress" and one["data"] > 0 for one in told)

        until(progress, 240, "the first blocks are done")
        return next(
            str(one["metadata"]["name"])
            for one in installed.items("daskclusters")
            if one["metadata"]["labels"]["alpage/flow-run"] == run_id
        )

    return wait


def _pods(installed: Any, cluster: str, role: str) -> list[str]:
    labels = f"dask.org/cluster-name={cluster},dask.org/component={role}"
    pods = installed.items("pods", labels)
    return [one["metadata"]["name"] for one in pods if one["status"]["phase"] == "Running"]


@pytest.fixture(scope="module")
def struck(installed: Any, patient: Make, begun: Callable[[str], str]) -> dict[str, str]:
    """Runs side by side, each of which loses something of its own on its way."""
    names = ("moved", "headless", "thinned")
    runs = {name: installed.submit(patient(name)) for name in names}
    runs["hungry"] = installed.submit(patient("hungry", eats_mib=1500))
    (flow,) = _flows(installed, runs["moved"], begun)
    # As a node that is drained does it: the flow has a moment to tell Prefect.
    installed.kubectl("delete", "pod", flow, "--wait=false")
    (scheduler,) = _pods(installed, begun(runs["headless"]), "scheduler")
    installed.force(scheduler)
    cluster, taken = begun(runs["thinned"]), 0
    while installed.state(runs["thinned"])["type"] == "RUNNING" and taken < 4:
        for name in _pods(installed, cluster, "worker")[:1]:
            if taken % 2:
                installed.force(name)
            else:
                assert "Success" in installed.evict(name)
            taken += 1
        time.sleep(4)
    assert taken > 1
    return runs


def _flows(installed: Any, run_id: str, begun: Callable[[str], str]) -> list[str]:
    begun(run_id)
    pods = installed.items("pods", f"prefect.io/flow-run-id={run_id}")
    return [one["metadata"]["name"] for one in pods]


def test_workers_evicted_and_deleted_leave_the_same_cube(
    installed: Any, struck: dict[str, str], same: Callable[..., int]
) -> None:
    state = installed.ended(struck["thinned"])
    assert state["type"] == "COMPLETED", installed.logs(struck["thinned"])
    assert same("thinned", "patient") > 0


def test_a_flow_whose_pod_is_deleted_is_started_anew_and_goes_on(
    installed: Any, struck: dict[str, str], same: Callable[..., int]
) -> None:
    run_id = struck["moved"]
    state = installed.ended(run_id)
    assert state["type"] == "COMPLETED", installed.logs(run_id)
    assert installed.call("GET", f"/flow_runs/{run_id}")["run_count"] > 1
    assert same("moved", "patient") > 0


def test_a_worker_killed_for_memory_is_named(installed: Any, struck: dict[str, str]) -> None:
    state = installed.ended(struck["hungry"], 300)
    assert state["type"] == "FAILED"
    assert "raise cluster.memory_gib" in state["message"], state["message"]
    flow = installed.call("GET", f"/flow_runs/{struck['hungry']}")
    installed.figures["killed for memory: flow"] = flow["total_run_time"]


def test_a_scheduler_that_is_deleted_ends_its_run_by_name_and_the_next_goes_on(
    installed: Any,
    struck: dict[str, str],
    patient: Make,
    same: Callable[..., int],
    clean: Any,
) -> None:
    state = installed.ended(struck["headless"], 240)
    assert state["type"] == "FAILED"
    assert "its scheduler went away" in state["message"], state["message"]
    again = installed.submit(patient("headless"))
    assert installed.ended(again)["type"] == "COMPLETED", installed.logs(again)
    assert same("headless", "patient") > 0
    clean()


def test_a_run_lets_nobody_in_is_not_evicted_and_leaves_nothing_when_cancelled(
    installed: Any, patient: Make, begun: Callable[[str], str], clean: Any
) -> None:
    run_id = installed.submit(patient("cancelled"))
    cluster = begun(run_id)
    secret = installed.secret(f"{cluster}-tls")
    told = {"tls_ca_file": secret["tls.crt"], "require_encryption": True}
    own = Security(tls_client_cert=secret["tls.crt"], tls_client_key=secret["tls.key"], **told)
    stranger = Security.temporary()
    with installed.forward(f"{cluster}-scheduler", 8786) as address:
        with Client(f"tls://{address}", timeout="20s", security=own, set_as_default=False) as it:
            assert workers_of(it)
        for scheme, security in (("tcp", None), ("tls", stranger)):
            with pytest.raises(OSError, match=r"Timed out|refused|closed|failed"):
                Client(
                    f"{scheme}://{address}", timeout="5s", security=security, set_as_default=False
                )
    flows = [one["metadata"]["name"] for one in installed.items("pods", "alpage/component=flow")]
    for pod in (*_pods(installed, cluster, "scheduler"), *flows):
        assert "disruption budget" in installed.evict(pod)
    began = time.monotonic()
    installed.cancel(run_id)
    assert installed.ended(run_id, 180)["type"] == "CANCELLED"
    installed.figures["cancelled: until it has ended"] = time.monotonic() - began
    installed.figures["cancelled: until nothing is left"] = clean()


def _restart(installed: Any, component: str) -> None:
    """End the first process of a pod's container: Kubernetes starts it anew, its files stay."""
    (pod,) = (one["metadata"]["name"] for one in installed.items("pods", component))
    container = component.rpartition("=")[2]
    # Not every image has a shell; a debugging container sees the same processes.
    shell = ["--", "python3", "-c", "import os; os.kill(1, 15)"]
    debug = ["debug", pod, f"--target={container}", "--profile=restricted", "--quiet", "--attach"]
    installed.kubectl(*debug, f"--image={installed.image}", *shell, check=False)


def _runs(installed: Any, run_id: str) -> bool:
    """Whether a run is running; False where Prefect's server does not answer yet."""
    with contextlib.suppress(httpx.TransportError, AssertionError):
        return bool(installed.state(run_id)["type"] == "RUNNING")
    return False


@contextlib.contextmanager
def _paused_api() -> Iterator[None]:
    """The API server stopped for a while, where it is a process of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        # Processes come and go.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            told = (folder / "cmdline").read_bytes()
            if folder.name.isdigit() and told.startswith(b"kube-apiserver\0--etcd-servers"):
                found.append(int(folder.name))
    if len(found) != 1:
        pytest.skip("the API server is no process of this machine: it cannot be paused from here")
    os.kill(found[0], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(found[0], signal.SIGCONT)


def test_services_that_are_away_for_a_while_are_waited_for(
    installed: Any,
    patient: Make,
    begun: Callable[[str], str],
    same: Callable[..., int],
    clean: Any,
    until: Until,
) -> None:
    """The object store, Prefect's server and the Kubernetes API, one after the other."""
    run_id = installed.submit(patient("lonely", slower=1.5))
    begun(run_id)
    for what in ("storage", "server"):
        before = installed.restarts(what)
        began = time.monotonic()
        _restart(installed, f"alpage/component={what}")
        until(lambda: installed.restarts(what) > before, 60, f"{what} is started anew")  # noqa: B023
        ready = f"deployment/{installed.name}-{what}"
        installed.kubectl("rollout", "status", ready, "--timeout=120s")
        until(lambda: _runs(installed, run_id), 120, f"the run goes on without {what}")
        installed.figures[f"{what} away"] = time.monotonic() - began
    with _paused_api():
        time.sleep(AWAY_S)
    until(lambda: "ok" in installed.raw("get", "/readyz"), 60, "the API answers")
    assert _runs(installed, run_id), "it went on without all three"
    state = installed.ended(run_id)
    assert state["type"] == "COMPLETED", f"{state}\n{installed.logs(run_id)}"
    assert same("lonely", "patient") > 0
    clean()


def test_twenty_runs_that_end_at_any_moment_leave_nothing(
    installed: Any, patient: Make, clean: Any
) -> None:
    seed = int(os.environ.get("E2E_SEED", str(int(time.time()))))
    chance = random.Random(seed)
    began = time.monotonic()
    killed = 0
    # More at a time would try Prefect's database, not what is left over.
    for first in range(0, TWENTY, AT_A_TIME):
        now = time.monotonic()
        runs = [
            installed.submit(patient(f"random-{first + number}", workers=1))
            for number in range(AT_A_TIME)
        ]
        moments = sorted((now + chance.uniform(0, 45), run_id) for run_id in runs)
        for moment, run_id in moments:
            time.sleep(max(moment - time.monotonic(), 0))
            if chance.random() < 0.5:
                for pod in installed.items("pods", f"prefect.io/flow-run-id={run_id}"):
                    installed.force(pod["metadata"]["name"])
                    killed += 1
            installed.cancel(run_id)
    installed.figures[f"twenty runs, seed {seed}, {killed} pods killed: asked and ended"] = (
        time.monotonic() - began
    )
    installed.figures["twenty runs: until nothing is left"] = clean()
    assert not re.search("alpage-[0-9a-f]{12}", json.dumps(installed.items("secrets")))
