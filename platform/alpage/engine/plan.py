"""From a study and its scenes to what a run will do, and what it will cost. Reads no pixels.

Headers are read (they tell bytes and requests), and a coarse look at each new
Sentinel-2 scene checks its radiometry; both are remembered for the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from shapely.geometry.base import BaseGeometry

from alpage.archive.scene import Scene
from alpage.archive.scenes import SceneList
from alpage.cube.axes import axes_for
from alpage.cube.layout import Layout
from alpage.cube.ledger import BlockId, Ledger, digest
from alpage.cube.part import Part
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.before import Before, find_before
from alpage.engine.bill import Bill, draw_bill
from alpage.engine.choose_grid import choose_grid, tiles_of
from alpage.engine.code import code_digests
from alpage.engine.identity import (
    IDENTITY_KEYS,
    check_goes_on,
    check_product,
    geometry_digest,
    identity_of,
)
from alpage.engine.inspect import Damage, SceneSource, inspect_scenes
from alpage.engine.memory import batch_days, may_chain, peak_bytes
from alpage.engine.rasters import count_pixels
from alpage.engine.relief import Relief, area_on, read_relief
from alpage.engine.shared import Shared
from alpage.engine.storage import ReadCounters
from alpage.engine.work import SceneIndex, Work
from alpage.errors import ArchiveError, StudyError
from alpage.grid import Grid
from alpage.product import Context, Gather, Observe, Product, Summarise, Zone
from alpage.settings import settings
from alpage.study import Study
from alpage.surface import valid_surface
from alpage.timeaxis import Calendar, Span, covering

TOLD = 10
"""Names in a sentence."""


@dataclass
class Plan:
    """What a run will do. Its blocks follow from `work`, which the run keeps up to date."""

    study: Study
    shared: Shared
    work: Work
    scenes: SceneList
    sources: dict[str, SceneSource]
    quarantined: dict[str, str]
    damaged: dict[str, Damage]
    """Where blocks could not read scenes, by scene id, of this run and those before it."""
    identity: dict[str, Any]
    """What the cube says of itself: attribute `alpage` of its root."""
    before: Before | None
    """The cube as it is, None where there is none yet."""
    base: str | None
    """The snapshot of main that the plan was made on."""
    bill: Bill
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Items of the archive that are no scenes, with the reason."""
    inspection: ReadCounters = field(default_factory=ReadCounters)

    @property
    def layout(self) -> Layout:
        """The layout that the cube will have."""
        return self.shared.layout

    @property
    def left_out(self) -> dict[str, str]:
        """Everything of the archive that is bad and not used, by name, with the reason."""
        used = {scene.id for scene in self.scenes.scenes}
        rejected = {name: why for name, why in self.rejected.items() if name not in used}
        return rejected | self.quarantined

    @property
    def blocks(self) -> dict[str, list[BlockId]]:
        """Blocks to do at most, by step."""
        return self.bill.blocks


