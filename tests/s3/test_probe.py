"""Stores that keep their promises pass the probe; those that do not are refused by name."""

from collections.abc import Callable
from typing import Any

import pytest

import alpage
from alpage.cube.probe import probe
from alpage.errors import StorageError
from alpage.study import Study


def test_the_real_server_passes_and_nothing_stays(s3: Any) -> None:
    probe(f"{s3.url}/cubes/mine")
    assert s3.listing() == []


def test_folders_are_not_asked(tmp_path: Any) -> None:
    probe(str(tmp_path / "cube"))
    assert not any(tmp_path.iterdir())


def test_a_faithful_proxy_passes(s3: Any, proxy: Any) -> None:
    probe(f"{s3.url}/cube")
    assert s3.listing() == []


def test_a_network_that_breaks_is_no_broken_promise(s3: Any, proxy: Any) -> None:
    proxy.faults, proxy.fault_rate = ("truncated",), 0.4
    for number in range(5):
        probe(f"{s3.url}/{number}")
    assert proxy.played["truncated"] > 3


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        pytest.param(
            {"ignored": ("if-none-match",)},
            r"took a PUT with If-None-Match: \* for a key that exists, expected 412 .* versitygw",
            id="if-none-match",
        ),
        pytest.param(
            {"ignored": ("if-match",)},
            r"took a PUT with If-Match and an ETag that had changed, expected 412 .* versitygw",
            id="if-match",
        ),
        pytest.param(
            {"refuses_conditions": True},
            r"PUT with If-None-Match failed, expected it done or refused with 412; .*versitygw",
            id="conditions-not-known",
        ),
        pytest.param(
            {"lists_nothing": True}, r"lacks 3 of 3 objects just written, expected all", id="list"
        ),
        pytest.param(
            {"ignored": ("range",)},
            r"it answered with the whole object, expected these 50 bytes: let Range through",
            id="range",
        ),
        pytest.param(
            {"clock_minutes": 30},
            r"clock is 1[78]\d\d s ahead of this machine's, expected 300 s at most: set .* NTP",
            id="clock-ahead",
        ),
        pytest.param({"clock_minutes": -6}, r"behind this machine's", id="clock-behind"),
    ],
)
def test_a_broken_promise_is_named(s3: Any, proxy: Any, broken: dict[str, Any], told: str) -> None:
    for name, value in broken.items():
        setattr(proxy, name, value)
    with pytest.raises(StorageError, match=told) as refusal:
        probe(f"{s3.url}/cube")
    assert str(refusal.value).startswith(f"cube: {s3.url}/cube is not fit to hold a cube: ")
    assert "\n" not in str(refusal.value)
    assert s3.listing() == []


def test_a_small_difference_of_clocks_is_no_matter(s3: Any, proxy: Any) -> None:
    proxy.clock_minutes = 4
    probe(f"{s3.url}/cube")


def test_a_run_is_refused_before_it_writes(
    s3: Any, proxy: Any, study_of: Callable[..., Study]
) -> None:
    proxy.ignored = ("if-none-match",)
    study = study_of("monthly_ndvi", f"{s3.url}/cube")
    with pytest.raises(StorageError, match="If-None-Match"):
        alpage.run(study)
    assert s3.listing() == []
