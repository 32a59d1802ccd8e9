"""Runs over a network that breaks: the same cube in the end, or a named failure."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import alpage
from alpage.clusters import open_cluster
from alpage.objectstore import forget_environment
from alpage.simulate.valley import Valley
from alpage.study import ClusterChoice, Study, make_study

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
MIX = ("503", "reset", "lost", "truncated", "stalled")


@pytest.fixture(scope="module")
def network(
    s3_server: dict[str, str], new_bucket: Callable[..., Any], proxied: Callable[..., Any]
) -> Iterator[Any]:
    """A proxy before a bucket, and workers that see nothing but it."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        made = stack.enter_context(proxied(s3_server, patch))
        made.bucket = new_bucket(s3_server)
        client = stack.enter_context(open_cluster(ClusterChoice(workers=2, memory_gib=3)))
        made.scheduler = client.scheduler.address
        yield made
    forget_environment()


@pytest.fixture(scope="module")
def study_of(network: Any, valley: Valley) -> Callable[..., Study]:
    """A function that makes a study of the valley: the cube's place, and the archive's."""

    def make(cube: str, archive: str) -> Study:
        content = {
            "product": "monthly_ndvi:product",
            "area": {"bbox": valley.bbox},
            "period": f"{valley.spec.start}/{valley.spec.end}",
            "archive": archive,
            "cube": cube,
            "grid": {"crs": "EPSG:32632", "resolution": 20, "tile_px": 32, "window_days": 96},
            "cluster": {"kind": "address", "address": network.scheduler},
        }
        return make_study(content, folder=EXAMPLES)

    return make


@pytest.fixture(scope="module")
def undisturbed(
    study_of: Callable[..., Study], valley: Valley, tmp_path_factory: pytest.TempPathFactory
) -> str:
    study = study_of(str(tmp_path_factory.mktemp("here") / "cube"), str(valley.collection))
    alpage.run(study)
    return study.cube


@pytest.mark.slow
@pytest.mark.parametrize("faults", [*((one,) for one in MIX), MIX], ids="-".join)
def test_faults_leave_no_trace(
    faults: tuple[str, ...],
    network: Any,
    valley: Valley,
    study_of: Callable[..., Study],
    undisturbed: str,
    same_cube: Callable[[str, str], None],
) -> None:
    study = study_of(f"{network.bucket.url}/{'-'.join(faults)}", network.bucket.upload(valley))
    network.played = Counter()
    # A stall costs two seconds each time, and nothing else.
    network.faults, network.fault_rate = faults, 0.03 if faults == ("stalled",) else 0.1
    began = time.monotonic()
    try:
        report = alpage.run(study)
    finally:
        network.faults = ()
    print(
        f"{time.monotonic() - began:.1f} s, {dict(network.played)} faults, "
        f"{report.requests_again:.0f} reads and {report.retries} blocks tried again"
    )
    assert sum(network.played.values()) > 10
    assert report.requests_again > 0 or faults == ("stalled",)
    same_cube(study.cube, undisturbed)