def make_plan(
    study: Study,
    scenes: SceneList,
    *,
    store: CubeStore | None,
    branch: str = MAIN,
    recorded_scenes: SceneList | None = None,
    known: Mapping[str, SceneSource] | None = None,
    rejected: Mapping[str, str] | None = None,
    part: Part | None = None,
) -> Plan:
    """Return the plan of a study over a scene list.

    Parameters
    ----------
    scenes
        What the search found in the study's period.
    store, branch
        The cube as it is; None for a new one. A branch of an interrupted run
        is planned on like the cube itself.
    recorded_scenes
        The scenes that the cube was built from: those outside the study's
        period stay.
    known
        Sources of scenes that need not be looked at again, by scene id.
    rejected
        What the search could not use, with the reason, to be told.
    part
        The share of the tiles to do; None for all, and what needs all of them.

    Raises StudyError, CubeError, ArchiveError or LimitReached, each before anything is written.
    """
    product = study.load_product()
    parameters = study.load_parameters(product)
    _check_needs(study, product)
    # Before anything is read of the cube: what is published from here on refuses this plan.
    base = store.tip() if store is not None else None
    cube = store.about(branch=branch) if store is not None else None
    root = store.read(branch=branch) if store is not None and cube is not None else None
    what = study.cube if branch == MAIN else f"an unfinished run of this study at {study.cube}"
    if cube is not None:
        check_product(product, cube, what)
    period = covering(Calendar.DAY, study.period.first, study.period.last)
    merged = _merge_scenes(scenes, recorded_scenes, period)
    grid = choose_grid(study, product, parameters, merged, cube)
    _check_area(study, grid)
    zones = _read_zones(study, grid, cube)
    inspection = ReadCounters()
    relief = read_relief(study, product, parameters, grid, cube, inspection) if study.dem else None
    code = code_digests(product, *study.product_place)
    about = identity_of(study, product, parameters, grid, zones, relief, code, cube)
    if cube is not None:
        check_goes_on(study, cube, about, what)
    whole = covering(Calendar.DAY, *about["period"])
    days = whole.first_day, whole.last_day
    context = _context(parameters, grid, [zone for zone, _ in zones], relief, days)
    asked = Layout(
        product,
        grid,
        axes_for(product, period, study.grid.window_days),
        context.zones,
        _table_shapes(product, context),
    )
    before = None
    if root is not None and cube is not None:
        before = find_before(study, asked, root, cube, about)
    layout = asked if before is None else before.joined(asked)
    index = SceneIndex(layout, context, merged.scenes)
    memory_gib = study.cluster.memory_gib
    batch = batch_days(layout, memory_gib, context, index.most_days)
    dem = None if relief is None else relief.header
    shared = Shared(product, parameters, layout, context, dem, batch, code)
    work = Work(
        layout=layout,
        index=index,
        ledger=Ledger.empty(layout) if before is None else before.ledger(layout),
        identity=digest({key: about[key] for key in IDENTITY_KEYS}),
        code=code,
        zones=tuple(outline for _, outline in zones),
        tiles=tiles_of(study, grid),
        results=_results(layout, before),
        period=days,
        is_chaining=may_chain(layout, memory_gib, batch, context, index.most_days),
        part=part,
    )
    plan = Plan(
        study=study,
        shared=shared,
        work=work,
        scenes=merged,
        sources=dict(known or {}),
        quarantined={},
        damaged=_damaged(about["damaged"]),
        identity=about,
        before=before,
        base=base,
        bill=Bill(),
        rejected=rejected or {},
        inspection=inspection,
    )
    inspect_needed(plan)
    peak = peak_bytes(layout, batch, context, index.most_days, is_chaining=work.is_chaining)
    plan.bill = draw_bill(work, plan.sources, shared, peak, root, plan.inspection, settings())
    plan.bill.notes = _notes(code, {} if cube is None else cube.get("code", {}), context)
    return plan


def _context(
    parameters: BaseModel,
    grid: Grid,
    zones: Sequence[Zone],
    relief: Relief | None,
    days: tuple[np.datetime64, np.datetime64],
) -> Context:
    """What holds for all blocks, given the first and last day that the cube will be asked for."""
    context = Context(parameters, grid.pixel_area_m2, zones=tuple(zones), period=days)
    if relief is None:
        return context
    return replace(context, dem_range_m=relief.range_m, relief=relief.counts)


def _notes(code: Mapping[str, str], before: Mapping[str, str], context: Context) -> list[str]:
    notes = []
    if changed := [stage for stage in code if before.get(stage, code[stage]) != code[stage]]:
        notes.append(
            f"the code of {', '.join(changed)} has changed since the cube was made: what follows "
            "from it is done again"
        )
    if empty := [zone.id for zone in context.zones if zone.pixels == 0]:
        told = ", ".join(empty[:TOLD]) + (" ..." if len(empty) > TOLD else "")
        notes.append(
            f"{len(empty)} of {len(context.zones)} zones hold no pixel's centre, and their series "
            f"stay empty: {told}"
        )
    return notes


def _damaged(told: Mapping[str, Any]) -> dict[str, Damage]:
    """Where the runs before found scenes damaged."""
    return {scene: (band, tuple(window)) for scene, (band, window) in told.items()}


