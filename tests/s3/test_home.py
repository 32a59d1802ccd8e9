"""Archive, cube, scene list and release on S3: as on disk, and open to every reader."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import geopandas
import icechunk
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr

import alpage
from alpage.cube.store import MAIN, CubeStore
from alpage.errors import StorageError, StudyError
from alpage.simulate.valley import Valley, add_late_scene, simulate
from alpage.study import Study

StudyOf = Callable[..., Study]
SameCube = Callable[[str, str], None]


@pytest.mark.parametrize("product", ["snow", "monthly_ndvi"])
def test_all_on_s3_is_as_on_disk(
    product: str, s3: Any, valley: Valley, study_of: StudyOf, same_cube: SameCube, tmp_path: Path
) -> None:
    archive = s3.upload(valley)
    s3.files.pipe_file(f"{s3.name}/zones.geojson", valley.zones.read_bytes())
    cube = f"{s3.url}/cubes/{product}"
    there = study_of(product, cube, archive=archive, zones=f"{s3.url}/zones.geojson")
    here = study_of(product, str(tmp_path / product))
    report = alpage.run(there)
    assert report.n_blocks == alpage.run(here).n_blocks > 0
    assert not report.quarantined
    same_cube(cube, here.cube)

    again = alpage.run(there)
    assert (again.n_blocks, again.requests) == (0, 0)
    assert again.snapshot == report.snapshot
    assert alpage.plan(there).bill.n_blocks == 0
    assert alpage.status(there)["snapshot"] == report.snapshot
    assert [one["snapshot"] for one in alpage.history(cube)] == [report.snapshot]

    released = alpage.release(there)
    assert released.store.startswith(f"{cube}.release/")
    below = {key.split("/")[1] for key in s3.listing() if key.startswith("cubes/")}
    assert below == {product, f"{product}.scenes", f"{product}.release"}
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{product}{end}" for end in ("", ".scenes")),
        f".{product}.lock",
    }
    assert alpage.release(there).id == released.id


def test_zones_that_are_not_there_are_told_by_their_key(s3: Any, study_of: StudyOf) -> None:
    missing = study_of("snow", f"{s3.url}/cube", zones=f"{s3.url}/zones.geojson")
    with pytest.raises(StudyError, match=r"zones: expected a GeoJSON file, there is none at s3://"):
        alpage.plan(missing)
    nowhere = study_of("snow", f"{s3.url}/cube", zones="s3://alpage-nobody-has-this/zones.geojson")
    with pytest.raises(StorageError, match=r"zones: s3://alpage-nobody.* cannot be read"):
        alpage.plan(nowhere)


def test_a_late_scene_costs_its_blocks_alone(
    s3: Any, study_of: StudyOf, same_cube: SameCube, valley: Valley, tmp_path: Path
) -> None:
    own = simulate(tmp_path / "valley", valley.spec)
    study = study_of("monthly_ndvi", f"{s3.url}/cube", archive=s3.upload(own))
    without = alpage.plan(study).inspection.requests
    first = alpage.run(study)
    (late,) = add_late_scene(own)
    s3.upload(own)
    planned = alpage.plan(study)
    report = alpage.run(study)
    assert 0 < report.n_blocks < first.n_blocks
    fresh = study_of("monthly_ndvi", str(tmp_path / "cube"), archive=str(own.collection))
    # Headers and overviews of the late scene alone: the others are known.
    assert planned.inspection.requests == alpage.plan(fresh).inspection.requests - without > 0
    alpage.run(fresh)
    same_cube(study.cube, fresh.cube)

    lists = [key for key in s3.listing() if re.match(r"cube.scenes/.*parquet$", key)]
    found = [pd.read_parquet(s3.files.open(f"{s3.name}/{key}"))["id"] for key in lists]
    assert sorted(late.item_id in set(ids) for ids in found) == [False, True]
    assert alpage.rollback(study.cube) == first.snapshot


def test_every_reader_opens_everything(
    s3: Any, valley: Valley, study_of: StudyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = s3.upload(valley)
    study = study_of("vegetation", f"{s3.url}/cubes/mine", archive=archive)
    alpage.run(study)
    released = alpage.release(study)
    expected = alpage.open_cube(study.cube)["dekad/ndvi"].to_numpy()
    assert np.isfinite(expected).any()
    options = s3.options
    where = icechunk.s3_storage(
        bucket=s3.name,
        prefix="cubes/mine",
        region="us-east-1",
        endpoint_url=options["endpoint_url"],
        allow_http=True,
        force_path_style=True,
        access_key_id=options["key"],
        secret_access_key=options["secret"],
    )
    # From here on only by what readers are told, nothing by the environment.
    for name in s3.environment:
        monkeypatch.delenv(name)

    session = icechunk.Repository.open(where).readonly_session(MAIN)
    by_icechunk = xr.open_zarr(session.store, group="dekad", consolidated=False)
    np.testing.assert_array_equal(by_icechunk["ndvi"], expected)
    by_fsspec = xr.open_zarr(released.store, group="dekad", storage_options=options)
    np.testing.assert_array_equal(by_fsspec["ndvi"], expected)
    maps = xr.open_zarr(released.store, group="maps/dekad/0", storage_options=options)
    np.testing.assert_array_equal(maps["ndvi"], expected)

    with fsspec.open(released.collection, **options) as file:
        collection = json.load(file)
    assert collection["version"] == released.id
    for url, kept in (
        (released.collection, "no-cache"),
        (f"{released.store}/zarr.json", "public, max-age=31536000, immutable"),
    ):
        key = url.removeprefix(f"{s3.url}/")
        told = s3.files.call_s3("head_object", Bucket=s3.name, Key=key)
        assert (told["CacheControl"], told["ContentType"]) == (kept, "application/json")
    series = pd.read_parquet(f"{released.url}/series-day.parquet", storage_options=options)
    assert len(series)
    (scenes,) = (key for key in s3.listing() if re.match(r"cubes/mine.scenes/.*parquet$", key))
    frozen = geopandas.read_parquet(f"{s3.url}/{scenes}", storage_options=options)
    published = geopandas.read_parquet(f"{released.url}/scenes.parquet", storage_options=options)
    assert sorted(frozen["id"]) == sorted(published["id"])
    with fsspec.open(archive, **options) as file:
        assert json.load(file)["type"] == "Collection"
    image = min(valley.archive.rglob("*.tif"))
    key = f"{s3.name}/archive/{image.relative_to(valley.archive)}"
    with s3.files.open(key) as file, rasterio.open(file) as there, rasterio.open(image) as here:
        np.testing.assert_array_equal(there.read(), here.read())


def test_nothing_that_travels_to_workers_holds_keys(s3: Any) -> None:
    store = CubeStore.create(f"{s3.url}/cube")
    session = store.repository.writable_session(MAIN)
    told = pickle.dumps(session.fork()) + repr(store.repository).encode()
    assert s3.name.encode() in told
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert s3.environment[name].encode() not in told
    assert store.repository.config.storage.retries.max_tries == 10
