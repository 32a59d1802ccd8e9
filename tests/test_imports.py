"""What is imported where: each command and each worker pays for its own libraries only."""

import subprocess
import sys

import pytest

# The libraries of plots, tables and catalogues, which neither workers nor a study need.
TABLES = ("geopandas", "matplotlib", "pandas", "pyarrow", "pystac", "pystac_client", "xarray")
RUN = ("dask", "distributed", "icechunk", "numba", "odc", "rasterio", "tifffile", "zarr")


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        pytest.param("alpage", (*TABLES, *RUN, "numpy", "pydantic"), id="package"),
        pytest.param("alpage.cli", (*TABLES, *RUN), id="cli"),
        pytest.param("alpage.study, alpage.product", (*TABLES, *RUN), id="study"),
        pytest.param("alpage.engine.block", (*TABLES, "distributed"), id="worker"),
    ],
)
def test_imports_are_spared(modules: str, spared: tuple[str, ...]) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {name.partition(".")[0] for name in told.stdout.split()}
    assert "alpage" in loaded
    assert not loaded.intersection(spared)
