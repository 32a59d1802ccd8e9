"""The way of the data, one function a verb: search, plan, run, status, history, rollback, release.

Each is a whole step that also a flow or a notebook calls. None prints.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from alpage.archive.scenes import SceneList
from alpage.archive.search import SearchResult, search_archive
from alpage.clusters import open_cluster
from alpage.cube.axes import axes_from_json
from alpage.cube.layout import Layout
from alpage.cube.ledger import digest, read_costs
from alpage.cube.lock import held, turn
from alpage.cube.part import Part
from alpage.cube.place import is_local, local_path
from alpage.cube.probe import probe
from alpage.cube.reader import open_cube
from alpage.cube.store import MAIN, CubeStore, reached
from alpage.engine.endpoint import serving, showing
from alpage.engine.identity import check_product
from alpage.engine.inspect import SceneSource
from alpage.engine.lay_out import lay_out
from alpage.engine.plan import Plan, make_plan
from alpage.engine.report import Pace, Progress, RunReport
from alpage.engine.run import Run, finish
from alpage.engine.sources import read_sources, write_sources
from alpage.errors import AlpageError, ArchiveError, CubeBusy, CubeError
from alpage.grid import Grid
from alpage.releases.gate import check_cube
from alpage.releases.publish import Release, publish_release
from alpage.releases.stac import About
from alpage.settings import settings
from alpage.study import Study
from alpage.timeaxis import Calendar, covering

if TYPE_CHECKING:
    import pandas as pd


def search(study: Study) -> SearchResult:
    """Return the scenes of a study's area and period, duplicates dropped, bad items by name."""
    try:
        return search_archive(
            study.locate(study.archive),
            collection=study.collection,
            geometry=study.geometry(),
            period=(study.period.first, study.period.last),
        )
    except ArchiveError as error:
        raise type(error)(f"archive: {error}") from error


def plan(study: Study, found: SearchResult | None = None, *, part: str | None = None) -> Plan:
    """Return what a run of the study, or of one part of it, would do and cost. Writes nothing.

    Also where a run would not start for a limit of the study: `plan(...).bill.check(limits)`.
    """
    made, _ = _plan(study, found, None if part is None else Part.parse(part), {})
    return made


def run(
    study: Study,
    found: SearchResult | None = None,
    *,
    part: str | None = None,
    planned: Plan | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_report: Callable[[RunReport], None] = lambda report: None,
) -> RunReport:
    """Bring the study's cube up to date with its archive and show it to readers.

    Does only what is not recorded as done. An interrupted run is resumed from
    its last commit. Raises AlpageError; the cube that readers see is then as
    it was. `on_report` is told what was done also where the run fails, once it had a cluster.

    The cube may have moved on since `planned` was made of the same scenes: a plan is drawn anew,
    but what it looked at is not looked at again.

    Parts, such as "2/4", the second of four, run side by side, each on its share of the
    tiles, up to where all tiles are needed. Readers see nothing of them before a run without
    `part` has done what is left.
    """
    url = study.locate(study.cube)
    chosen = None if part is None else Part.parse(part)
    if is_local(url):
        # Or the lock would stay beside what is no cube.
        CubeStore.check_place(url)
    with serving(settings().metrics_port), held(url, chosen), reached(url):
        made, resumed = _plan(study, found, chosen, {} if planned is None else planned.sources)
        made.bill.check(study.limits)
        on_plan(made)
        scenes_digest = made.scenes.digest
        if _is_done(made, resumed, scenes_digest):
            report = RunReport(
                url,
                scenes=len(made.scenes) - len(made.quarantined),
                quarantined=made.left_out,
                snapshot=made.base if chosen is None else None,
                part=None if chosen is None else str(chosen),
            )
            on_report(report)
            return report
        probe(url)
        store = _store(url, made, chosen)
        made.base = made.base or store.tip()
        branch = _branch_name(study)
        if chosen is not None:
            store.share(branch, resumed or made.base, chosen)
        elif resumed is None:
            store.begin(branch, made.base)
        else:
            store.resume(branch, resumed)
        store.commit(branch, "Lay out the cube", partial(lay_out, made))
        pace = Pace(max((len(blocks) for blocks in made.blocks.values()), default=0))
        with contextlib.ExitStack() as ending:
            with open_cluster(study.cluster, pace) as client:
                work = Run(made, client, store, branch, settings(), on_progress, pace)
                ending.enter_context(_reported(work.report, on_report))
                with showing(work):
                    work.execute()
            _keep_sources(url, made, has_others=chosen is not None or resumed is not None)
            if chosen is not None:
                return work.report
            made.scenes.freeze(scenes_path(url, scenes_digest))
            previous = store.read() if store.about() is not None else None
            finish(
                work,
                scenes_digest,
                lambda root: check_cube(root, made.layout, previous).to_json(),
            )
            return work.report


