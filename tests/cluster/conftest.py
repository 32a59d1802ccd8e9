"""The chart installed on a real Kubernetes, with the real archive in an S3 server beside it.

`make e2e` runs these tests on the cluster of KUBECONFIG. Their namespaces are made and removed; the
resource definitions of Dask stay. Images are built and given to the cluster by E2E_IMAGE_BUILDER,
a command that takes a tag and a folder with a Dockerfile; by default ../shared/cluster/image.sh.
E2E_KEEP leaves the installation there, E2E_SEED repeats the moments of twenty runs, E2E_SCALING
names the file that gets the series of workers which scripts/plot_scaling.py draws.

Most of the time is spent waiting for pods: so two processes share the tests (`-n 2`), each with
an installation of its own.
"""

import base64
import contextlib
import datetime as dt
import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import kr8s
import numpy as np
import pytest
import s3fs
import xarray as xr
from s3_server import NoServer, built
from xdist.scheduler import LoadScopeScheduling

from alpage import verbs
from alpage.study import make_study

ROOT = Path(__file__).resolve().parents[2]
BUILDER = ROOT.parent / "shared" / "cluster" / "image.sh"
IMAGE, S3_IMAGE = "docker.io/library/alpage:e2e", "docker.io/library/versitygw:e2e"
PATCH = "00002806639B424A"
NAMESPACE, RELEASE = "alpage-e2e", "alpage"
STUDY = {
    "product": "vegetation",
    "area": {"bbox": [3.0193, 50.8131, 3.0284, 50.8188]},
    "period": "2017-08-01/2018-11-30",
}
GROUPS = {"vegetation": ("day", "dekad", "year"), "patient": ("day", "year")}
PATIENT = {"product": "patient:product"}
# Of the tile that comes last.
TAIL = {"long_row": 48, "long_column": 48, "longer": 10}
FIGURES: dict[str, float] = {}
INSTALL_S, RUN_S, GONE_S = 600, 900, 180
OF_RUNS = ("daskclusters", "daskworkergroups", "jobs")
OF_CLUSTERS = ("pods", "services", "deployments", "secrets")
CALLS, ANSWER_S = 5, 30
# As kubectl and helm say it.
UNREACHED = re.compile(
    "Unable to connect to the server|connection to the server .* refused|cluster unreachable"
)
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# Where the chart's PodMonitors look: in flows, and in schedulers and workers.
METRICS_PORTS = ("metrics", "http-dashboard")
# What stops the API server for a while is not done beside what must be named within a minute.
STRICT = ("test_chaos.py", "test_trouble.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nothing here runs unless it is asked for by its mark: a KUBECONFIG may be anybody's."""
    if _is_meant(config):
        # They take the chart away.
        items.sort(key=lambda item: item.path.name == "test_upgrade.py")
        return
    here = [item for item in items if Path(item.path).is_relative_to(Path(__file__).parent)]
    config.hook.pytest_deselected(items=here)
    items[:] = [item for item in items if item not in here]


def _is_meant(config: pytest.Config) -> bool:
    return "cluster" in config.getoption("markexpr").replace("not cluster", "")


class _TwoGroups(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return "strict" if nodeid.split("::")[0].endswith(STRICT) else "others"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return who shares the tests between processes, where these tests are meant.

    Not `--dist loadgroup`: with pytest 9.2 xdist 3.8 sees no marks of groups.
    """
    return _TwoGroups(config, log) if _is_meant(config) else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of one of several processes to the one that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = FIGURES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the figures of a process that has ended."""
    FIGURES.update(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed, and why: a session that is cut short has no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = report.longreprtext if crash is None else crash.message
        sys.stderr.write(f"\n{report.when} of {report.nodeid} failed: {why}\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what took how long."""
    for what, seconds in FIGURES.items():
        terminalreporter.write_line(f"{seconds:6.0f} s  {what}")


def run(*command: str | Path, given: Any = None, timeout: float = 120, check: bool = True) -> str:
    """Return what a command says, which may be given JSON; fails with what it complained of.

    Asked again where it did not reach the API server, which test_chaos.py stops for a while.
    """
    for attempt in range(CALLS):
        done = subprocess.run(
            [str(part) for part in command],
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if not (done.returncode and UNREACHED.search(done.stderr)):
            break
        time.sleep(2 * (attempt + 1))
    if check and done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}", pytrace=False)
    return done.stdout if check else done.stdout + done.stderr


def until(
    condition: Callable[[], Any], seconds: float, what: str, so_far: Callable[[], Any] = str
) -> Any:
    """Return what a condition gives, once it gives something; `so_far` tells what came instead."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s until {what} {so_far()}", pytrace=False)
        time.sleep(1)


@functools.cache
def kubernetes_api() -> kr8s.Api:
    """Return a client of the cluster's API that waits for no answer for ever."""
    api = kr8s.api()
    api.timeout = ANSWER_S
    return api


@contextlib.contextmanager
def forwarded(namespace: str, service: str, port: int) -> Iterator[str]:
    """Give host and port of this machine that lead to a service."""
    command = ["kubectl", "-n", namespace, "port-forward", f"service/{service}", f":{port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise ConnectionError(f"port-forward says {line}")
            yield f"127.0.0.1:{found[1]}"
        finally:
            process.kill()


@dataclass
class Installed:
    """One installation of the chart."""

    namespace: str
    name: str = RELEASE
    image: str = IMAGE
    figures: dict[str, float] = field(default_factory=lambda: FIGURES)
    """Seconds by what took them."""
    _ways: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _api: httpx.Client | None = None

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Return what kubectl says in this namespace."""
        return run("kubectl", "-n", self.namespace, *arguments, check=check)

    def apply(self, content: dict[str, Any], *arguments: str) -> dict[str, Any]:
        """Create an object in this namespace; returns it as Kubernetes took it."""
        create = ("kubectl", "-n", self.namespace, "create", "-o", "json", "-f", "-")
        return dict(json.loads(run(*create, *arguments, given=content)))

    def raw(self, verb: str, path: str, content: dict[str, Any] | None = None) -> str:
        """Return what the API answers at a path."""
        file = ["-f", "-"] if content else []
        return run("kubectl", verb, f"--raw={path}", *file, given=content, check=False)

    def secret(self, name: str) -> dict[str, str]:
        """Return what a secret holds."""
        data = json.loads(self.kubectl("get", "secret", name, "-o", "json"))["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def force(self, pod: str) -> None:
        """Take a pod away without asking it."""
        self.kubectl("delete", "pod", pod, "--grace-period=0", "--force", check=False)

    def evict(self, pod: str) -> str:
        """Ask Kubernetes to evict a pod; returns its answer."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        return self.raw(
            "create", f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction", eviction
        )

    def change(self, kind: str, name: str, content: dict[str, Any]) -> None:
        """Change some fields of an object."""
        self.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(content)}")

    def restarts(self, component: str) -> int:
        """Return how often the containers of a component were started anew."""
        pods = self.items("pods", f"alpage/component={component}")
        return sum(
            one["restartCount"] for pod in pods for one in pod["status"]["containerStatuses"]
        )

    def forward(self, service: str, port: int) -> contextlib.AbstractContextManager[str]:
        """Give host and port of this machine that lead to a service of this namespace."""
        return forwarded(self.namespace, service, port)

    def items(self, kind: str, labels: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind, or of several with commas between.

        Not by kubectl: what is asked every second would take a quarter of a core.
        """
        wanted = {"namespace": self.namespace, "label_selector": labels or None, "raw": True}
        for attempt in range(CALLS):
            try:
                api = kubernetes_api()
                return [one for each in kind.split(",") for one in api.get(each, **wanted)]
            except (httpx.TransportError, kr8s.APITimeoutError):
                time.sleep(2 * (attempt + 1))
        pytest.fail(f"the Kubernetes API was not to be had in {CALLS} tries: {kind}")

    def api(self) -> httpx.Client:
        """Return a way to Prefect's API, kept open for all that ask: to open one takes its time."""
        if self._api is None:
            way = self._ways.enter_context(self.forward(f"{self.name}-server", 4200))
            own = httpx.Client(base_url=f"http://{way}/api", timeout=60)
            self._api = self._ways.enter_context(own)
        return self._api

    def hang_up(self) -> None:
        """Close the way to Prefect's API; the next who asks opens another."""
        self._api = None
        self._ways.close()

    def call(self, method: str, path: str, content: Any = None) -> Any:
        """Return what Prefect's API answers; asked again while it is busy, or not reached."""
        for attempt in range(CALLS):
            try:
                answer = self.api().request(method, path, json=content)
            except (httpx.TransportError, ConnectionError):
                self.hang_up()
            else:
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    assert answer.is_success, answer.text
                    return answer.json() if answer.content else None
            time.sleep(2 * (attempt + 1))
        pytest.fail(f"Prefect's API was not to be had in {CALLS} tries: {method} {path}")

    def submit(self, study: dict[str, Any], deployment: str = "build") -> str:
        """Start a run of a study as any client does; returns its id."""
        found = self.call("GET", f"/deployments/name/{deployment}/{deployment}")
        parameters = {"parameters": {"study": study}, "idempotency_key": uuid.uuid4().hex}
        started = self.call("POST", f"/deployments/{found['id']}/create_flow_run", parameters)
        return str(started["id"])

    def cancel(self, run_id: str) -> None:
        """Cancel a run as the server's page does."""
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.call("POST", f"/flow_runs/{run_id}/set_state", state)

    def state(self, run_id: str) -> dict[str, Any]:
        """Return the state of a run."""
        return dict(self.call("GET", f"/flow_runs/{run_id}")["state"])

    def ended(self, run_id: str, seconds: float = RUN_S) -> dict[str, Any]:
        """Return the state of a run that has ended."""

        def state() -> dict[str, Any] | None:
            now = self.state(run_id)
            return now if now["type"] in ENDED else None

        return dict(until(state, seconds, f"run {run_id} has ended"))

    def status(self, run_id: str) -> dict[str, Any]:
        """Return what `alpage status` says of a run on this machine."""
        server = f"PREFECT_API_URL={str(self.api().base_url).rstrip('/')}"
        command = Path(sys.executable).parent / "alpage"
        return dict(json.loads(run("env", server, command, "status", run_id, "--json")))

    def lines(self, run_id: str) -> list[dict[str, Any]]:
        """Return the lines that a run said to Prefect, oldest first."""
        of_run = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}
        return list(self.call("POST", "/logs/filter", {**of_run, "sort": "TIMESTAMP_ASC"}))

    def logs(self, run_id: str) -> str:
        """Return what a run said to Prefect."""
        return "\n".join(line["message"] for line in self.lines(run_id))

    def seconds_until_said(self, run_id: str, words: str) -> float:
        """Return how long after its start a run first said some words to Prefect."""
        began = self.call("GET", f"/flow_runs/{run_id}")["start_time"]
        said = next(one["timestamp"] for one in self.lines(run_id) if words in one["message"])
        first, then = (dt.datetime.fromisoformat(when) for when in (began, said))
        return (then - first).total_seconds()

    def report(self, run_id: str) -> dict[str, Any]:
        """Return what a run did, as its report in Prefect says."""
        of_run = {
            "flow_runs": {"id": {"any_": [run_id]}},
            "artifacts": {"key": {"any_": ["report"]}},
        }
        (report,) = self.call("POST", "/artifacts/filter", of_run)
        return {row["name"]: row["value"] for row in json.loads(report["data"])}

    def left_over(self) -> list[str]:
        """Return what runs started and nobody removed yet."""
        return [
            f"{kind}/{one['metadata']['name']}"
            for kind in (*OF_RUNS, *OF_CLUSTERS)
            for one in self.items(kind)
            if kind in OF_RUNS or "dask.org/cluster-name" in one["metadata"].get("labels", {})
        ]

    def remains(self) -> str:
        """Return what is left of runs, as Kubernetes has it, and what the operator said last."""
        kept = (".kind", ".metadata.name", ".metadata.deletionTimestamp", ".metadata.finalizers")
        lines = "".join(f"{{{field}}} " for field in (*kept, ".status.phase"))
        told = f"jsonpath={{range .items[*]}}{lines}{{'\\n'}}{{end}}"
        found = self.kubectl("get", ",".join((*OF_RUNS, *OF_CLUSTERS)), "-o", told, check=False)
        said = self.kubectl("logs", f"deployment/{self.name}-operator", "--tail=400", check=False)
        noise = ("/healthz", "Activity 'now'", "/version/")
        heard = [line for line in said.splitlines() if not any(word in line for word in noise)]
        return "\n".join((*self.left_over(), found, *heard[-40:]))

    def helm(self, verb: str, *more: str) -> None:
        """Install or upgrade, and wait until all is ready."""
        values = Path(__file__).parent / "values.yaml"
        chosen = [self.name, ROOT / "helm" / "alpage", "-n", self.namespace, "-f", values, *more]
        run("helm", verb, *chosen, "--wait", "--timeout", f"{INSTALL_S}s", timeout=INSTALL_S + 60)

    def uninstall(self) -> None:
        """Take the release away, and wait until its pods are gone."""
        run("helm", "uninstall", self.name, "-n", self.namespace, "--wait", timeout=GONE_S)
        until(lambda: not self.items("pods"), GONE_S, "no pod is left")

    def take_archive(self) -> str:
        """Put the real archive into the chart's S3 server; returns where its collection is."""
        folder = ROOT.parent / "shared" / "archive" / PATCH
        if not folder.is_dir():
            pytest.fail(f"needs the shared archive beside the project: {folder} is absent")
        with self.storage() as files:
            for bucket in ("archive", "cubes"):
                # Where an answer is late it is asked again, and finds what it has made.
                with contextlib.suppress(FileExistsError):
                    files.call_s3("create_bucket", Bucket=bucket)
            files.put(f"{folder}/", f"archive/{PATCH}/", recursive=True)
        return f"s3://archive/{PATCH}/collection.json"

    def storage(self) -> contextlib.AbstractContextManager[s3fs.S3FileSystem]:
        """Give the objects of the chart's S3 server."""
        return _storage(self)


@contextlib.contextmanager
def _storage(installed: Installed) -> Iterator[s3fs.S3FileSystem]:
    keys = installed.secret(f"{installed.name}-storage")
    with forwarded(installed.namespace, f"{installed.name}-storage", 7070) as address:
        files = s3fs.S3FileSystem(
            key=keys["AWS_ACCESS_KEY_ID"],
            secret=keys["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=f"http://{address}",
            client_kwargs={"region_name": "us-east-1"},
            skip_instance_cache=True,
        )
        yield files


@pytest.fixture(scope="session")
def kubernetes() -> None:
    """A Kubernetes that answers, and the programs that speak to it."""
    if "KUBECONFIG" not in os.environ:
        pytest.fail("set KUBECONFIG to a cluster that may be tried things on", pytrace=False)
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            pytest.fail(f"expected {program} on PATH", pytrace=False)
    run("kubectl", "get", "--raw", "/readyz")


def _builder() -> str:
    builder = os.environ.get("E2E_IMAGE_BUILDER", str(BUILDER))
    if shutil.which(builder) is None:
        pytest.fail(f"set E2E_IMAGE_BUILDER: there is no {builder}", pytrace=False)
    return builder


@pytest.fixture(scope="session")
def build_image(images: None) -> Callable[..., None]:
    """Builds another image on top of alpage's, and gives it to the cluster."""

    def build(tag: str, context: Path, image: str, base: str) -> None:
        run(ROOT / "scripts" / "image_context", context, image, base)
        run(_builder(), tag, context, timeout=600)

    return build


@pytest.fixture(scope="session")
def images(kubernetes: None, tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> None:
    """Both images, built from these sources and given to the cluster, once for all processes."""
    mark = tmp_path_factory.getbasetemp().parent / f"images-{testrun_uid}"
    with mark.open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not mark.read_text():
            _build_images(tmp_path_factory)
            turn.write("built")


def _build_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    builder = _builder()
    began = time.monotonic()
    context = tmp_path_factory.mktemp("image")
    run(ROOT / "scripts" / "image_context", context)
    # As a team adds products of its own to the image.
    shutil.copy(Path(__file__).parent / "patient.py", context)
    with (context / "Dockerfile").open("a") as recipe:
        recipe.write("COPY patient.py /opt/app/\n")
    run(builder, IMAGE, context, timeout=1800)
    storage = tmp_path_factory.mktemp("s3-image")
    try:
        shutil.copy(built(), storage / "versitygw")
    except NoServer as error:
        pytest.fail(str(error), pytrace=False)
    shutil.copy(Path(__file__).parent / "s3.Dockerfile", storage / "Dockerfile")
    run(builder, S3_IMAGE, storage, timeout=300)
    FIGURES["images built and given to the cluster"] = time.monotonic() - began


@pytest.fixture(scope="session")
def install(images: None) -> Callable[[str], contextlib.AbstractContextManager[Installed]]:
    """Installs the chart into a namespace that takes restricted pods only, and waits for it."""

    @contextlib.contextmanager
    def make(namespace: str) -> Iterator[Installed]:
        it = Installed(namespace)
        _remove(it)
        run("kubectl", "create", "namespace", namespace)
        restricted = "pod-security.kubernetes.io/enforce=restricted"
        run("kubectl", "label", "namespace", namespace, restricted)
        try:
            it.helm("install")
            yield it
        finally:
            if not os.environ.get("E2E_KEEP"):
                _remove(it)

    return make


@pytest.fixture(scope="session")
def installed(
    install: Callable[[str], contextlib.AbstractContextManager[Installed]], worker_id: str
) -> Iterator[Installed]:
    """The chart, ready."""
    began = time.monotonic()
    with install(NAMESPACE if worker_id == "master" else f"{NAMESPACE}-{worker_id}") as it:
        it.figures["helm install to Ready"] = time.monotonic() - began
        yield it


@pytest.fixture(scope="session")
def install_rights(
    kubernetes: None,
) -> Callable[..., contextlib.AbstractContextManager[Installed]]:
    """Installs the chart into a namespace for a while, and waits for none of its pods."""

    @contextlib.contextmanager
    def install(namespace: str, *more: str) -> Iterator[Installed]:
        it = Installed(namespace)
        _remove(it)
        run("kubectl", "create", "namespace", namespace)
        try:
            values = Path(__file__).parent / "values.yaml"
            chart = [it.name, ROOT / "helm" / "alpage", "-n", namespace, "-f", values, *more]
            run("helm", "install", "--no-hooks", *chart)
            yield it
        finally:
            _remove(it)

    return install


@pytest.fixture(scope="session")
def archive(installed: Installed) -> str:
    """The real archive, in the chart's S3 server."""
    return installed.take_archive()


@pytest.fixture(scope="session")
def study(archive: str) -> Callable[..., dict[str, Any]]:
    """A vegetation study of the real archive, with a cube of its own and the cluster one wants."""
    small = {"kind": "kubernetes", "workers": 2, "memory_gib": 1, "cores": 0.1}

    def make(name: str, **cluster: Any) -> dict[str, Any]:
        own = {"archive": archive, "cube": f"s3://cubes/{name}", "grid": {"tile_px": 16}}
        return {**STUDY, **own, "cluster": {**small, **cluster}}

    return make


@dataclass
class Plain:
    """The run of the plain study, watched from its request to its end."""

    run_id: str
    state: dict[str, Any]
    ended_at: float
    clusters: list[dict[str, Any]]
    """Those that were there when it had ended."""
    metrics: dict[str, str]
    """What its pods served last, by component."""
    lines: list[dict[str, Any]]
    """What they logged."""


@pytest.fixture(scope="session")
def plain(installed: Installed, study: Callable[..., dict[str, Any]]) -> Plain:
    """A run of vegetation on the real archive to `plain`, by its deployment."""
    run_id = installed.submit(study("plain"))
    metrics: dict[str, str] = {}
    lines: dict[str, dict[str, Any]] = {}

    def ended() -> dict[str, Any] | None:
        for pod in installed.items("pods"):
            labels = pod["metadata"].get("labels", {})
            if role := labels.get("dask.org/component") or labels.get("prefect.io/flow-run-id"):
                name = "flow" if role == run_id else role
                if told := _metrics(installed, pod):
                    metrics[name] = told
                log = installed.kubectl("logs", pod["metadata"]["name"], check=False)
                lines.update(
                    (line, json.loads(line))
                    for line in log.splitlines()
                    if line.startswith('{"time"')
                )
        state = installed.state(run_id)
        return state if state["type"] in ENDED else None

    state = until(ended, RUN_S, "the plain run has ended")
    return Plain(
        run_id,
        state,
        time.monotonic(),
        installed.items("daskclusters"),
        metrics,
        list(lines.values()),
    )


def _metrics(installed: Installed, pod: dict[str, Any]) -> str:
    """What a pod answers at the port of its metrics; nothing where it does not answer yet."""
    (port,) = (
        one["containerPort"]
        for container in pod["spec"]["containers"]
        for one in container.get("ports", ())
        if one["name"] in METRICS_PORTS
    )
    path = f"/api/v1/namespaces/{installed.namespace}/pods/{pod['metadata']['name']}:{port}"
    told = installed.raw("get", f"{path}/proxy/metrics")
    return told if told.startswith("#") else ""


@pytest.fixture(scope="session")
def patient(study: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A study whose blocks take their time, so that there is some to take something away."""

    def make(
        name: str, *, slower: float = 1.0, eats_mib: int = 0, **cluster: Any
    ) -> dict[str, Any]:
        pauses = {"day_s": 0.03 * slower, "year_s": 0.2, "eats_mib": eats_mib}
        return {**study(name, **cluster), **PATIENT, "parameters": {**TAIL, **pauses}}

    return make


@pytest.fixture(scope="session")
def local(
    shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, xr.Dataset]]:
    """Gives the release of the same study, run on this machine, by product."""
    collection = shared / "archive" / PATCH / "collection.json"

    @functools.cache
    def run_here(product: str) -> dict[str, xr.Dataset]:
        content = {**STUDY, "archive": str(collection), "cube": "cube"}
        folder = tmp_path_factory.mktemp("local")
        if product != "vegetation":
            shutil.copy(Path(__file__).parent / "patient.py", folder)
            content |= {**PATIENT, "parameters": {**TAIL, "day_s": 0, "year_s": 0}}
        study = make_study(content, folder=folder)
        verbs.run(study)
        store = verbs.release(study).store
        return {
            group: xr.open_zarr(store, group=group, consolidated=False) for group in GROUPS[product]
        }

    return run_here


@pytest.fixture(scope="session")
def same(installed: Installed, local: Callable[[str], dict[str, xr.Dataset]]) -> Callable[..., int]:
    """Checks that the release of a cube has the values of the local one; gives how many."""

    def check(cube: str, product: str = "vegetation", at: Installed = installed) -> int:
        compared = 0
        with at.storage() as files:
            releases = f"cubes/{cube}.release"
            newest = json.loads(files.cat(f"{releases}/collection.json"))["version"]
            store = f"s3://{releases}/{newest}/cube.zarr"
            for group, expected in local(product).items():
                found = xr.open_zarr(
                    store,
                    group=group,
                    consolidated=False,
                    storage_options=files.storage_options,
                )
                assert set(found.variables) == set(expected.variables)
                for name, variable in expected.variables.items():
                    np.testing.assert_array_equal(found[name].to_numpy(), variable.to_numpy())
                    compared += variable.size
        return compared

    return check


@pytest.fixture(scope="session")
def clean(installed: Installed) -> Callable[[], float]:
    """Waits until nothing is left of any run; gives the seconds that took."""

    def check() -> float:
        began = time.monotonic()
        try:
            until(
                lambda: not installed.left_over(),
                GONE_S,
                "nothing is left of runs, beside",
                installed.remains,
            )
        except pytest.fail.Exception:
            # One test fails by it, not all that follow.
            _end_clusters(installed)
            for kind in ("daskworkergroups", "jobs"):
                installed.kubectl("delete", kind, "--all", "--timeout=60s", check=False)
            raise
        return time.monotonic() - began

    return check


@pytest.fixture(scope="session", name="until")
def _until() -> Callable[..., Any]:
    """Waits for what a condition gives."""
    return until


def _remove(it: Installed) -> None:
    it.hang_up()
    there = run("kubectl", "get", "namespace", it.namespace, check=False)
    if "NotFound" in there:
        return
    # While their operator is there: it takes its finalizers off them.
    _end_clusters(it)
    run("helm", "uninstall", it.name, "-n", it.namespace, "--wait", check=False)
    run("kubectl", "delete", "namespace", it.namespace, "--wait", timeout=GONE_S)


def _end_clusters(it: Installed) -> None:
    """Delete what is left of clusters, also where no operator takes its finalizers off."""
    it.kubectl("delete", "daskclusters", "--all", "--timeout=30s", check=False)
    free = '{"metadata":{"finalizers":null}}'
    for name in it.kubectl("get", "daskclusters", "-o", "name", check=False).split():
        if "/" in name:
            it.kubectl("patch", name, "--type=merge", f"--patch={free}", check=False)
