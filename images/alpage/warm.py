"""Compile every kernel into NUMBA_CACHE_DIR, by building a small cube of each product."""

import datetime as dt
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from alpage import verbs
from alpage.science.overviews import halve_mean, halve_mode
from alpage.simulate.spec import ValleySpec
from alpage.simulate.valley import Valley, simulate
from alpage.study import make_study

PRODUCTS = ("vegetation", "snow", "lakes")
# Two winters and a summer, and not an image more than the kernels need.
SPEC = ValleySpec(
    size_px=128, start=dt.date(2021, 9, 1), end=dt.date(2022, 10, 31), revisit_days=15
)


def main() -> None:
    """Build the cubes, all at a time, and throw them away."""
    own = ProcessPoolExecutor(len(PRODUCTS), get_context("spawn"))
    with tempfile.TemporaryDirectory() as name, own as processes:
        folder = Path(name)
        valley = simulate(folder / "valley", SPEC, workers=1)
        builds = [processes.submit(build, folder, valley, product) for product in PRODUCTS]
        for product, n_blocks in zip(PRODUCTS, builds, strict=True):
            sys.stdout.write(f"{product}: {n_blocks.result()} blocks\n")
    kernels = len(list(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc")))
    assert kernels > 0, "expected compiled kernels in NUMBA_CACHE_DIR"
    sys.stdout.write(f"{kernels} kernels\n")


def build(folder: Path, valley: Valley, product: str) -> int:
    """Return how many blocks the cube of a product took."""
    study = make_study(_study(folder, valley, product), folder=folder)
    for layer in study.load_product().layers:
        # So small a cube has no overviews.
        halve = halve_mode if layer.flags else halve_mean
        halve(np.zeros((2, 2), layer.dtype), layer.fill)
    report = verbs.run(study)
    verbs.release(study)
    return report.n_blocks


def _study(folder: Path, valley: Valley, product: str) -> dict[str, object]:
    zones = json.loads(valley.zones.read_text())
    if product == "lakes":
        lakes = [one for one in zones["features"] if one["properties"]["kind"] == "lake"]
        zones = {**zones, "features": lakes}
    path = folder / f"{product}.geojson"
    path.write_text(json.dumps(zones))
    study: dict[str, object] = {
        "product": product,
        "area": {"bbox": list(valley.bbox)},
        "period": f"{SPEC.start}/{SPEC.end}",
        "archive": str(valley.collection),
        "cube": f"cubes/{product}",
        "zones": str(path),
        "grid": {"tile_px": 128},
        # Two would compile the same at the same time.
        "cluster": {"workers": 1},
    }
    if product == "snow":
        study["dem"] = str(valley.dem)
    return study


if __name__ == "__main__":
    main()
