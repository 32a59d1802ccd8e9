"""Grids: tiles cover every pixel once, and areas find their tiles."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import Point, box

from alpage.grid import Grid, grid_over


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    resolution = draw(st.sampled_from([10, 20, 30, 60]))
    x0, y0 = draw(st.integers(-100, 100)) * 60 + 500_000, draw(st.integers(0, 100)) * 60 + 5_000_000
    bbox = (x0, y0, x0 + width * resolution, y0 + height * resolution)
    return Grid(
        GeoBox.from_bbox(bbox, "EPSG:32631", resolution=resolution), draw(st.integers(1, 128))
    )


@given(grids())
def test_tiles_cover_every_pixel_once(grid: Grid) -> None:
    seen = np.zeros(grid.shape_yx, dtype=int)
    for tile in grid.tiles:
        rows, columns = grid.slices(tile)
        seen[rows, columns] += 1
        assert grid.tile_box(tile).shape.yx == seen[rows, columns].shape
    assert (seen == 1).all()


@given(grids(), st.integers(0, 40))
def test_tile_box_lies_on_the_grid(grid: Grid, halo: int) -> None:
    for tile in list(grid.tiles)[:4]:
        tile_box = grid.tile_box(tile, halo_px=halo)
        rows, columns = grid.slices(tile)
        corner = grid.transform @ (columns.start - halo, rows.start - halo)
        assert tile_box.transform @ (0, 0) == pytest.approx(corner)
        assert tile_box.shape.yx == (
            rows.stop - rows.start + 2 * halo,
            columns.stop - columns.start + 2 * halo,
        )


@given(grids(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_point_finds_its_tile(grid: Grid, across: float, down: float) -> None:
    height, width = grid.shape_yx
    x, y = grid.transform @ (across * width, down * height)
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    around = Point(to_degrees.transform(x, y)).buffer(1e-9)
    expected = (int(down * height) // grid.tile_px, int(across * width) // grid.tile_px)
    assert expected in grid.tiles_touching(around)


@pytest.mark.parametrize(
    ("crs", "resolution", "x0", "y0"),
    [
        ("EPSG:32631", 10.0, 500_000.0, 5_000_000.0),
        # Svalbard, where a degree of longitude is a fifth of one of latitude.
        ("EPSG:32633", 10.0, 500_000.0, 8_700_000.0),
        ("EPSG:4326", 1e-4, 6.0, 45.0),
    ],
)
@pytest.mark.parametrize(
    "beside_px",
    [(133, 74, 143, 118), (49, 74, 59, 118), (74, 49, 118, 59), (74, 133, 118, 143)],
    ids=["right", "left", "above", "below"],
)
def test_what_lies_five_pixels_beside_a_tile_touches_a_halo_of_more(
    crs: str, resolution: float, x0: float, y0: float, beside_px: tuple[int, int, int, int]
) -> None:
    transform = Affine(resolution, 0, x0, 0, -resolution, y0)
    grid = Grid(GeoBox((192, 192), transform, crs), 64)
    on_grid = shapely.transform(box(*beside_px), lambda xy: np.array([transform @ p for p in xy]))
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    beside = shapely.transform(on_grid, to_degrees.transform, interleaved=False)
    assert (1, 1) not in grid.tiles_touching(beside)
    assert (1, 1) not in grid.tiles_touching(beside, halo_px=4)
    assert (1, 1) in grid.tiles_touching(beside, halo_px=6)


def test_coordinates_are_pixel_centres() -> None:
    grid = Grid(GeoBox.from_bbox((0, 0, 40, 30), "EPSG:32631", resolution=10), 64)
    assert grid.x.tolist() == [5, 15, 25, 35]
    assert grid.y.tolist() == [25, 15, 5]
    assert Grid.from_json(grid.to_json()).to_json() == grid.to_json()


@given(st.floats(2.5, 3.5), st.floats(45, 51), st.floats(0.001, 0.05), st.floats(0.001, 0.05))
def test_grid_over_an_area_holds_it_on_the_lattice(
    west: float, south: float, width: float, height: float
) -> None:
    area = box(west, south, west + width, south + height)
    grid = grid_over(area, crs="EPSG:32631", resolution=20, tile_px=512, anchor_xy=(10, 10))
    assert (grid.transform.c - 10) % 20 == 0 == (grid.transform.f - 10) % 20
    x0, y0, x1, y1 = grid.project(area).bounds
    left, bottom, right, top = grid.geobox.boundingbox.bbox
    assert left - 1e-3 <= x0 < left + 20
    assert right - 20 < x1 <= right + 1e-3
    assert bottom - 1e-3 <= y0 < bottom + 20
    assert top - 20 < y1 <= top + 1e-3


@given(
    st.floats(2.5, 3.5),
    st.floats(45, 51),
    st.floats(0.001, 0.2),
    st.sampled_from([64, 512]),
    st.integers(1, 3),
)
def test_tiles_on_the_anchor_read_no_internal_tile_twice(
    west: float, south: float, side: float, align_px: int, several: int
) -> None:
    area = box(west, south, west + side, south + side)
    asked = {"crs": "EPSG:32631", "resolution": 10, "anchor_xy": (300_010, 20)}
    asked["tile_px"] = several * align_px
    plain = grid_over(area, **asked)
    grid = grid_over(area, **asked, align_px=align_px)
    if max(plain.shape_yx) <= several * align_px:
        assert grid.to_json() == plain.to_json()
        return
    assert (
        (grid.transform.c - 300_010) % (10 * align_px)
        == 0
        == (grid.transform.f - 20) % (10 * align_px)
    )
    assert grid.geobox.boundingbox.right == plain.geobox.boundingbox.right
    assert grid.geobox.boundingbox.bottom == plain.geobox.boundingbox.bottom
    more_yx = np.subtract(grid.shape_yx, plain.shape_yx)
    assert (more_yx >= 0).all()
    assert (more_yx < align_px).all()
