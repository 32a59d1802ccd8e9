"""The command line: help with examples, exit codes, one sentence for a failure, sound JSON."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import typer
import yaml

import alpage
from alpage.cli import app, main
from alpage.clusters import open_cluster
from alpage.cube.store import MAIN, CubeStore
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import simulate
from alpage.study import ClusterChoice
from alpage.terminal import print_lines

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
VERBS = (
    "search",
    "plan",
    "run",
    "status",
    "logs",
    "cancel",
    "history",
    "rollback",
    "release",
    "series",
    "serve",
    "demo",
    "schema",
)

MEAN_NDVI = """
from dataclasses import replace

import alpage
import monthly_ndvi
from alpage.science.zonal import sum_values


def count(days):
    return sum_values(days.layers["day/ndvi"], days.zones, fill=monthly_ndvi.EMPTY)


def finish(total, context):
    pixels, values = total[..., 0], total[..., 1]
    return {"ndvi_mean": values / pixels.clip(1) * 1e-4}


series = alpage.Summarise(
    "mean", ("day/ndvi",), (alpage.Series("ndvi_mean"),), lambda context: (3,), count, finish
)
good = monthly_ndvi.product
product = replace(good, name="mean_ndvi", stages=(*good.stages, series), preview="month/ndvi_max")
"""


SLOW = """
import time
import urllib.request
from dataclasses import replace

import monthly_ndvi

first, *others = monthly_ndvi.product.stages


def wait(observation):
    time.sleep(3)
    return first.function(observation)


stages = (replace(first, function=wait), *others)
product = replace(monthly_ndvi.product, name="slow", stages=stages)
"""


class Told:
    """What one call of the command line ended with."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        assert self.code == 0, self.err

        def refuse(text: str) -> None:
            raise AssertionError(f"{text} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """A function that calls the command line within this process, `main` and all."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["alpage", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Told(code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of four dates of a small valley, on a cluster that stays."""
    folder = tmp_path_factory.mktemp("cli")
    spec = ValleySpec(
        size_px=128, start=date(2021, 6, 1), end=date(2021, 8, 1), revisit_days=20, block_px=128
    )
    valley = simulate(folder / "valley", spec)
    shutil.copyfile(EXAMPLES / "monthly_ndvi.py", folder / "monthly_ndvi.py")
    (folder / "mean_ndvi.py").write_text(MEAN_NDVI)
    with open_cluster(ClusterChoice(workers=1)) as client:
        content = {
            "product": "mean_ndvi:product",
            "area": {"bbox": list(valley.bbox)},
            "period": "2021-06-01/2021-06-30",
            "archive": str(valley.collection),
            "cube": "cube",
            "cluster": {"kind": "address", "address": client.scheduler.address},
        }
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        yield path


def changed(study: Path, folder: Path, **changes: Any) -> Path:
    """The study with some keys changed, and its products, in another folder."""
    for name in ("mean_ndvi.py", "monthly_ndvi.py"):
        shutil.copyfile(study.parent / name, folder / name)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(study.read_text()) | changes))
    return path


@pytest.mark.parametrize("verb", ["history", "rollback"])
def test_an_address_with_a_password_is_refused_and_not_told_back(call: Any, verb: str) -> None:
    told = call(verb, "s3://me:hunter2@bucket/cube")
    assert (told.code, told.out) == (1, "")
    assert told.err == (
        "error expected an address without user and password; give them by the environment, "
        "got s3://bucket/cube\n"
    )


def test_every_verb_has_help_with_an_example() -> None:
    command = typer.main.get_command(app)
    assert command.help
    assert command.epilog
    assert tuple(command.commands) == VERBS
    for name, verb in command.commands.items():
        assert verb.help, name
        assert verb.help.endswith((".", "readers.", "first.")), name
        assert verb.epilog.startswith(f"Example: alpage {name}"), name


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_shown(call: Any, verb: str) -> None:
    told = call(verb, "--help")
    assert told.code == 0
    assert f"Example: alpage {verb}" in " ".join(told.out.split())


def test_the_module_runs_and_prints_a_valid_schema(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alpage.cli", "schema"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    study = {
        "product": "snow",
        "area": {"bbox": [6, 45, 7, 46]},
        "period": "2018-01-01/2018-12-31",
        "archive": "a.json",
        "cube": "cube",
    }
    jsonschema.validate(study, schema)
    with pytest.raises(jsonschema.ValidationError, match="does not match"):
        jsonschema.validate(study | {"period": "2018"}, schema)
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        jsonschema.validate(study | {"tiles": 3}, schema)