def inspect_needed(plan: Plan) -> None:
    """Look at every scene that a block to do reads, until none is left that was not seen."""
    product = plan.shared.product
    if plan.quarantined:
        _leave_out_quarantined(plan)
    while True:
        needed: dict[str, Scene] = {}
        for stage in product.stages:
            if isinstance(stage, Observe):
                for block in plan.work.todo(stage.name):
                    for _, scenes in plan.work.index.scenes(block.tile, block.block):
                        needed |= {s.id: s for s in scenes if s.id not in plan.sources}
        if not needed:
            return
        usable, rejected = inspect_scenes(
            needed.values(), product.bands, plan.inspection, plan.damaged
        )
        plan.sources |= usable
        plan.quarantined |= rejected
        if rejected:
            if plan.study.on_bad_scene == "stop":
                name, reason = next(iter(rejected.items()))
                raise ArchiveError(f"on_bad_scene is stop, and scene {name} is bad: {reason}")
            _leave_out_quarantined(plan)


def _leave_out_quarantined(plan: Plan) -> None:
    left = [scene for scene in plan.scenes.scenes if scene.id not in plan.quarantined]
    plan.work.index = SceneIndex(plan.layout, plan.shared.context, left)


def _check_needs(study: Study, product: Product) -> None:
    if product.needs_dem and study.dem is None:
        raise StudyError(f"dem: expected an elevation raster, product {product.name} needs one")
    if product.needs_zones and study.zones is None:
        raise StudyError(f"zones: expected a GeoJSON file, product {product.name} needs one")


def _check_area(study: Study, grid: Grid) -> None:
    """Raises StudyError where no pixel's centre lies in the area: all of the cube stayed empty."""
    outline = valid_surface(area_on(study, grid))
    # Counting takes seconds for a country, which holds some for certain.
    if outline.area > 100 * grid.pixel_area_m2 or count_pixels(outline, grid.geobox):
        return
    raise StudyError(
        f"area: expected one that holds pixels, of {grid.transform.a:g} m none has its centre "
        "there; give a larger one, or a finer grid.resolution"
    )


def _merge_scenes(scenes: SceneList, recorded: SceneList | None, period: Span) -> SceneList:
    if recorded is None:
        return scenes
    pairs = dict(
        zip(
            (s.id for s in scenes.scenes),
            zip(scenes.scenes, scenes.items, strict=True),
            strict=True,
        )
    )
    for scene, item in zip(recorded.scenes, recorded.items, strict=True):
        day = np.datetime64(scene.solar_day, "D")
        if not period.first_day <= day <= period.last_day:
            pairs.setdefault(scene.id, (scene, item))
    return SceneList.of(pairs.values())


def _read_zones(
    study: Study, grid: Grid, cube: Mapping[str, Any] | None
) -> list[tuple[Zone, BaseGeometry]]:
    """The zones of the study in the grid's CRS; without any, the whole area is one.

    What the cube has counted of the same outline is not counted again: thousands take minutes.
    """
    counted: dict[str, int] = {}
    if cube is not None and "zone_pixels" in cube:
        digests = (zone["digest"] for zone in cube["zones"])
        counted = dict(zip(digests, cube["zone_pixels"], strict=True))
    zones = []
    for identifier, name, geometry in study.read_zones():
        outline = valid_surface(grid.project(geometry))
        pixels = counted.get(geometry_digest(outline))
        if pixels is None:
            pixels = count_pixels(outline, grid.geobox)
        zones.append((Zone(identifier, name, float(outline.area), pixels), outline))
    return zones


def _table_shapes(product: Product, context: Context) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in product.stages:
        match stage:
            case Observe():
                shapes |= {table.name: table.shape(context) for table in stage.tables}
            case Gather() | Summarise():
                shapes[stage.name] = stage.shape(context)
            case _:
                pass
    return shapes


def _results(layout: Layout, before: Before | None) -> dict[str, NDArray[np.float64]]:
    """Gathered tables as the cube has them, NaN elsewhere, on the days that it will have."""
    results = {}
    n_days = len(layout.axes[Calendar.DAY].span)
    for stage in layout.product.stages:
        if isinstance(stage, Gather):
            zones = (layout.n_zones,) if stage.by_zone else ()
            result = np.full((n_days, *zones, *layout.table_shapes[stage.name]), np.nan)
            if before is not None:
                before.fill(result, stage, layout)
            results[stage.name] = result
    return results