@contextlib.contextmanager
def _reported(report: RunReport, on_report: Callable[[RunReport], None]) -> Iterator[None]:
    """Tell the report when what runs inside has ended or failed; what is killed has no time to."""
    try:
        yield
    except AlpageError:
        on_report(report)
        raise
    on_report(report)


def status(study: Study) -> dict[str, Any]:
    """Return what the study's cube holds: blocks and cost by step, unfinished runs, last report."""
    url = study.locate(study.cube)
    store = CubeStore.open(url)
    about = store.about()
    answer: dict[str, Any] = {
        "cube": url,
        "published": about is not None,
        "unfinished_runs": sorted(store.unfinished()),
    }
    branch = next(iter(answer["unfinished_runs"]), None)
    if about is None and branch is not None:
        about = store.about(branch=branch)
    if about is None:
        return answer
    on = MAIN if answer["published"] else str(branch)
    answer |= {key: about.get(key) for key in ("product", "version", "period", "quarantined")}
    answer["steps"] = read_costs(store.read(branch=on), _layout_of(study, about))
    last = next(store.versions(), None)
    if last is not None:
        answer["snapshot"] = last.snapshot
        answer["last_run"] = last.metadata.get("report")
    return answer


def history(cube: str) -> list[dict[str, Any]]:
    """Return the states of a cube that readers have seen, newest first."""
    return [
        {
            "snapshot": version.snapshot,
            "written_at": version.written_at.isoformat(),
            "message": version.message,
            "blocks": version.metadata["report"]["blocks_done"],
            "scenes": version.metadata["report"]["scenes"],
        }
        for version in CubeStore.open(cube).versions()
    ]


def rollback(cube: str, snapshot: str | None = None) -> str:
    """Show readers an earlier state of a cube, by default the one before; returns its snapshot.

    A later state that was rolled back from is shown again by its id, until the repository's
    garbage is collected. Raises CubeError where there is no such state.
    """
    with held(cube):
        store = CubeStore.open(cube)
        if snapshot is None:
            seen = [version.snapshot for version in store.versions()]
            if len(seen) < 2:
                raise CubeError(f"cube: {cube} has no state before the one that readers see")
            snapshot = seen[1]
        elif not store.was_published(snapshot):
            raise CubeError(
                f"cube: {cube} never showed readers {snapshot}; `alpage history` lists its states"
            )
        store.move_main(snapshot, expected=store.tip())
        return snapshot


def release(study: Study) -> Release:
    """Publish what readers of the study's cube see as an immutable release.

    A large one is written by the study's cluster, if neither that nor cube and release are of
    this machine. Raises GateFailed; what was released before is then as it was.
    """
    url = study.locate(study.cube)
    store = CubeStore.open(url)
    if store.about() is None:
        raise CubeError(f"cube: nothing was published at {url} yet; `alpage run` does")
    # One snapshot is checked and published, whatever other runs do meanwhile.
    snapshot = store.tip()
    root = store.read(snapshot=snapshot)
    about = dict(root.attrs["alpage"])
    check_cube(root, _layout_of(study, about))
    scenes = recorded_scenes(url, about)
    if scenes is not None:
        scenes = scenes.without(about["quarantined"])
    product = study.load_product()
    told = About(
        id=local_path(url).name,
        title=product.title or product.name,
        archive=study.archive,
        preview=product.preview,
        zones=study.zone_geometries(),
    )
    is_here = study.cluster.kind == "local" or is_local(url) or is_local(study.releases)
    workers = None if is_here else partial(open_cluster, study.cluster)
    return publish_release(
        url, snapshot, study.releases, scenes=scenes, about=told, workers=workers
    )


def series(study: Study, *, calendar: str | None = None, zone: str | None = None) -> "pd.DataFrame":
    """Return the series of a study's cube as a table: zone, time, one column a series.

    Of the slots that meet the study's period.
    """
    cube = open_cube(study.locate(study.cube))
    chosen = calendar or next(iter(cube.series_calendars), "day")
    table = cube.zones(chosen).drop_vars("zone_area").to_dataframe().reset_index()
    if zone is not None:
        if zone not in set(table["zone"]):
            raise CubeError(f"zone: expected one of {', '.join(sorted(set(table['zone'])))}")
        table = table[table["zone"] == zone]
    span = covering(Calendar(chosen), study.period.first, study.period.last)
    table = table[table["time"].isin(span.dates)]
    values = [name for name in table.columns if name not in ("zone", "time", "zone_name")]
    return table.dropna(subset=values, how="all").sort_values(["zone", "time"])


