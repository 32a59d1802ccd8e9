"""Metrics of real runs, as Prometheus scrapes them, beside plan, report and processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil
import pytest
import tifffile
import yaml
from distributed import Client
from prometheus_client.parser import text_string_to_metric_families
from s3_server import free_port

import alpage
from alpage.clusters import open_cluster
from alpage.engine.endpoint import serving
from alpage.engine.report import Progress, RunReport
from alpage.engine.workers import workers_of
from alpage.settings import settings
from alpage.simulate.valley import Valley
from alpage.study import ClusterChoice, Study, make_study

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "alpage"
EXAMPLES = ROOT / "docs" / "examples"
# What Prometheus gives each series of a pod, and what queries make of their own.
TARGET_LABELS = {"namespace", "pod", "container", "instance", "job"}

FLAKY = '''
"""The example product, whose first derived block fails once."""

from dataclasses import replace
from pathlib import Path

import monthly_ndvi

MARK = Path({mark!r})
observing, deriving = monthly_ndvi.product.stages


def greenest(month):
    try:
        MARK.touch(exist_ok=False)
    except FileExistsError:
        return monthly_ndvi.greenest(month)
    raise RuntimeError("no answer from https://user:hunter2@example.org/a?sig=s3cret")


product = replace(
    monthly_ndvi.product, stages=(observing, replace(deriving, function=greenest))
)
'''

Values = dict[str, dict[frozenset[tuple[str, str]], float]]


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics."""

    values: Values
    kinds: dict[str, str]

    def of(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels; fails where there is none."""
        found = [
            value for key, value in self.values[name].items() if labels.items() <= dict(key).items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples, added up by one label."""
        sums: dict[str, float] = defaultdict(float)
        for key, value in self.values[name].items():
            sums[dict(key)[label]] += value
        return dict(sums)


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    values: Values = defaultdict(dict)
    kinds = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = frozenset(sample.labels.items())
            assert key not in values[sample.name], f"{sample.name} {sample.labels} comes twice"
            values[sample.name][key] = sample.value
            kinds[sample.name] = family.type
    return Scrape(dict(values), kinds)


@dataclass(frozen=True)
class Watched:
    """A run that was scraped while it went on, when it had ended, and on its workers."""

    planned: dict[str, int]
    peak_bytes: int
    report: RunReport
    middle: Scrape
    done_then: int
    workers_then: list[Scrape]
    resident_then: list[int]
    end: Scrape
    workers: list[Scrape]
    scheduler: Scrape
    port: int


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A cluster of its own: what workers counted is what these runs did."""
    with open_cluster(ClusterChoice(workers=2, memory_gib=3)) as client:
        yield client


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port that the settings name for metrics."""
    found = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPAGE_METRICS_PORT", str(found))
        settings.cache_clear()
        yield found
    settings.cache_clear()


def study_in(folder: Path, valley: Valley, client: Client, **changed: Any) -> Study:
    shutil.copy(EXAMPLES / "monthly_ndvi.py", folder)
    content = {
        "product": "monthly_ndvi:product",
        "area": {"bbox": valley.bbox},
        "period": "2021-07-20/2022-04-10",
        "archive": str(valley.collection),
        "cube": "cubes/valley",
        "grid": {"tile_px": 48, "window_days": 96},
        "limits": {"cost_eur": 5, "blocks": 1000},
        "cluster": {"kind": "address", "address": client.scheduler.address},
    }
    return make_study(content | changed, folder=folder)


@pytest.fixture(scope="module")
def watched(
    valley: Valley, client: Client, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Watched:
    """A run in which one block fails once."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "flaky.py").write_text(FLAKY.format(mark=str(folder / "mark")))
    study = study_in(folder, valley, client, product="flaky:product")
    bill = alpage.plan(study).bill
    middle: dict[str, Any] = {}

    def look(progress: Progress) -> None:
        middle["done"] = middle.get("done", 0) + 1
        if middle["done"] < 10 or "flow" in middle:
            return
        # Blocks that came back together are at the cluster no more, though not all are counted yet.
        flow = scrape(port)
        if flow.of("alpage_run_blocks_in_flight"):
            middle.update(flow=flow, workers=scraped_workers(client), then=middle["done"])
            processes = [psutil.Process(pid) for pid in client.run(_pid).values()]
            middle["resident"] = [process.memory_info().rss for process in processes]

    with serving(port):
        report = alpage.run(study, on_progress=look)
        end = scrape(port)
    return Watched(
        planned={step: len(blocks) for step, blocks in bill.blocks.items()},
        peak_bytes=bill.peak_bytes,
        report=report,
        middle=middle["flow"],
        done_then=middle["then"],
        workers_then=middle["workers"],
        resident_then=middle["resident"],
        end=end,
        workers=scraped_workers(client),
        scheduler=scrape(client.scheduler_info()["services"]["dashboard"]),
        port=port,
    )


def _pid() -> int:
    return os.getpid()


def scraped_workers(client: Client) -> list[Scrape]:
    workers = workers_of(client)
    return [scrape(workers[name]["services"]["dashboard"]) for name in sorted(workers)]


def summed(workers: list[Scrape], name: str, **labels: str) -> float:
    return sum(one.of(name, **labels) for one in workers if name in one.values)


def test_a_run_is_seen_while_it_goes_on(watched: Watched) -> None:
    seen, planned = watched.middle, watched.planned
    assert seen.by("alpage_run_blocks_planned", "stage") == planned
    assert seen.of("alpage_run_blocks_done_total") == watched.done_then
    left = sum(planned.values()) - watched.done_then
    assert seen.of("alpage_run_blocks_remaining") == left
    assert 0 < seen.of("alpage_run_blocks_in_flight") <= left
    assert seen.of("alpage_run_worker_memory_planned_bytes") == watched.peak_bytes
    began = seen.of("alpage_run_start_time_seconds")
    assert began < seen.of("alpage_run_last_block_time_seconds") < began + 600
    assert seen.of("process_resident_memory_bytes") == pytest.approx(
        psutil.Process().memory_info().rss, rel=0.5
    )


def test_what_a_run_did_is_its_plan_and_its_report(watched: Watched) -> None:
    end, report = watched.end, watched.report
    assert end.by("alpage_run_blocks_done_total", "stage") == watched.planned == report.blocks
    labels = {"cube": "valley", "product": "monthly_ndvi"}
    assert end.of("alpage_run_blocks_done_total", **labels) == report.n_blocks
    assert end.of("alpage_run_requests_total", status="ok") == report.requests > 0
    assert end.of("alpage_run_read_bytes_total") == report.bytes_read > 0
    for phase in ("read", "compute", "write"):
        seconds = end.of("alpage_run_block_seconds_total", phase=phase)
        assert seconds == getattr(report, f"{phase}_seconds") > 0
    assert end.of("alpage_run_scenes") == report.scenes == 27
    assert end.of("alpage_run_quarantined_scenes") == 0


def test_cost_and_limits_follow_from_the_prices(watched: Watched) -> None:
    report = watched.report
    hours = (report.read_seconds + report.compute_seconds + report.write_seconds) / 3600
    # The default prices: 0.04 EUR a core hour, 0.0004 and 0.005 EUR for 1000 GETs and PUTs.
    cost = hours * 0.04 + report.requests * 0.4e-6 + report.n_blocks * 5e-6
    assert watched.end.of("alpage_run_cost_euros_total") == pytest.approx(cost)
    assert report.cost_eur == pytest.approx(cost)
    used = watched.end.by("alpage_run_limit_used_ratio", "limit")
    assert used == pytest.approx({"cost_eur": cost / 5, "blocks": report.n_blocks / 1000})


def test_a_block_that_fails_once_is_counted_once(watched: Watched) -> None:
    end, report = watched.end, watched.report
    assert end.of("alpage_run_blocks_failed_total") == 1
    assert end.of("alpage_run_blocks_failed_total", stage="greenest", reason="product") == 1
    assert end.of("alpage_run_blocks_retried_total") == 1
    assert report.failures == {"greenest": {"product": 1}}
    labels = {"stage": "greenest", "reason": "product"}
    assert summed(watched.workers, "alpage_worker_blocks_failed_total", **labels) == 1


def test_workers_add_up_to_the_run(watched: Watched) -> None:
    report, workers = watched.report, watched.workers
    for step, done in watched.planned.items():
        assert summed(workers, "alpage_worker_blocks_done_total", stage=step) == done
        assert all(one.of("alpage_worker_blocks_done_total", stage=step) > 0 for one in workers)
    assert summed(workers, "alpage_worker_requests_total", status="ok") == report.requests
    assert summed(workers, "alpage_worker_read_bytes_total") == report.bytes_read
    seconds = report.read_seconds + report.compute_seconds + report.write_seconds
    # Those of the block that failed come on top.
    assert seconds <= summed(workers, "alpage_worker_block_seconds_total") < 1.5 * seconds + 5


def test_workers_tell_their_memory_beside_plan_and_limit(watched: Watched) -> None:
    resident = [one.of("alpage_worker_memory_resident_bytes") for one in watched.workers_then]
    assert sorted(resident) == pytest.approx(sorted(watched.resident_then), rel=0.2)
    for worker, held in zip(watched.workers_then, resident, strict=True):
        assert worker.of("alpage_worker_memory_planned_bytes") == watched.peak_bytes
        assert worker.of("alpage_worker_memory_limit_bytes") == 3 * 2**30
        assert worker.of("alpage_worker_memory_peak_bytes") >= held
    # The run is over: its plan is no measure of what comes next.
    assert all("alpage_worker_memory_planned_bytes" not in one.values for one in watched.workers)


def test_when_a_run_is_over_nothing_is_left_to_do_and_the_port_is_closed(watched: Watched) -> None:
    assert not {"alpage_run_blocks_remaining", "alpage_run_blocks_in_flight"} & set(
        watched.end.values
    )
    with pytest.raises(URLError, match="refused"):
        scrape(watched.port)


def test_a_bad_scene_is_counted_as_a_failed_block_and_as_quarantined(
    own_valley: Valley, client: Client, port: int, tmp_path: Path
) -> None:
    def damage(_plan: Any) -> None:
        """Spoil the pixels of a scene that was sound when it was looked at."""
        path = min((own_valley.folder / "archive").rglob("B04.tif"))
        with tifffile.TiffFile(path) as tif:
            start, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
        data = bytearray(path.read_bytes())
        data[start + count // 3 : start + count // 3 + 64] = bytes(64)
        path.write_bytes(data)

    study = study_in(tmp_path, own_valley, client, period="2021-07-20/2021-10-20")
    with serving(port):
        report = alpage.run(study, on_plan=damage)
        end = scrape(port)
    assert len(report.quarantined) == 1
    assert end.of("alpage_run_quarantined_scenes") == 1
    assert end.of("alpage_run_scenes") == report.scenes
    assert end.of("alpage_run_blocks_failed_total", stage="observe", reason="scene") >= 1
    assert end.of("alpage_run_blocks_failed_total") == report.failures["observe"]["scene"]


def test_blocks_lost_with_their_worker_are_the_schedulers_to_tell(
    valley: Valley, client: Client, tmp_path: Path
) -> None:
    done = 0

    def kill(_progress: Progress) -> None:
        nonlocal done
        done += 1
        if done == 5:
            os.kill(next(iter(client.run(_pid).values())), signal.SIGKILL)

    port = client.scheduler_info()["services"]["dashboard"]
    before = scrape(port).by("dask_scheduler_tasks_suspicious_total", "task_prefix_name")
    report = alpage.run(study_in(tmp_path, valley, client), on_progress=kill)
    after = scrape(port).by("dask_scheduler_tasks_suspicious_total", "task_prefix_name")
    assert after["observe"] > before.get("observe", 0)
    # Dask gives them to another worker; the run sees them done.
    assert report.failures == {}


def test_a_port_that_is_taken_does_not_stop_the_work(said: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(port):
            pass
    (line,) = said
    assert line.startswith(f"metrics: port {port} cannot be opened (Address already in use)")
    assert "ALPAGE_METRICS_PORT" in line


@pytest.fixture(scope="module")
def scraped(watched: Watched) -> dict[str, set[str]]:
    """The labels of every metric that was really scraped, besides those of its target."""
    labels: dict[str, set[str]] = defaultdict(set)
    all_scrapes = [watched.middle, watched.end, watched.scheduler]
    for one in (*all_scrapes, *watched.workers_then, *watched.workers):
        for name, samples in one.values.items():
            for key in samples:
                labels[name] |= set(dict(key))
    return dict(labels)


def dashboard_queries() -> dict[str, str]:
    """PromQL of the dashboard by panel or variable, as Prometheus gets it."""
    board = json.loads((CHART / "dashboards" / "alpage.json").read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    found |= {one["name"]: one["expr"] for one in board["annotations"]["list"]}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert inner, variable["definition"]
            found[variable["name"]] = f"count by ({inner[2]}) ({inner[1]})"
    known = {"$__rate_interval": "5m", "$namespace": ".*", "$cube": ".*", "$product": ".*"}
    for name, query in found.items():
        for variable, value in known.items():
            query = query.replace(variable, value)
        assert "$" not in query, query
        found[name] = query
    return found


def rules() -> dict[str, Any]:
    """The alerts with the thresholds that the chart has by default, as helm writes them."""
    text = (CHART / "alerts.yaml").read_text().replace("$NAMESPACE", "team")
    values = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["alerts"]
    for name, value in values.items():
        text = text.replace("$" + re.sub(r"(?=[A-Z])", "_", name).upper(), str(value))
    made: dict[str, Any] = yaml.safe_load(text)
    assert "$" not in json.dumps([rule["expr"] for rule in alerts(made)])
    return made


def alerts(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in made["groups"] for rule in group["rules"]]


FUNCTIONS = {"sum", "max", "min", "count", "rate", "increase", "time"}
WORDS = {"by", "on", "and"}


def named_in(query: str) -> tuple[set[str], set[str]]:
    """Metrics that a query names, and labels that it selects, groups or joins by."""
    labels = {
        label
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
        for label in re.findall(r"\w+", group)
    }
    matchers = re.findall(r"\{([^}]*)\}", query)
    labels |= {label for one in matchers for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", one)}
    bare = re.sub(r"\b(?:by|on) \([^)]*\)|\{[^}]*\}|\[[^]]*\]", " ", query)
    names = set(re.findall(r"(?<![\w.])[a-zA-Z_:]\w*", bare)) - FUNCTIONS - WORDS
    return names, labels


@pytest.mark.parametrize("query", [pytest.param(q, id=n) for n, q in dashboard_queries().items()])
def test_the_dashboard_asks_for_what_is_scraped(query: str, scraped: dict[str, set[str]]) -> None:
    check_query(query, scraped)


@pytest.mark.parametrize("rule", [pytest.param(r, id=r["alert"]) for r in alerts(rules())])
def test_the_alerts_ask_for_what_is_scraped(
    rule: dict[str, Any], scraped: dict[str, set[str]]
) -> None:
    names = check_query(rule["expr"], scraped)
    told = " ".join(rule["annotations"].values())
    has = set.intersection(*(scraped[name] for name in names)) | TARGET_LABELS
    assert set(re.findall(r"\$labels\.(\w+)", told)) <= has


def check_query(query: str, scraped: dict[str, set[str]]) -> set[str]:
    names, labels = named_in(query)
    assert names
    for name in names:
        assert name in scraped, f"{name} was not scraped"
        if name.startswith("alpage_"):
            assert labels <= scraped[name] | TARGET_LABELS, f"{name} has {scraped[name]}"
    return names


def test_every_metric_is_told_in_the_docs_and_none_else(
    watched: Watched, scraped: dict[str, set[str]]
) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    told = {
        name: (kind, set(re.findall(r"\w+", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(alpage_\w+)` \| (counter|gauge) \|([^|]*)\|", text, re.MULTILINE
        )
    }
    # A metric that counts failures is only at the worker that had one.
    scrapes = (watched.middle, *watched.workers_then, *watched.workers)
    kinds = {name: kind for one in scrapes for name, kind in one.kinds.items()}
    common = {"cube", "product"}
    ours = {name: labels for name, labels in scraped.items() if name.startswith("alpage_")}
    assert told == {name: (kinds[name], labels - common) for name, labels in ours.items()}


def test_labels_never_grow_with_the_work(scraped: dict[str, set[str]]) -> None:
    used = set().union(*(s for name, s in scraped.items() if name.startswith("alpage_")))
    assert used == {"cube", "product", "stage", "phase", "reason", "status", "limit"}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool", path=f"{ROOT / '.tools'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("needs promtool: `make promtool` fetches it on Debian")
    return found


def check_rules(promtool: str, path: Path, *arguments: str) -> None:
    done = subprocess.run(
        [promtool, *arguments, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_alerts_and_queries(promtool: str, tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text(yaml.safe_dump(rules()))
    check_rules(promtool, path, "check", "rules")
    queries = [
        {"record": f"panel:{number}", "expr": query}
        for number, query in enumerate(dashboard_queries().values())
    ]
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
    check_rules(promtool, path, "check", "rules")


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules()))
    path = tmp_path / "tests.yaml"
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), path)
    check_rules(promtool, path, "test", "rules")
