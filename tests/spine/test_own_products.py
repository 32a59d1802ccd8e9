"""Products of users: what they are made of counts as input, so that no cube mixes numbers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpage.simulate.valley import Valley

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
MINE = "mine.py"
ZONED = """
from dataclasses import replace

import numpy as np

import alpage
import mine
from mine import product as greenest

LAYER = alpage.Layer("inside", alpage.Calendar.MONTH, "uint8", 255)


def inside(month):
    found = np.zeros(month.zones.shape_yx, "uint8")
    found.ravel()[month.zones.pixels] = 1
    return {"inside": found[None]}


def product_of(by_zone, inside=inside):
    stage = alpage.Derive(
        "inside", ("day/ndvi",), (LAYER,), alpage.Calendar.MONTH, inside, by_zone=by_zone
    )
    return alpage.Product("zoned", "1", (*greenest.stages, stage))


def of_context(month):
    return {"inside": np.full((1, *month.zones.shape_yx), len(month.context.zones), "uint8")}


def gathering(width, of_zones=False):
    observing, _ = greenest.stages
    table = alpage.Table("seen", lambda context: (width,))
    stage = replace(
        observing,
        tables=(table,),
        function=lambda seen: {**mine.observe(seen), "seen": np.ones((len(seen.days), width), int)},
    )
    adding = alpage.Gather(
        "adding",
        "seen",
        lambda context: (width,),
        lambda rows, context: rows * (len(context.zones) if of_zones else 1),
    )
    return alpage.Product("zoned", "1", (stage, adding))


product, undeclared = product_of(True), product_of(False)
by_context, gathered = product_of(True, of_context), gathering(1, of_zones=True)
counted = gathering(1)
"""
Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


def command_in(folder: Path, valley: Valley) -> Command:
    """A function that gives what a command says of a study with a user's own product."""

    def command(verb: str, *options: str, **changed: Any) -> Done:
        study = {
            "product": "mine:product",
            "area": {"bbox": list(valley.bbox)},
            "period": "2021-07-20/2021-12-31",
            "archive": str(valley.collection),
            "cube": "cube",
            "grid": {"tile_px": 64, "window_days": 96},
            "cluster": {"workers": 1, "memory_gib": 2},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(study | changed))
        return subprocess.run(
            [sys.executable, "-m", "alpage", verb, "study.yaml", *options],
            cwd=folder,
            capture_output=True,
            text=True,
        )

    return command


@pytest.fixture(scope="module")
def built(valley: Valley, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's product, and the cube that it has made."""
    folder = tmp_path_factory.mktemp("edited")
    shutil.copy(EXAMPLES / "monthly_ndvi.py", folder / MINE)
    done = command_in(folder, valley)("run")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def alpage(built: Path, valley: Valley, tmp_path: Path) -> Command:
    """The same function, for a copy of that folder."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return command_in(tmp_path, valley)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / MINE).read_text()
    assert old in text
    (folder / MINE).write_text(text.replace(old, new))


def test_only_what_follows_from_an_edit_is_done_again(
    alpage: Command, tmp_path: Path, cells: Any, same_values: Any
) -> None:
    edit(tmp_path, '"""The greenest', '"""One layer: the greenest')
    assert json.loads(alpage("plan", "--json").stdout)["blocks_to_do"] == 0
    edit(tmp_path, ".max(axis=0, keepdims=True, initial=EMPTY)", ".min(axis=0, keepdims=True)")
    planned = json.loads(alpage("plan", "--json").stdout)
    assert {step for step, number in planned["blocks"].items() if number} == {"greenest"}
    assert planned["notes"] == [
        "the code of greenest has changed since the cube was made: what follows from it is done "
        "again"
    ]
    assert "note: the code of greenest has changed" in alpage("plan").stderr
    assert alpage("run").returncode == 0
    assert alpage("run", cube="anew").returncode == 0
    same_values(cells(str(tmp_path / "cube")), cells(str(tmp_path / "anew")))


@pytest.mark.parametrize(
    ("old", "new", "told", "verbs"),
    [
        pytest.param(
            'Layer("ndvi_max", Calendar.MONTH, "int16"',
            'Layer("ndvi_max", Calendar.MONTH, "int32"',
            "month/ndvi_max (int16, fill -32768, scale 0.0001, units 1), which is now int32",
            ("plan", "run", "status", "release"),
            id="dtype",
        ),
        pytest.param(
            '"ndvi_max"',
            '"greenest"',
            "month/greenest (not there), which is now",
            ("plan",),
            id="renamed",
        ),
        pytest.param(
            'Derive("greenest"',
            'Derive("most_green"',
            "stage greenest (Derive), which is now not there",
            ("plan",),
            id="stage",
        ),
        pytest.param(
            'name="monthly',
            'name="weekly',
            "made with product monthly_ndvi, this study asks for weekly_ndvi",
            ("plan", "status"),
            id="product",
        ),
    ],
)
def test_other_arrays_are_refused(
    alpage: Command,
    tmp_path: Path,
    cells: Any,
    same_values: Any,
    old: str,
    new: str,
    told: str,
    verbs: tuple[str, ...],
) -> None:
    before = cells(str(tmp_path / "cube"))
    edit(tmp_path, old, new)
    for verb in verbs:
        done = alpage(verb)
        assert done.returncode != 0
        assert told in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    same_values(cells(str(tmp_path / "cube")), before)


def test_a_stage_that_says_so_sees_zones_and_follows_them(
    alpage: Command, valley: Valley, tmp_path: Path, cells: Any, same_values: Any
) -> None:
    (tmp_path / "zoned.py").write_text(ZONED)
    zones = json.loads(valley.zones.read_text())
    assert len(zones["features"]) > 1

    def run(cube: str, n_zones: int, product: str = "product") -> Done:
        told = {**zones, "features": zones["features"][:n_zones]}
        (tmp_path / "zones.geojson").write_text(json.dumps(told))
        return alpage("run", product=f"zoned:{product}", cube=cube, zones="zones.geojson")

    for name, stage in (("undeclared", "inside"), ("by_context", "inside"), ("gathered", "adding")):
        refused = run(name, 1, name)
        told = f"stage {stage}: its function looks at zones that its record does not tell of"
        assert told in " ".join(refused.stderr.split())
    for cube, n_zones in (("zoned", 2), ("zoned", 1), ("anew", 1)):
        done = run(cube, n_zones)
        assert done.returncode == 0, done.stderr
    zoned, anew = (cells(str(tmp_path / cube)) for cube in ("zoned", "anew"))
    same_values(zoned, anew)
    assert {0, 1} <= set(zoned.arrays["month/inside"].ravel())


def test_a_table_of_another_shape_is_refused(alpage: Command, tmp_path: Path) -> None:
    (tmp_path / "zoned.py").write_text(ZONED)
    changed = {"product": "zoned:counted", "cube": "counted"}
    done = alpage("run", **changed)
    assert done.returncode == 0, done.stderr
    (tmp_path / "zoned.py").write_text(
        ZONED.replace("counted = gathering(1)", "counted = gathering(2)")
    )
    told = "was made with rows of shape (1,) in table seen, the product now has (2,)"
    assert told in " ".join(alpage("plan", **changed).stderr.split())
