"""Runs that meet on one branch: what was planned on another state is never written."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import icechunk
import pytest
import zarr

from alpage.cube.part import Part
from alpage.cube.store import MAIN, CubeStore
from alpage.errors import CubeBusy, StorageError

RUN = "run-1"


@pytest.fixture
def two(tmp_path: Path) -> tuple[CubeStore, CubeStore]:
    """One cube, opened by two runs."""
    url = str(tmp_path / "cube")
    return CubeStore.create(url), CubeStore.open(url)


def work(store: CubeStore, told: str, branch: str = RUN, **seal: bool) -> str:
    """Commit something on a run's branch; gives its snapshot."""

    def change(session: icechunk.Session) -> None:
        zarr.open_group(session.store, mode="a").attrs[told] = True

    store.commit(branch, told, change, seal=seal or None)
    return store.tip(branch)


@pytest.mark.parametrize("left", [{"snapshots"}, {"snapshots", "transactions"}])
def test_a_cube_that_a_killed_run_began_to_make_is_made(left: set[str], tmp_path: Path) -> None:
    url = tmp_path / "cube"
    CubeStore.create(str(url))
    for path in url.iterdir():
        if path.is_dir() and path.name not in left:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    assert not CubeStore.exists(str(url))
    store = CubeStore.create(str(url))
    store.begin(RUN, store.tip())
    assert work(store, "layout") == CubeStore.open(str(url)).tip(RUN)
    with pytest.raises(CubeBusy, match="another run began"):
        CubeStore.create(str(url))


def test_a_run_that_was_killed_while_it_wrote_a_first_file_leaves_nothing_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "cube" / "snapshots").mkdir(parents=True)
    (tmp_path / "cube" / "snapshots" / "1CECHNKREP0F1RSTCMT0#1").write_bytes(b"half")
    CubeStore.check_place(str(tmp_path / "cube"))
    assert CubeStore.create(str(tmp_path / "cube")).branches() == {MAIN}


def test_a_cube_in_the_making_is_nothing_else(tmp_path: Path) -> None:
    urls = [str(tmp_path / str(number)) for number in range(20)]
    with ThreadPoolExecutor(1) as pool:
        for url in urls:
            made = pool.submit(CubeStore.create, url)
            while not made.done():
                CubeStore.check_place(url)
            made.result()


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


def test_parts_share_a_branch_that_the_first_makes(two: tuple[CubeStore, ...]) -> None:
    base = two[0].tip()
    for number, store in enumerate(two, 1):
        store.share(RUN, base, Part(number, 2))
        work(store, f"part {number}")
    done = two[0].tip(RUN)
    for number, store in enumerate(two, 1):
        work(store, f"more of part {number}")
    history = [one.message for one in two[0].repository.ancestry(branch=RUN)]
    assert history[:4] == ["more of part 2", "more of part 1", "part 2", "part 1"]
    assert two[1].continues(RUN)
    assert done in {one.id for one in two[0].repository.ancestry(branch=RUN)}


def test_what_a_run_left_on_a_former_main_is_not_shared(two: tuple[CubeStore, ...]) -> None:
    store, other = two
    former = store.tip()
    store.begin(RUN, former)
    work(store, "left behind")
    other.begin("run-2", former)
    work(other, "seen", "run-2", published=True)
    shown = other.publish("run-2", expected=former)
    late = CubeStore.open(store.url)
    late.share(RUN, shown, Part(1, 2))
    assert late.tip(RUN) == shown
    # Who planned on what was there before would go on with what readers no longer see.
    with pytest.raises(CubeBusy, match=r"of part 2/2, works on .*; run again"):
        other.share(RUN, former, Part(2, 2))
    assert late.tip(RUN) == shown


def test_parts_go_on_below_a_seal_that_readers_never_saw(two: tuple[CubeStore, ...]) -> None:
    whole, first = two
    base = whole.tip()
    whole.begin(RUN, base)
    done = work(whole, "blocks")
    sealed = work(whole, "sealed", published=True)
    second = CubeStore.open(whole.url)
    first.share(RUN, sealed, Part(1, 2))
    assert first.tip(RUN) == done
    second.share(RUN, sealed, Part(2, 2))
    work(first, "of part 1")
    work(second, "of part 2")
    with pytest.raises(CubeBusy, match="run again"):
        whole.publish(RUN, expected=base)
    assert whole.tip() == base


@pytest.mark.parametrize("other", [None, Part(1, 2), Part(2, 3)])
def test_a_part_is_told_of_who_writes_to_its_tiles(
    other: Part | None, two: tuple[CubeStore, ...]
) -> None:
    one, taker = two
    one.share(RUN, one.tip(), Part(1, 2))
    done = work(one, "of part 1")
    if other is None:
        taker.resume(RUN, done)
    else:
        taker.share(RUN, done, other)
    work(taker, "taken over")
    with pytest.raises(CubeBusy, match=r"another run .*, or of part 1/2, works on .*run again"):
        work(one, "more of part 1")
    assert work(taker, "more") == one.tip(RUN)


def test_a_branch_that_another_run_finished_is_named(two: tuple[CubeStore, ...]) -> None:
    store, later = two
    base = store.tip()
    store.begin(RUN, base)
    work(store, "done", published=True)
    assert later.read(branch=RUN).attrs["done"]
    store.publish(RUN, expected=base)
    for ask in (later.writable, lambda branch: later.read(branch=branch)):
        with pytest.raises(CubeBusy, match=r"another run of this study finished .*; run again"):
            ask(RUN)


def test_a_sealed_state_was_published_only_once_readers_saw_it(
    two: tuple[CubeStore, ...],
) -> None:
    store, later = two
    base = store.tip()
    store.begin(RUN, base)
    laid_out = work(store, "layout")
    sealed = work(store, "done", published=True)
    assert not later.was_published(sealed)
    store.publish(RUN, expected=base)
    assert later.was_published(sealed)
    store.move_main(base, expected=sealed)
    assert later.was_published(sealed)
    for never in (base, laid_out, "0123456789ABCDEFGHJK", "no-id"):
        assert not later.was_published(never)


def test_a_store_that_does_not_take_a_commit_is_told_of_by_name(
    two: tuple[CubeStore, ...],
) -> None:
    store, _ = two
    store.begin(RUN, store.tip())
    snapshots = Path(store.url, "snapshots")
    shutil.rmtree(snapshots)
    snapshots.write_text("no folder")
    with pytest.raises(StorageError, match=r"cube: .* cannot be read or written"):
        work(store, "blocks")
