"""The season that the product tells, of curves whose season is known."""

import numpy as np
import pytest

from alpage.product import Context, Derive, Segment
from alpage.products.vegetation import VegetationParameters, vegetation
from alpage.science.zones import zone_index
from alpage.timeaxis import ONE_DAY, Calendar, covering, start_of


def _season(peak_day: float, year: int) -> dict[str, float]:
    """What the product makes of a year's wave of NDVI, 0.2 to 0.8, by the dekads it is shown."""
    (stage,) = (one for one in vegetation.stages if one.name == "phenology")
    assert isinstance(stage, Derive)
    first = np.datetime64(f"{year}-01-01", "D")
    last = np.datetime64(f"{year}-12-31", "D")
    margin = stage.margin_days * ONE_DAY
    dekads = covering(Calendar.DEKAD, first - margin, last + margin)
    starts, nexts = (
        start_of(Calendar.DEKAD, dekads.slots),
        start_of(Calendar.DEKAD, dekads.slots + 1),
    )
    # A dekad's value is the mean of its days.
    middle = (starts - first + (nexts - starts - ONE_DAY) / 2) / ONE_DAY
    ndvi = 0.5 + 0.3 * np.cos(2 * np.pi * (middle - peak_day) / 365.25)
    inside = np.flatnonzero((starts >= first) & (starts <= last))
    segment = Segment(
        days=starts,
        inner=slice(int(inside[0]), int(inside[-1]) + 1),
        layers={"dekad/ndvi": np.rint(ndvi * 1e4).astype("int16")[:, None, None]},
        tables={},
        dem=None,
        zones=zone_index({}, (1, 1)),
        first_day=first,
        last_day=last,
        context=Context(VegetationParameters(), 100.0),
    )
    return {name: float(layer[0, 0, 0]) for name, layer in stage.function(segment).items()}


@pytest.mark.parametrize("year", [2020, 2021])
@pytest.mark.parametrize("peak_day", range(4, 361, 12))
def test_a_season_is_the_same_whenever_it_peaks(peak_day: int, year: int) -> None:
    """Start and end of a wave follow from its cosine: 25 % before the peak, 15 % after it."""
    found = _season(peak_day, year)
    before, after = (365.25 * np.arccos(2 * part - 1) / (2 * np.pi) for part in (0.25, 0.15))
    assert found["start_of_season"] - 1 == pytest.approx(peak_day - before, abs=1.5)
    assert found["peak_of_season"] - 1 == pytest.approx(peak_day, abs=1)
    assert found["end_of_season"] - 1 == pytest.approx(peak_day + after, abs=1.5)
    assert found["season_amplitude"] == pytest.approx(6000, abs=30)
