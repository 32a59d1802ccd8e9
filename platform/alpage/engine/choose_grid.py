"""The grid of a new cube: as the study says, else as its scenes are."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import shapely
from pydantic import BaseModel
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from alpage.archive.scene import Scene
from alpage.archive.scenes import SceneList
from alpage.archive.sensors import SENSORS
from alpage.cube.axes import axes_for
from alpage.cube.layout import Layout
from alpage.engine.header import CogHeader, CogLevel
from alpage.engine.inspect import read_band
from alpage.engine.memory import may_chain, most_batch_days
from alpage.engine.storage import ReadCounters
from alpage.engine.work import SceneIndex
from alpage.errors import ArchiveError, CubeError, SceneError, StudyError
from alpage.grid import Grid, Tile, grid_over
from alpage.product import Context, Product
from alpage.study import Study, what_crs_lacks
from alpage.timeaxis import Calendar, covering

TILE_PX = 512
# Neighbours among a file's internal tiles are asked for together: of 512 pixels, four of them from
# S3 took four fifths of the time. Larger tiles would take more memory, and leave few tasks.
MOST_TILE_PX = 1024
# A tile's days follow each other on one worker, and tiles differ.
TILES_PER_WORKER = 2
# Pixels of large tiles for one of small ones: of scattered lakes and borders they hold more.
MOST_BEYOND = 1.1


def choose_grid(
    study: Study,
    product: Product,
    parameters: BaseModel,
    scenes: SceneList,
    identity: Mapping[str, Any] | None,
) -> Grid:
    """Return the grid of a study's cube: the cube's own where there is one.

    Raises StudyError where the scenes give none, ArchiveError where none of them can be used, and
    CubeError where the cube has another than the study asks for.
    """
    geometry = study.geometry()
    if identity is not None and (study.grid.crs is None or study.grid.resolution is None):
        # The cube decided once; which scenes came later must not move its pixels.
        grid = Grid.from_json(identity["grid"])
        _check_asked(study, grid)
        return grid
    crs, resolution, tile_px = study.grid.crs, study.grid.resolution, study.grid.tile_px
    if crs is not None and resolution is not None:
        return grid_over(geometry, crs=crs, resolution=resolution, tile_px=tile_px or TILE_PX)
    native = _native(product, scenes, geometry)
    a, _, x, _, _, y = native.transform
    name = f"EPSG:{native.crs}" if isinstance(native.crs, int) else native.crs
    crs, resolution = crs or name, resolution or abs(a)
    anchor_xy = (x, y) if crs == name else (0.0, 0.0)
    over = partial(grid_over, geometry, crs=crs, resolution=resolution, anchor_xy=anchor_xy)
    if tile_px is not None or crs != name or resolution != abs(a):
        return over(tile_px=tile_px or TILE_PX)
    side = _aligned_px(native.levels[0])
    small, large = (
        over(tile_px=several * side, align_px=side) for several in (1, MOST_TILE_PX // side)
    )
    suits = large != small and _suits(study, product, parameters, scenes, small, large)
    return large if suits else small


def tiles_of(study: Study, grid: Grid) -> frozenset[Tile]:
    """Return the tiles that a study's area touches: of a box all of them."""
    if study.area.bbox is not None:
        return frozenset(grid.tiles)
    return frozenset(grid.tiles_touching(study.geometry()))


def _check_asked(study: Study, grid: Grid) -> None:
    asked, most_px = study.grid, max(grid.shape_yx)
    crs = None if asked.crs is None else CRS.from_user_input(asked.crs)
    tile_px = None if asked.tile_px is None else min(asked.tile_px, most_px)
    for key, wanted, there in (
        ("crs", crs, CRS.from_user_input(grid.crs)),
        ("resolution", asked.resolution, grid.transform.a),
        ("tile_px", tile_px, grid.tile_px),
    ):
        if wanted not in (None, there):
            raise CubeError(
                f"grid.{key}: {study.cube} has {there}, this study asks for {wanted}; "
                "give it another cube, or the cube's own"
            )