def scenes_path(cube: str, scenes_digest: str) -> str:
    """Return the path or URL of a cube's frozen scene list: beside the cube, named by content."""
    beside = str(local_path(cube)) if is_local(cube) else cube.rstrip("/")
    return f"{beside}.scenes/{scenes_digest[:32]}.parquet"


def sources_path(cube: str, scenes_digest: str) -> str:
    """Return where the headers of a scene list's files are kept: beside it."""
    return scenes_path(cube, scenes_digest).removesuffix(".parquet") + ".headers"


def _keep_sources(url: str, made: Plan, *, has_others: bool) -> None:
    """Keep the headers that a run has read; beside those of others, where parts may have read some.

    Where two parts on S3 end at once those of one may be lost: a later plan reads them again.
    """
    place = sources_path(url, made.scenes.digest)
    sound = [scene for scene in made.scenes.scenes if scene.id not in made.quarantined]
    if not has_others:
        write_sources(place, made.sources, sound)
        return
    with turn(url):
        kept = read_sources(place, sound, made.shared.product.bands)
        write_sources(place, kept | made.sources, sound)


def recorded_scenes(cube: str, about: dict[str, Any]) -> SceneList | None:
    """Return the scenes that a cube was built from."""
    if "scenes" not in about:
        return None
    path = scenes_path(cube, about["scenes"])
    try:
        return SceneList.load(path)
    except FileNotFoundError:
        raise CubeError(
            f"cube: its scene list {path} is gone; restore it, or build the cube anew elsewhere"
        ) from None


def _plan(
    study: Study,
    found: SearchResult | None,
    part: Part | None,
    looked_at: Mapping[str, SceneSource],
) -> tuple[Plan, str | None]:
    """The plan, and where the branch of the interrupted run stands that it goes on from, if any."""
    product = study.load_product()
    study.load_parameters(product)
    found = found or search(study)
    rejected = dict(found.rejected)
    if rejected and study.on_bad_scene == "stop":
        name, reason = next(iter(rejected.items()))
        raise ArchiveError(f"on_bad_scene is stop, and item {name} is bad: {reason}")
    url = study.locate(study.cube)
    if not CubeStore.exists(url):
        CubeStore.check_place(url)
        made = make_plan(
            study, found.scenes, store=None, known=looked_at, rejected=rejected, part=part
        )
        return made, None
    store = CubeStore.open(url)
    about = store.about()
    recorded = recorded_scenes(url, about) if about is not None else None
    known: dict[str, SceneSource] = {}
    if recorded is not None:
        present = (*recorded.scenes, *found.scenes.scenes)
        known = read_sources(sources_path(url, recorded.digest), present, product.bands)
    branch = _branch_name(study)
    resumed = store.tip(branch) if store.continues(branch) else None
    if resumed is not None and store.about(branch=branch) is None:
        resumed = None
    made = make_plan(
        study,
        found.scenes,
        store=store,
        branch=MAIN if resumed is None else branch,
        recorded_scenes=recorded,
        known={**known, **looked_at},
        rejected=rejected,
        part=part,
    )
    return made, resumed


def _store(url: str, made: Plan, part: Part | None) -> CubeStore:
    """The store of the cube, made where the plan found none."""
    if made.base is not None:
        return CubeStore.open(url)
    if part is None:
        return CubeStore.create(url)
    with turn(url):
        try:
            return CubeStore.create(url)
        except CubeBusy:
            # Another part came first.
            return CubeStore.open(url)


def _is_done(made: Plan, resumed: str | None, scenes_digest: str) -> bool:
    if made.work.part is not None:
        return made.bill.n_blocks == 0
    return (
        resumed is None
        and made.before is not None
        and made.bill.n_blocks == 0
        and not made.before.zones_changed
        and dict(made.before.layout.axes) == dict(made.layout.axes)
        and made.before.scenes_digest == scenes_digest
    )


def _branch_name(study: Study) -> str:
    """The branch of a study's run: the same after a crash, so that it is found again."""
    told = study.model_dump(mode="json", exclude={"cluster", "limits", "release"})
    high, low = digest(told)
    return f"run-{high:016x}{low:016x}"


def _layout_of(study: Study, about: dict[str, Any]) -> Layout:
    product = study.load_product()
    check_product(product, about, study.cube)
    axes = axes_from_json(about["axes"])
    return Layout(product, Grid.from_json(about["grid"]), axes, (), {})
