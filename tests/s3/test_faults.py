"""Runs over a network that breaks: the same cube in the end, or a named failure."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import alpage
from alpage.clusters import open_cluster
from alpage.objectstore import forget_environment, names_under, touch
from alpage.simulate.valley import Valley
from alpage.study import ClusterChoice, Study

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
def study_of(network: Any, valley: Valley, studies: Callable[..., Any]) -> Callable[..., Study]:
    """A function that makes a study of the valley, for the workers behind the proxy."""
    made: Callable[..., Study] = studies(valley, network.scheduler)
    return made


@pytest.fixture(scope="module")
def undisturbed(study_of: Callable[..., Study], tmp_path_factory: pytest.TempPathFactory) -> str:
    study = study_of("monthly_ndvi", str(tmp_path_factory.mktemp("here") / "cube"))
    alpage.run(study)
    return study.cube


def test_a_listing_that_breaks_is_asked_for_again(network: Any) -> None:
    url = f"{network.bucket.url}/listed"
    # More than a store lists at once.
    names = [f"{number:04}" for number in range(1100)]
    network.bucket.files.pipe({f"{url}/{name}": b"" for name in names})
    network.played = Counter()
    network.faults, network.fault_rate = ("truncated",), 0.3
    try:
        for _ in range(10):
            touch(url)
            assert list(names_under(url)) == names
    finally:
        network.faults = ()
    assert network.played["truncated"] > 3


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
    cube = f"{network.bucket.url}/{'-'.join(faults)}"
    study = study_of("monthly_ndvi", cube, archive=network.bucket.upload(valley))
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
