"""The grid of a new cube: as the study says, else as its scenes are."""

from collections.abc import Mapping
from typing import Any

from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from alpage.archive.scene import Scene
from alpage.archive.scenes import SceneList
from alpage.archive.sensors import SENSORS
from alpage.engine.header import CogHeader
from alpage.engine.inspect import read_band
from alpage.engine.storage import ReadCounters
from alpage.errors import ArchiveError, SceneError, StudyError
from alpage.grid import Grid, grid_over
from alpage.product import Product
from alpage.study import Study


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
    crs, resolution = study.grid.crs, study.grid.resolution
    anchor = (0.0, 0.0)
    if crs is None or resolution is None:
        native_crs, native_resolution, native_anchor = _native(product, scenes, geometry)
        crs = crs or native_crs
        resolution = resolution or native_resolution
        if crs == native_crs:
            anchor = native_anchor
    return grid_over(
        geometry, crs=crs, resolution=resolution, tile_px=study.grid.tile_px, anchor_xy=anchor
    )


def _native(
    product: Product, scenes: SceneList, area: BaseGeometry
) -> tuple[str, float, tuple[float, float]]:
    """The CRS whose scenes cover most, the product's resolution in it, and a pixel corner."""
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
    return name, abs(header.transform[0]), (header.transform[2], header.transform[5])


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