def _suits(
    study: Study,
    product: Product,
    parameters: BaseModel,
    scenes: SceneList,
    small: Grid,
    grid: Grid,
) -> bool:
    """Whether larger tiles occupy all workers, hold little more, and fit a worker's memory."""
    tiles = tiles_of(study, grid)
    if len(tiles) < TILES_PER_WORKER * study.cluster.workers:
        return False
    if _ground(grid, tiles) > MOST_BEYOND * _ground(small, tiles_of(study, small)):
        return False
    period = covering(Calendar.DAY, study.period.first, study.period.last)
    layout = Layout(product, grid, axes_for(product, period, study.grid.window_days), (), {})
    context = Context(parameters, grid.pixel_area_m2)
    index = SceneIndex(layout, context, scenes.scenes)
    memory_gib = study.cluster.memory_gib
    return may_chain(layout, memory_gib, most_batch_days(layout), context, index.most_days)


def _ground(grid: Grid, tiles: Iterable[Tile]) -> float:
    """The area of tiles, in square units of the CRS."""
    return float(shapely.area(grid.outlines(list(tiles))).sum())


def _aligned_px(level: CogLevel) -> int:
    """The side of tiles that hold whole internal tiles of a file, or are whole parts of one.

    From 512 to 1024 pixels: smaller ones cost more requests and tasks.
    """
    high, wide = level.tile_yx
    if level.strips or high != wide:
        return TILE_PX
    side = high * max(TILE_PX // high, 1)
    while side > MOST_TILE_PX and side % 2 == 0:
        side //= 2
    return side if side <= MOST_TILE_PX else TILE_PX


def _native(product: Product, scenes: SceneList, area: BaseGeometry) -> CogHeader:
    """The header of the deciding band of a scene in the CRS whose scenes cover most."""
    covered: dict[int, float] = {}
    for scene in scenes.scenes:
        if scene.crs is not None:
            part = scene.footprint.intersection(area).area
            covered[scene.crs] = covered.get(scene.crs, 0.0) + part
    crs = max(sorted(covered), key=covered.__getitem__) if covered else None
    header = _example(product, [s for s in scenes.scenes if crs is None or s.crs == crs])
    name = f"EPSG:{header.crs}" if isinstance(header.crs, int) else header.crs
    if wanted := what_crs_lacks(name):
        raise StudyError(
            f"grid: the scenes are in {name[:200]}, {wanted}; give grid.crs and grid.resolution"
        )
    return header


def _example(product: Product, scenes: list[Scene]) -> CogHeader:
    """The header of the first sound scene's band that decides the product's resolution.

    Of several sensors the finest decides, whenever its scenes were taken.
    """
    reasons = []
    bands = {sensor: _deciding(product, sensor) for sensor in {scene.sensor for scene in scenes}}
    for scene in sorted(scenes, key=lambda scene: bands[scene.sensor][0]):
        _, band = bands[scene.sensor]
        try:
            if band not in SENSORS[scene.sensor].bands:
                raise SceneError(scene.id, f"{scene.sensor} has no band {band}")
            return read_band(scene, band, ReadCounters())
        except SceneError as error:
            reasons.append(str(error))
    raise ArchiveError(
        f"archive: none of {len(reasons)} scenes can be used; of the first: {reasons[0]}. "
        "Check the archive and the product's bands"
    )


def _deciding(product: Product, sensor: str) -> tuple[float, str]:
    """Metres and name of the band that decides a product's resolution; or infinity, and a band
    that the sensor lacks."""
    known = SENSORS[sensor].bands
    if missing := [band.name for band in product.bands if band.name not in known]:
        return math.inf, missing[0]
    choose = min if product.resolution == "finest" else max
    pairs = [(known[band.name].resolution_m, band.name) for band in product.bands]
    return choose(pairs, key=lambda pair: pair[0])
