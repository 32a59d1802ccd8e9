"""The grid of a new cube: as the study says, else as its scenes are."""

from collections.abc import Mapping
from typing import Any

from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from alpage.archive.scene import Scene
from alpage.archive.scenes import SceneList
from alpage.archive.sensors import SENSORS
from alpage.engine.header import CogHeader, CogLevel
from alpage.engine.inspect import read_band
from alpage.engine.storage import ReadCounters
from alpage.errors import ArchiveError, SceneError, StudyError
from alpage.grid import Grid, grid_over
from alpage.product import Product
from alpage.study import Study

TILE_PX = 512


def choose_grid(
    study: Study, product: Product, scenes: SceneList, identity: Mapping[str, Any] | None
) -> Grid:
    """Return the grid of a study's cube: the cube's own where there is one.

    Raises StudyError where the scenes give none, ArchiveError where none of them can be used.
    """
    geometry = study.geometry()
    if identity is not None and (study.grid.crs is None or study.grid.resolution is None):
        # The cube decided once; which scenes came later must not move its pixels.
        return Grid.from_json(identity["grid"])
    crs, resolution, tile_px = study.grid.crs, study.grid.resolution, study.grid.tile_px
    anchor, is_native = (0.0, 0.0), False
    if crs is None or resolution is None:
        native = _native(product, scenes, geometry)
        name = f"EPSG:{native.crs}" if isinstance(native.crs, int) else native.crs
        crs = crs or name
        resolution = resolution or abs(native.transform[0])
        if crs == name:
            anchor = native.transform[2], native.transform[5]
            is_native = resolution == abs(native.transform[0])
    return grid_over(
        geometry,
        crs=crs,
        resolution=resolution,
        tile_px=tile_px or (_tile_px(native.levels[0]) if is_native else TILE_PX),
        anchor_xy=anchor,
        tiles_on_anchor=is_native and tile_px is None,
    )


def _tile_px(level: CogLevel) -> int:
    """The side of tiles that hold whole internal tiles of a file, or are whole parts of one.

    From 512 to 1024 pixels: smaller ones cost more requests and tasks, larger ones more memory.
    """
    high, wide = level.tile_yx
    if level.strips or high != wide:
        return TILE_PX
    side = high * max(TILE_PX // high, 1)
    while side > 2 * TILE_PX and side % 2 == 0:
        side //= 2
    return side if side <= 2 * TILE_PX else TILE_PX


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
    if not CRS.from_user_input(name).is_projected:
        raise StudyError(
            f"grid: expected scenes in a projected CRS, these are in {name[:200]}; "
            "give grid.crs and grid.resolution"
        )
    return header


def _example(product: Product, scenes: list[Scene]) -> CogHeader:
    """The header of the first sound scene's band that decides the product's resolution."""
    reasons = []
    choose = min if product.resolution == "finest" else max
    for scene in scenes:
        known = SENSORS[scene.sensor].bands
        try:
            if missing := [band.name for band in product.bands if band.name not in known]:
                raise SceneError(scene.id, f"{scene.sensor} has no band {missing[0]}")
            metres = {band.name: known[band.name].resolution_m for band in product.bands}
            return read_band(scene, choose(metres, key=metres.__getitem__), ReadCounters())
        except SceneError as error:
            reasons.append(str(error))
    raise ArchiveError(
        f"archive: none of {len(reasons)} scenes can be used; of the first: {reasons[0]}. "
        "Check the archive and the product's bands"
    )
