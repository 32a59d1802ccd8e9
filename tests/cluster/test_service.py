"""Releases served by the chart: read over HTTP by xarray, and by nobody changed."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import xarray as xr

pytestmark = pytest.mark.cluster


def test_the_release_of_a_run_is_served(
    installed: Any, plain: Any, local: Callable[[str], dict[str, xr.Dataset]]
) -> None:
    assert plain.state["type"] == "COMPLETED", plain.state["message"]
    told = ("service.enabled=true", "service.releases=s3://cubes/plain.release")
    installed.helm("upgrade", *(word for value in told for word in ("--set", value)))
    with installed.forward(f"{installed.name}-service", 80) as address:
        url = f"http://{address}"
        release = httpx.get(f"{url}/collection.json").raise_for_status().json()["version"]
        for group, expected in local("vegetation").items():
            found = xr.open_zarr(f"{url}/{release}/cube.zarr", group=group)
            assert set(found.variables) == set(expected.variables)
            for name, variable in expected.variables.items():
                np.testing.assert_array_equal(found[name].to_numpy(), variable.to_numpy())
        assert httpx.put(f"{url}/collection.json", content=b"{}").status_code == 405
        # Its own prefix and nothing beside it.
        assert httpx.get(f"{url}/../plain/repo").status_code == 404
    installed.helm("upgrade")
