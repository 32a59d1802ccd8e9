"""What the product makes of its parameters."""

import pytest

from alpage.product import Context, Observe
from alpage.products.snow import SnowParameters, snow
from alpage.science.snow import coarse_halo


@pytest.mark.parametrize(
    ("pixel_m", "asked", "factor"),
    [
        pytest.param(20, None, 12, id="sentinel-2"),
        pytest.param(30, None, 8, id="landsat"),
        pytest.param(500, None, 1, id="coarser-than-a-cell"),
        pytest.param(30, 12, 12, id="as-asked"),
    ],
)
def test_coarse_cells_are_as_large_as_lis_has_them(
    pixel_m: float, asked: int | None, factor: int
) -> None:
    """12 pixels of 20 m, 8 of 30 m: what Let-It-Snow (build_json.py) has for the two sensors."""
    (observe,) = (stage for stage in snow.stages if isinstance(stage, Observe))
    context = Context(SnowParameters(coarse_factor=asked), pixel_m**2)
    assert observe.halo_px(context) == coarse_halo(factor)
