"""Runs that meet on one branch: what was planned on another state is never written."""

from pathlib import Path

import icechunk
import pytest
import zarr

from alpage.cube.store import MAIN, CubeStore
from alpage.errors import CubeBusy

RUN = "run-1"


@pytest.fixture
def two(tmp_path: Path) -> tuple[CubeStore, CubeStore]:
    """One cube, opened by two runs."""
    url = str(tmp_path / "cube")
    return CubeStore.create(url), CubeStore.open(url)


def work(store: CubeStore, told: str, **seal: bool) -> str:
    """Commit something on the run's branch; gives its snapshot."""

    def change(session: icechunk.Session) -> None:
        zarr.open_group(session.store, mode="a").attrs[told] = True

    store.commit(RUN, told, change, seal=seal or None)
    return store.tip(RUN)


def test_a_branch_is_begun_at_a_snapshot_whatever_was_left(two: tuple[CubeStore, ...]) -> None:
    store, later = two
    base = store.tip()
    store.begin(RUN, base)
    later.begin(RUN, base)
    assert store.tip(RUN) == base
    left = work(later, "left behind")
    assert store.tip(RUN) == left
    store.begin(RUN, base)
    assert store.tip(RUN) == base
    assert work(store, "anew") == store.tip(RUN)


def test_a_run_whose_branch_was_begun_anew_is_told(two: tuple[CubeStore, ...]) -> None:
    one, other = two
    one.begin(RUN, one.tip())
    work(one, "layout")
    one.writable(RUN)
    other.begin(RUN, other.tip())
    with pytest.raises(CubeBusy, match="another run of this study works on"):
        one.writable(RUN)
    assert work(other, "layout") == other.tip(RUN)


def test_a_run_that_began_beside_another_does_not_lay_out_again(
    two: tuple[CubeStore, ...],
) -> None:
    one, other = two
    for store in two:
        store.begin(RUN, store.tip())
    laid_out = work(one, "layout")
    with pytest.raises(CubeBusy, match="run again"):
        other.writable(RUN)
    assert one.tip(RUN) == laid_out


def test_a_branch_is_resumed_only_as_it_was_planned_on(two: tuple[CubeStore, ...]) -> None:
    one, other = two
    one.begin(RUN, one.tip())
    planned = work(one, "layout")
    work(one, "blocks")
    with pytest.raises(CubeBusy, match="run again"):
        other.resume(RUN, planned)
    other.resume(RUN, other.tip(RUN))
    assert work(other, "more blocks") == one.tip(RUN)


def test_a_sealed_branch_that_another_run_took_over_is_not_published(
    two: tuple[CubeStore, ...],
) -> None:
    one, other = two
    base = one.tip()
    one.begin(RUN, base)
    done = work(one, "blocks")
    sealed = work(one, "sealed", published=True)
    other.resume(RUN, sealed)
    assert other.tip(RUN) == done
    with pytest.raises(CubeBusy, match="run again"):
        one.publish(RUN, expected=base)
    assert one.tip() == base
    sealed = work(other, "sealed", published=True)
    assert other.publish(RUN, expected=base) == sealed == one.tip()
    assert one.branches() == {MAIN}
    with pytest.raises(CubeBusy, match="finished"):
        one.writable(RUN)
