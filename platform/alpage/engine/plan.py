"""From a study and its scenes to what a run will do, and what it will cost. Reads no pixels.

Headers are read (they tell bytes and requests), and a coarse look at each new
Sentinel-2 scene checks its radiometry; both are remembered for the run.
"""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import shapely
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel
from shapely.geometry.base import BaseGeometry

from alpage.archive.scene import Scene
from alpage.archive.scenes import SceneList
from alpage.cube.axes import Axis, axes_for
from alpage.cube.layout import Layout, zone_steps
from alpage.cube.ledger import BlockId, Ledger, digest, voided
from alpage.cube.part import Part
from alpage.cube.shards import check_encoding
from alpage.cube.store import MAIN, CubeStore
from alpage.engine.bill import Bill, draw_bill
from alpage.engine.choose_grid import choose_grid
from alpage.engine.inspect import Damage, SceneSource, inspect_scenes
from alpage.engine.memory import batch_days, may_chain, peak_bytes
from alpage.engine.relief import read_relief
from alpage.engine.shared import Shared
from alpage.engine.storage import ReadCounters
from alpage.engine.work import SceneIndex, Work
from alpage.errors import ArchiveError, CubeError, StudyError
from alpage.grid import Grid, Tile
from alpage.product import Context, Gather, Observe, Product, Summarise, Zone
from alpage.settings import settings
from alpage.study import Study
from alpage.timeaxis import Calendar, Span, covering

IDENTITY_KEYS = ("product", "version", "parameters", "area", "grid", "dem")


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
    before: Layout | None
    """The cube's layout as it is, None where there is no cube yet."""
    zones_changed: bool
    recorded_digest: str | None
    """Of the scenes that the cube was built from."""
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
    identity = store.about(branch=branch) if store is not None else None
    found = store.read(branch=branch) if store is not None and identity is not None else None
    period = covering(Calendar.DAY, study.period.first, study.period.last)
    merged = _merge_scenes(scenes, recorded_scenes, period)
    grid = choose_grid(study, product, merged, identity)
    zones, geometries = _read_zones(study, grid)
    relief = read_relief(study, product, parameters, grid) if study.dem else None
    dem = None if relief is None else {"digest": relief.digest, "range_m": list(relief.range_m)}
    about = _identity(study, product, parameters, grid, zones, geometries, dem, identity)
    if identity is not None:
        _check_same_cube(study, identity, about, is_unfinished=branch != MAIN)
        _check_period(study, *identity["period"])
    whole = covering(Calendar.DAY, *about["period"])
    context = Context(
        parameters=parameters,
        pixel_area_m2=grid.pixel_area_m2,
        zones=zones,
        period=(whole.first_day, whole.last_day),
    )
    if relief is not None:
        context = replace(context, dem_range_m=relief.range_m, relief=relief.counts)
    asked = Layout(
        product,
        grid,
        axes_for(product, period, study.grid.window_days),
        zones,
        _table_shapes(product, context),
    )
    before = None
    if identity is not None:
        assert found is not None
        before = _layout_before(study, asked, identity["axes"], found)
    layout = _joined(asked, before)
    index = _index(layout, context, merged, {})
    batch = batch_days(layout, study.cluster.memory_gib, context, index.most_days)
    shared = Shared(
        product,
        parameters,
        layout,
        context,
        None if relief is None else relief.header,
        batch,
    )
    zones_changed = identity is not None and identity["zones"] != about["zones"]
    work = Work(
        layout,
        index,
        _ledger(found, layout, before, zones_changed),
        digest({key: about[key] for key in IDENTITY_KEYS}),
        geometries,
        _tiles(study, grid),
        {name: _result(layout, before, found, name, zones_changed) for name in gathers(product)},
        (whole.first_day, whole.last_day),
        may_chain(layout, study.cluster.memory_gib, batch, context, index.most_days),
        part,
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
        zones_changed=zones_changed,
        recorded_digest=identity.get("scenes") if identity is not None else None,
        base=base,
        bill=Bill(),
        rejected=rejected or {},
    )
    inspect_needed(plan)
    peak = peak_bytes(layout, batch, context, index.most_days, is_chaining=work.is_chaining)
    plan.bill = draw_bill(work, plan.sources, shared, peak, found, plan.inspection, settings())
    return plan


def _layout_before(
    study: Study, asked: Layout, axes: Mapping[str, Any], found: zarr.Group
) -> Layout:
    """The layout that the cube has. Raises CubeError where this study cannot go on with it."""
    old = {a.calendar: a for a in (Axis.from_json(c, v) for c, v in axes.items())}
    if (window := old[Calendar.DAY].window) != study.grid.window_days:
        raise CubeError(
            f"grid.window_days: {study.cube} has windows of {window} days, this study asks "
            f"for {study.grid.window_days}; give it another cube, or the cube's own"
        )
    before = replace(asked, axes=old)
    for layer in asked.product.layers:
        check_encoding(found[layer.path], before.shard_shape(layer))
    return before


def _joined(asked: Layout, before: Layout | None) -> Layout:
    """The layout that holds both what is there and what is asked for."""
    if before is None:
        return asked
    axes = {calendar: axis.joined(before.axes[calendar]) for calendar, axis in asked.axes.items()}
    return replace(asked, axes=axes)


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
    context, scenes = plan.shared.context, plan.scenes
    plan.work.index = _index(plan.layout, context, scenes, plan.quarantined)