@pytest.mark.parametrize("verb", ["search", "plan", "run", "status", "release", "series"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("product: moss", "error product: expected one of vegetation, snow, lakes"),
        ("product: [unclosed", "error study: "),
        ("- a list", "error study: expected keys and values, got list"),
        (None, "error study: there is no file"),
    ],
)
def test_a_bad_study_is_one_line_and_exit_code_2(
    call: Any, tmp_path: Path, verb: str, content: str | None, says: str
) -> None:
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_text(content)
    before = sorted(tmp_path.iterdir())
    told = call(verb, path)
    assert told.code == 2
    assert told.out == ""
    assert told.err.startswith(says)
    assert told.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_run_says_how_to_go_on(study: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(study.read_text()) | {"product": "slow:product"}
    shutil.copyfile(study.parent / "monthly_ndvi.py", tmp_path / "monthly_ndvi.py")
    (tmp_path / "slow.py").write_text(SLOW)
    path, cube = tmp_path / "study.yaml", str(tmp_path / "cube")
    path.write_text(yaml.safe_dump(content))
    process = subprocess.Popen(
        [sys.executable, "-m", "alpage", "run", path], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (CubeStore.exists(cube) and CubeStore.open(cube).branches() - {MAIN}):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    # Ends the command as Ctrl-C does, also where the tests were started with that ignored.
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: what is finished is kept, run again to go on\n" in err


# As in a terminal, also where the tests were started with Ctrl-C ignored.
RUN_IN_A_TERMINAL = """
import signal, sys
from alpage.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["alpage", "run", sys.argv[1]]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_ctrl_c_while_workers_start_is_one_sentence(
    study: Path, tmp_path: Path, after_s: float
) -> None:
    path = changed(study, tmp_path, cluster={"workers": 2})
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_IN_A_TERMINAL, path],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    family: list[psutil.Process] = []
    while not any("spawn_main" in " ".join(one.cmdline()) for one in family):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert err == "stopped: what is finished is kept, run again to go on\n"
    assert process.returncode == 130
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_a_bill_beyond_a_limit_is_shown_all_the_same(
    call: Any, study: Path, tmp_path: Path
) -> None:
    path = changed(study, tmp_path, limits={"blocks": 1})
    told = call("plan", path, "--json")
    assert told.code == 1
    assert json.loads(told.out)["blocks_to_do"] > 1
    assert told.err.startswith("error limits.blocks: the run needs up to")


@pytest.mark.parametrize("verb", ["plan", "run", "release", "series", "status"])
def test_a_study_that_cannot_be_met_writes_nothing(
    call: Any, study: Path, tmp_path: Path, verb: str
) -> None:
    missing = {"product": "vegetation", "archive": "nowhere.json"}
    content = yaml.safe_load(study.read_text()) | missing
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    told = call(verb, path)
    assert told.code == 1
    assert told.out == ""
    assert told.err.startswith(("error archive: ", "error cube: there is none at"))
    assert told.err.count("\n") == 1
    assert not (tmp_path / "cube").exists()


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_folder_of_something_else_is_no_place_for_a_cube(
    call: Any, study: Path, tmp_path: Path, verb: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = changed(study, folder, cube=".")
    before = sorted(tmp_path.rglob("*"))
    told = call(verb, path)
    assert (told.code, told.out) == (1, "")
    expected = f"error cube: expected nothing at {folder} yet, it holds other objects; name another"
    assert told.err == f"{expected} place\n"
    assert [
        path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)
    ] == before


@pytest.mark.parametrize("arguments", [("fly",), ("run",), ("run", "a", "b"), ("plan", "a", "--x")])
def test_a_wrong_call_is_told_with_exit_code_2(call: Any, arguments: tuple[str, ...]) -> None:
    told = call(*arguments)
    assert told.code == 2
    assert told.out == ""
    assert told.err.startswith("Usage: ")


def test_a_part_says_what_is_left_to_do(call: Any, study: Path, tmp_path: Path) -> None:
    own = yaml.safe_load(study.read_text()) | {"cube": str(tmp_path / "cube")}
    study = study.with_name("parts.yaml")
    study.write_text(yaml.safe_dump(own))
    refused = call("run", study, "--part", "3/2")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.strip() == "error part: expected one from 1/2 to 2/2, got 3/2"
    told = call("run", study, "--part", "1/1")
    assert told.code == 0, told.err
    done = "is done; when all are, a run without --part shows readers the cube"
    assert re.search(rf"part 1/1 of .*cube {done}", told.out)
    assert re.search(
        r"nothing to do: part 1/1 of .*cube is up to date", call("run", study, "--part", "1/1").out
    )
    assert call("plan", study, "--part", "1/1", "--json").json()["blocks_to_do"] == 0


def test_paths_are_whole_where_no_terminal_shows_them(
    call: Any, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cube = tmp_path / "[a] folder" / ("with-a-long-name-" * 8)
    cube.parent.mkdir()
    CubeStore.create(str(cube))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(study.read_text()) | {"cube": str(cube)}))
    assert f"cube: {cube}\n" in call("status", path).out
    # As the demonstration ends.
    command = f"             alpage serve {cube}"
    print_lines([command])
    assert capsys.readouterr().out == f"{command}\n"


@pytest.mark.parametrize("verb", ["history", "rollback"])
def test_a_cube_that_is_not_there_is_one_line(call: Any, tmp_path: Path, verb: str) -> None:
    told = call(verb, tmp_path / "cube")
    assert told.code == 1
    assert told.err.startswith("error cube: there is none at ")
    assert told.err.count("\n") == 1
    assert not (tmp_path / "cube").exists()


def test_json_of_every_verb_parses(call: Any, study: Path) -> None:
    cube = study.parent / "cube"
    found = call("search", study, "--json").json()
    assert len(found["scenes"]) == len({scene["id"] for scene in found["scenes"]}) > 0
    bill = call("plan", study, "--json").json()
    assert bill["blocks_to_do"] == sum(bill["blocks"].values()) > 0
    assert not cube.exists()

    first = call("run", study, "--json").json()
    assert 0 < first["blocks_done"] <= bill["blocks_to_do"]
    again = call("run", study, "--json").json()
    assert again["blocks_done"] == 0
    assert again["snapshot"] == first["snapshot"]

    longer = yaml.safe_load(study.read_text()) | {"period": "2021-06-01/2021-07-31"}
    study.write_text(yaml.safe_dump(longer))
    second = call("run", study, "--json").json()
    state = call("status", study, "--json").json()
    assert state["snapshot"] == second["snapshot"]
    assert state["published"] is True
    assert state["unfinished_runs"] == []
    states = call("history", cube, "--json").json()
    assert [one["snapshot"] for one in states] == [second["snapshot"], first["snapshot"]]

    rows = call("series", study, "--json").json()
    assert {row["zone"] for row in rows} == {"area"}
    assert all(-1 <= row["ndvi_mean"] <= 1 for row in rows)
    june = yaml.safe_load(study.read_text()) | {"period": "2021-06-05/2021-06-30"}
    (study.parent / "june.yaml").write_text(yaml.safe_dump(june))
    rows_of_june = call("series", study.parent / "june.yaml", "--json").json()
    assert 0 < len(rows_of_june) < len(rows)
    assert rows_of_june == [row for row in rows if "2021-06-05" <= row["time"] < "2021-07"]
    released = call("release", study, "--json").json()
    assert released["written"] is True
    assert Path(released["collection"]).is_file()

    assert call("rollback", cube, "--json").json() == {"snapshot": first["snapshot"]}
    assert call("status", study, "--json").json()["snapshot"] == first["snapshot"]


def test_serve_says_where_and_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alpage", "serve", str(tmp_path), "--port"]
    with subprocess.Popen([*command, "0"], stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        told = serving.stderr.readline()
        assert told.startswith(f"serving {tmp_path} at http://127.0.0.1:")
        url = told.split()[-1]
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.read() == b"ok"
        port = url.rsplit(":", 1)[1]
        second = subprocess.run([*command, port], capture_output=True, text=True)
        serving.terminate()
    assert second.returncode == 2
    assert f"--port: 127.0.0.1, port {port} cannot be opened (Address already" in second.stderr


def test_the_chosen_surface() -> None:
    assert alpage.__all__ == [
        "Band",
        "Calendar",
        "Context",
        "Cube",
        "Derive",
        "Gather",
        "Layer",
        "Observation",
        "Observe",
        "Parameters",
        "Product",
        "Segment",
        "Series",
        "Study",
        "Summarise",
        "Table",
        "history",
        "make_study",
        "open_cube",
        "plan",
        "read_study",
        "release",
        "remote",
        "rollback",
        "run",
        "search",
        "series",
        "status",
    ]
    assert all(hasattr(alpage, name) for name in alpage.__all__)
