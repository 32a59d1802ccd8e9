"""Make a valley, compute lakes, snow and vegetation from its imagery, compare, draw."""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from alpage.cube.reader import open_cube
from alpage.demo.compare import compare_lakes, compare_snow, compare_vegetation
from alpage.demo.pictures import draw_maps, draw_series
from alpage.errors import AlpageError
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import Valley, simulate
from alpage.study import read_study

PRODUCTS = ("vegetation", "snow", "lakes")
# Nothing of the demonstration leaves the machine or stays outside its folder.
QUIET_PREFECT = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "DO_NOT_TRACK": "1",
}


def run_demo(folder: Path, *, size_px: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the comparison with the truth, where everything is, and what to type next.

    Raises AlpageError. What is done already is not done again.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in QUIET_PREFECT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(folder / ".prefect"))
    valley = _timed(
        f"a valley of {size_px} x {size_px} px with its imagery",
        lambda: simulate(folder / "valley", ValleySpec(size_px=size_px), workers=2),
        say,
    )
    studies = {product: _write_study(folder, valley, product) for product in PRODUCTS}
    flow = _load_flow()
    answers = {
        product: _timed(
            f"{product}: search, plan, run, release",
            lambda study=study: flow.build(read_study(study).resolved()),  # type: ignore[misc]
            say,
        )
        for product, study in studies.items()
    }
    cubes = {product: open_cube(str(folder / "cubes" / product)) for product in PRODUCTS}
    comparison = [
        *compare_vegetation(cubes["vegetation"], valley),
        *compare_snow(cubes["snow"], valley),
        *compare_lakes(cubes["lakes"], valley),
    ]
    pictures = [*draw_maps(cubes, folder), *draw_series(cubes, valley, folder)]
    (folder / "comparison.json").write_text(json.dumps(comparison, indent=2))
    return {
        "comparison": comparison,
        "pictures": [str(path) for path in pictures],
        "cubes": {product: str(folder / "cubes" / product) for product in PRODUCTS},
        "releases": {product: answers[product]["release"]["url"] for product in PRODUCTS},
        "next": _next(folder, studies, pictures, answers),
    }


def _timed(what: str, work: Callable[[], Any], say: Callable[[str], None]) -> Any:
    began = time.monotonic()
    answer = work()
    say(f"{what}: {time.monotonic() - began:.0f} s")
    return answer


def _write_study(folder: Path, valley: Valley, product: str) -> Path:
    zones = json.loads(valley.zones.read_text())
    if product == "lakes":
        zones["features"] = [
            feature for feature in zones["features"] if feature["properties"]["kind"] == "lake"
        ]
    zones_path = folder / f"{product}.zones.geojson"
    zones_path.write_text(json.dumps(zones))
    study = {
        "product": product,
        "area": {"bbox": [round(degrees, 6) for degrees in valley.bbox]},
        "period": f"{valley.spec.start}/{valley.spec.end}",
        "archive": os.path.relpath(valley.collection, folder),
        "cube": f"cubes/{product}",
        "release": f"releases/{product}",
        "zones": zones_path.name,
        "cluster": {"kind": "local", "workers": 2, "memory_gib": 2},
        "grid": {"tile_px": 128},
    }
    if product == "snow":
        study["dem"] = os.path.relpath(valley.dem, folder)
    path = folder / f"{product}.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def _load_flow() -> ModuleType:
    """The flow as it is deployed: from the project's flows/, or its copy in an installed wheel."""
    here = Path(__file__).resolve().parent
    candidates = (here.parents[2] / "flows" / "build.py", here.parent / "_flows" / "build.py")
    for path in candidates:
        if path.exists():
            spec = importlib.util.spec_from_file_location("alpage_flow_build", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module
    raise AlpageError(f"demo: expected the flow at {candidates[0]}; reinstall alpage")


def _next(
    folder: Path, studies: dict[str, Path], pictures: list[Path], answers: dict[str, Any]
) -> list[str]:
    snow = studies["snow"]
    return [
        f"pictures   {folder}: {', '.join(path.name for path in pictures)}",
        f"cubes      {folder / 'cubes'}: {', '.join(PRODUCTS)}",
        f"releases   {folder / 'releases'}, the snow one at {answers['snow']['release']['url']}",
        "next       look at a study, change it and run it again:",
        f"             alpage plan {snow}",
        f"             alpage series {studies['lakes']} --zone lake",
        f"             alpage serve {folder / 'releases'}",
        "           open a cube in Python:",
        f'             import alpage; alpage.open_cube("{folder / "cubes" / "snow"}")',
    ]