def _index(
    layout: Layout, context: Context, scenes: SceneList, quarantined: Mapping[str, str]
) -> SceneIndex:
    observing = [stage for stage in layout.product.stages if isinstance(stage, Observe)]
    halo = max((stage.halo_px(context) for stage in observing), default=0)
    return SceneIndex(layout, (s for s in scenes.scenes if s.id not in quarantined), halo)


def _tiles(study: Study, grid: Grid) -> frozenset[Tile]:
    if study.area.bbox is not None:
        return frozenset(grid.tiles)
    return frozenset(grid.tiles_touching(study.geometry()))


def _check_needs(study: Study, product: Product) -> None:
    if product.needs_dem and study.dem is None:
        raise StudyError(f"dem: expected an elevation raster, product {product.name} needs one")
    if product.needs_zones and study.zones is None:
        raise StudyError(f"zones: expected a GeoJSON file, product {product.name} needs one")


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


def _read_zones(study: Study, grid: Grid) -> tuple[tuple[Zone, ...], tuple[BaseGeometry, ...]]:
    """The zones of the study in the grid's CRS; without any, the whole area is one."""
    zones, geometries = [], []
    for identifier, name, geometry in study.read_zones():
        projected = shapely.make_valid(grid.project(geometry))
        zones.append(Zone(identifier, name, float(projected.area)))
        geometries.append(projected)
    return tuple(zones), tuple(geometries)


def _identity(
    study: Study,
    product: Product,
    parameters: BaseModel,
    grid: Grid,
    zones: tuple[Zone, ...],
    geometries: tuple[BaseGeometry, ...],
    dem: dict[str, Any] | None,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    first, last = str(study.period.first), str(study.period.last)
    if before is not None:
        first, last = min(first, before["period"][0]), max(last, before["period"][1])
    return {
        "product": product.name,
        "version": product.version,
        "parameters": json.loads(parameters.model_dump_json()),
        "area": _told(study.geometry()),
        "grid": grid.to_json(),
        "dem": dem,
        "period": [first, last],
        "damaged": {} if before is None else before.get("damaged", {}),
        "zones": [
            {"id": zone.id, "name": zone.name, "digest": str(digest(shapely.to_wkb(g, hex=True)))}
            for zone, g in zip(zones, geometries, strict=True)
        ],
    }


def _told(area: BaseGeometry) -> dict[str, Any]:
    return {
        "bounds": [round(edge, 7) for edge in area.bounds],
        "digest": str(digest(shapely.to_wkb(area, hex=True))),
    }


def _check_same_cube(
    study: Study, cube: Mapping[str, Any], about: Mapping[str, Any], *, is_unfinished: bool
) -> None:
    what = f"an unfinished run of this study at {study.cube}" if is_unfinished else study.cube
    for key in IDENTITY_KEYS:
        if cube.get(key) != about[key]:
            raise CubeError(
                f"cube: {what} was made with {key} {_short(cube.get(key))}, this study "
                f"asks for {_short(about[key])}; give it another cube, or the cube's own {key}"
            )


def _check_period(study: Study, first: str, last: str) -> None:
    """Raises CubeError where days would be left between, which no run was ever asked for."""
    asked = study.period
    day = dt.timedelta(days=1)
    starts, ends = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    if asked.first <= ends + day and starts - day <= asked.last:
        return
    whole = f"{min(asked.first, starts)}/{max(asked.last, ends)}"
    raise CubeError(
        f"period: expected one that meets {first}/{last}, which {study.cube} holds, got "
        f"{asked.first}/{asked.last}: nobody has looked at the days between. Ask for {whole}, or "
        "give this study another cube"
    )


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 200 else text[:197] + "..."


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


def _ledger(
    found: zarr.Group | None, layout: Layout, before: Layout | None, zones_changed: bool
) -> Ledger:
    """The cube's record, placed on the axes that the cube will have."""
    ledger = Ledger.empty(layout)
    if found is None or before is None:
        return ledger
    for step, calendar in layout.steps.items():
        shift = before.axes[calendar].first_block - layout.axes[calendar].first_block
        old = found[f"ledger/{step}/fingerprint"][:]
        if zones_changed and step in zone_steps(layout.product):
            old = voided(old)
        ledger.fingerprints[step][shift : shift + len(old)] = old
    return ledger


def gathers(product: Product) -> tuple[str, ...]:
    """Return the names of a product's gathered tables."""
    return tuple(stage.name for stage in product.stages if isinstance(stage, Gather))


def _result(
    layout: Layout,
    before: Layout | None,
    found: zarr.Group | None,
    name: str,
    zones_changed: bool,
) -> NDArray[np.float64]:
    """A gathered table as the cube has it, on the days that the cube will have."""
    stage = layout.product.stage(name)
    assert isinstance(stage, Gather)
    axis = layout.axes[Calendar.DAY]
    zones = (layout.n_zones,) if stage.by_zone else ()
    result = np.full((len(axis.span), *zones, *layout.table_shapes[name]), np.nan)
    if found is not None and before is not None and not (stage.by_zone and zones_changed):
        old = found[f"ledger/{name}/result"][:]
        shift = before.axes[Calendar.DAY].span.start - axis.span.start
        result[shift : shift + len(old)] = old
    return result
