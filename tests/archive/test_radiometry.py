"""Offsets by catalogue and baseline, and the pixels' verdict on them, on real imagery."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from alpage.archive.radiometry import (
    catalogue_of,
    is_open,
    judge,
    offset_for,
    offset_lies,
    offset_missing,
)
from alpage.archive.sensors import SENSORS

S2 = SENSORS["sentinel-2-l2a"]
LANDSAT = SENSORS["landsat-c2-l2"]


def item(asset: str, /, **properties: Any) -> dict[str, Any]:
    """An item with one red asset, which declares the offset given as ``declared``."""
    declared = properties.pop("declared", None)
    bands = {} if declared is None else {"raster:bands": [{"scale": 1e-4, "offset": declared}]}
    named = {key.replace("__", ":"): value for key, value in properties.items()}
    return {"id": "x", "properties": named, "assets": {asset: {"href": "a.tif", **bands}}}


@pytest.mark.parametrize(
    ("given_item", "catalogue", "offset", "is_warned"),
    [
        # Earth Search v1: the flag decides, whatever raster:bands says.
        (
            item(
                "red",
                earthsearch__boa_offset_applied=True,
                s2__processing_baseline="05.11",
                declared=-0.1,
            ),
            "earth-search",
            0,
            False,
        ),
        (
            item(
                "red",
                earthsearch__boa_offset_applied=False,
                s2__processing_baseline="04.00",
                declared=-0.1,
            ),
            "earth-search",
            -1000,
            False,
        ),
        (
            item(
                "red",
                earthsearch__boa_offset_applied=False,
                s2__processing_baseline="02.14",
                declared=0,
            ),
            "earth-search",
            0,
            False,
        ),
        (
            item("B04", sentinel__boa_offset_applied=True, sentinel__processing_baseline="04.00"),
            "earth-search",
            0,
            False,
        ),
        (
            item(
                "B04",
                sentinel__product_id="S2A_MSIL2A_20220126T115221_N0400_R123_T28QCH_20220126T191310",
            ),
            "earth-search-v0",
            -1000,
            False,
        ),
        # Planetary Computer: by baseline alone, and Collection 1 puts it on old scenes too.
        (
            item("B04", s2__mgrs_tile="13TDE", s2__processing_baseline="05.11"),
            "planetary-computer",
            -1000,
            False,
        ),
        (
            item(
                "B04",
                s2__mgrs_tile="13TDE",
                s2__processing_baseline="05.00",
                datetime="2017-08-04T10:53:28Z",
            ),
            "planetary-computer",
            -1000,
            False,
        ),
        (
            item(
                "B04",
                s2__mgrs_tile="13TDE",
                s2__processing_baseline="03.01",
                datetime="2022-06-01T10:53:28Z",
            ),
            "planetary-computer",
            0,
            False,
        ),
        # Copernicus: the baseline, and a declared offset that disagrees is told.
        (item("B04_10m", processing__version="05.11", declared=-0.1), "cdse", -1000, False),
        (item("B04_10m", processing__version="05.11", declared=0), "cdse", -1000, True),
        # An archive of one's own: what it declares, cross-checked.
        (item("red", s2__processing_baseline="05.10", declared=-0.1), "other", -1000, False),
        (item("red", s2__processing_baseline="05.10", declared=0), "other", 0, True),
        (item("red", s2__processing_baseline="05.10"), "other", -1000, False),
        (item("red", declared=0), "other", 0, False),
        (item("red"), "other", 0, True),
        (item("red", s2__processing_baseline="99.99"), "other", -1000, True),
        (item("red", s2__processing_baseline="latest"), "other", 0, True),
    ],
)
def test_sentinel_rules(
    given_item: dict[str, Any], catalogue: str, offset: float, is_warned: bool
) -> None:
    assert catalogue_of(given_item).key == catalogue
    gain, found, warnings = offset_for(given_item, S2, "red")
    assert (gain, found, bool(warnings)) == (1.0, offset, is_warned)


def test_stac_1_1_bands_count_as_declared() -> None:
    modern = {
        "properties": {"s2:processing_baseline": "05.11"},
        "assets": {
            "red": {"href": "a", "bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}]},
            "nir": {"href": "a", "raster:scale": 2e-4, "raster:offset": 0},
        },
    }
    assert offset_for(modern, S2, "red") == (1.0, -1000.0, ())
    gain, offset, warnings = offset_for(modern, S2, "nir")
    assert (gain, offset, len(warnings)) == (2.0, 0.0, 2)


def test_quality_bands_are_numbers_as_they_are() -> None:
    both = item("scl", s2__processing_baseline="05.11", declared=-0.1)
    assert offset_for(both, S2, "quality") == (1.0, 0.0, ())
    assert offset_for(both, LANDSAT, "quality") == (1.0, 0.0, ())


@pytest.mark.parametrize(
    ("dn", "reflectance"),
    [(7273, 0.000007), (10000, 0.075), (20000, 0.35), (43636, 0.99999)],
)
def test_landsat_vectors(dn: int, reflectance: float) -> None:
    """The vectors of ALGORITHMS.md §0, with and without a declared scale."""
    bare = item("red")
    told = {"assets": {"red": {"href": "a", "raster:bands": [{"scale": 2.75e-5, "offset": -0.2}]}}}
    for landsat in (bare, told):
        gain, offset, warnings = offset_for(landsat, LANDSAT, "red")
        assert (gain, offset, warnings) == (0.275, -2000.0, ())
        assert (dn * gain + offset) / 1e4 == pytest.approx(reflectance, abs=6e-7)


def test_real_catalogues_agree_with_themselves(items: Any) -> None:
    expected = {
        "data/stac-items/rustac/100-sentinel-2-items.parquet": ("planetary-computer", -1000.0),
        "data/stac-items/rustac/item-collection.json": ("other", -1000.0),
        "data/stac-items/odc-stac/site2-2020_jun_jul-35MNM.geojson": ("planetary-computer", 0.0),
        "data/stac-items/odc-stac/S2A_28QCH_20200714_0_L2A.json": ("earth-search-v0", 0.0),
        "data/s2-cog-29RKH/S2A_29RKH_20200219_0_L2A.json": ("earth-search", 0.0),
    }
    for name, (catalogue, offset) in expected.items():
        for real in items(name):
            assert catalogue_of(real).key == catalogue
            for band in ("blue", "red", "nir", "nir08", "swir16"):
                assert offset_for(real, S2, band) == (1.0, offset, ()), (real["id"], band)


@pytest.fixture(scope="module")
def patches(shared: Path) -> list[tuple[Any, Any, Any]]:
    """Red, NIR and SCL of the Flemish patch: 118 real dates of baseline 02.12, no offset."""
    folder = shared / "archive" / "00002806639B424A"
    if not folder.is_dir():
        pytest.skip("needs shared/archive/00002806639B424A")
    found = []
    for scene in sorted(path for path in folder.iterdir() if path.is_dir()):
        bands = []
        for name in ("B04", "B08", "SCL"):
            with rasterio.open(scene / f"{name}.tif") as source:
                bands.append(source.read(1))
        bands[2] = bands[2].repeat(2, axis=0).repeat(2, axis=1)
        found.append(tuple(bands))
    return found


def land_pixels(scl: Any) -> int:
    return int(np.isin(scl, (4, 5)).sum())


def test_real_patches_without_offset_are_believed(patches: list[tuple[Any, Any, Any]]) -> None:
    for red, nir, scl in patches:
        assert judge(red, nir, scl, 0.0).note is None


def test_a_lying_offset_is_caught_on_every_real_patch_that_shows_land(
    patches: list[tuple[Any, Any, Any]],
) -> None:
    """The metadata claim −1000 for pixels that were never shifted."""
    judged = [patch for patch in patches if land_pixels(patch[2]) >= 1000]
    verdicts = [judge(*patch, -1000.0) for patch in judged]
    assert len(judged) > 50
    assert all(v.offset_to_use == 0 and "applied already" in str(v.note) for v in verdicts)


def test_an_honest_offset_is_believed(patches: list[tuple[Any, Any, Any]]) -> None:
    for red, nir, scl in patches:
        shifted = (np.where(band > 0, band + 1000, 0).astype(band.dtype) for band in (red, nir))
        assert judge(*shifted, scl, -1000.0).note is None


def test_a_missing_offset_is_caught_where_there_is_vegetation(
    patches: list[tuple[Any, Any, Any]],
) -> None:
    judged = [patch for patch in patches if (patch[2] == 4).sum() >= 1000]
    assert len(judged) > 40
    for red, nir, scl in judged:
        verdict = judge(red + 1000, nir + 1000, scl, 0.0)
        assert verdict.offset_to_use == -1000
        assert "not applied" in str(verdict.note)


def test_a_desert_is_no_evidence(shared: Path) -> None:
    """29RKH: 96 % bare and bright, nothing that could tell a missing offset."""
    folder = shared / "data" / "s2-cog-29RKH"
    if not folder.is_dir():
        pytest.skip("needs shared/data/s2-cog-29RKH")
    bands = []
    for name in ("B04", "B08", "SCL"):
        with rasterio.open(folder / f"{name}.tif") as source:
            bands.append(source.read(1))
    scl = bands[2].repeat(2, axis=0).repeat(2, axis=1)
    assert np.percentile(bands[0][scl == 5], 1) > 1000
    assert judge(bands[0], bands[1], scl, 0.0).note is None
    # The lie would darken no desert below zero either: it stays unseen there, as it must.
    assert judge(bands[0], bands[1], scl, -1000.0).note is None


def test_five_per_cent_is_the_border() -> None:
    dn = np.full(1000, 1500, dtype=np.uint16)
    dn[:50] = 900
    land = np.ones(1000, dtype=bool)
    assert not offset_lies(dn, dn, land, -1000)
    dn[50] = 900
    assert offset_lies(dn, dn, land, -1000)
    assert not offset_lies(dn[:199], dn[:199], land[:199], -1000)


def test_nodata_is_not_judged() -> None:
    zeros = np.zeros((50, 50), dtype=np.uint16)
    vegetation = np.full((50, 50), 4, dtype=np.uint8)
    assert judge(zeros, zeros, vegetation, -1000).note is None
    assert judge(zeros, zeros, vegetation, 0).note is None


def test_one_dark_pixel_in_fifty_speaks_against_a_missing_offset() -> None:
    red = np.full(5000, 1200, dtype=np.uint16)
    scl = np.full(5000, 4, dtype=np.uint8)
    scl[:100] = 6
    assert offset_missing(red, red * 2, scl)
    dark = red.copy()
    dark[:100] = 200
    assert not offset_missing(red, np.where(scl == 6, dark, red * 2), scl)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        judge(np.zeros((4, 4), int), np.zeros((4, 4), int), np.zeros((2, 2), int), 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4000))
def test_a_constant_shift_never_changes_what_is_believed(seed: int, floor: int) -> None:
    """Honest pixels and honest metadata agree, shifted or not, unless all is brighter than land."""
    rng = np.random.default_rng(seed)
    red = rng.integers(1, 800, 2000).astype(np.uint16)
    nir = (red + rng.integers(0, floor, 2000)).astype(np.uint16)
    scl = np.full(2000, 4, dtype=np.uint8)
    assert judge(red, nir, scl, 0.0).note is None
    assert judge(red + 1000, nir + 1000, scl, -1000.0).note is None


@given(
    seed=st.integers(0, 2**32 - 1),
    floor=st.sampled_from([1, 800, 1100]),
    clear=st.floats(0, 1),
    offset=st.sampled_from([-1000.0, 0.0]),
)
def test_what_is_not_open_is_never_noted(
    seed: int, floor: int, clear: float, offset: float
) -> None:
    """Bands that are left unread could not have changed the verdict."""
    rng = np.random.default_rng(seed)
    red, nir = (rng.integers(floor, floor + 600, 2000).astype(np.uint16) for _ in range(2))
    scl = np.where(rng.random(2000) < clear, rng.choice([2, 4, 4, 4, 5, 6], 2000), 9)
    noted = judge(red, nir, scl, offset).note is not None
    assert not noted or (is_open(scl, offset) and is_open(scl, offset, red))


def test_verdicts_on_real_patches_need_what_is_open(patches: list[tuple[Any, Any, Any]]) -> None:
    """An honest scene is done with by classes and red; one whose offset is missing is not."""
    assert not any(is_open(scl, 0.0, red) for red, _, scl in patches)
    judged = [patch for patch in patches if (patch[2] == 4).sum() >= 1000]
    assert all(is_open(scl, 0.0, red + 1000) for red, _, scl in judged)
