"""Season synthesis against the vector of V3 and a plain reading of its rules, day by day."""

import datetime
import itertools
import json

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.enums import Resampling

from alpage.science.masks import scl_table
from alpage.science.snow import LisParameters, classify_snow, coarse_red, snow_flags
from alpage.science.snow_season import SEASON_FILL, drop_isolated_snow, season_synthesis

CODES = st.sampled_from([0, 100, 205, 254, 254, 254, 254])


def axis(length, observations):
    codes = np.full((length, 1, 1), 254, np.uint8)
    for day, code in observations.items():
        codes[day] = code
    return codes


def synthesis(codes, *, first, last):
    """Of codes of every day."""
    return season_synthesis(codes, np.arange(len(codes)), first=first, last=last)


def told(season):
    layers = (season.scd, season.sod, season.smod, season.nsp, season.nobs)
    return [int(layer[0, 0]) for layer in layers]


def by_the_rules(codes, first, last):
    """The rules with numpy's interpolation and itertools' runs; [scd, sod, smod, nsp, nobs]."""
    clear = np.flatnonzero(codes <= 100)
    nobs = int(((clear >= first) & (clear <= last)).sum())
    if nobs == 0:
        return [SEASON_FILL] * 4 + [0]
    percent = np.interp(np.arange(codes.size), clear, 100.0 * (codes[clear] > 0))
    # Gaps are short here, so nothing but exact halves comes within 1e-6 of 50.
    snow = (percent >= 50 - 1e-6)[first : last + 1]
    scd = int(snow.sum())
    nsp = int((np.diff(snow.astype(int)) > 0).sum())
    if scd <= 10:
        return [scd, SEASON_FILL, SEASON_FILL, nsp, nobs]
    runs = itertools.groupby(range(snow.size), key=lambda day: snow[day])
    longest = max((list(days) for is_snow, days in runs if is_snow), key=len)
    return [scd, longest[0], longest[-1], nsp, nobs]


def test_vector(shared):
    vector = json.loads((shared / "science/vectors3.json").read_text())["snow_season"]
    observed = {d: 100 * s for d, s in zip(vector["days"], vector["obs"], strict=True)}
    season = synthesis(axis(120, observed), first=0, last=119)
    sod, smod = vector["SOD_SMOD"]
    assert told(season) == [vector["SCD"], sod, smod, vector["NSP"], len(observed)]
    assert told(season) == [68, 75, 109, 2, 8]


def test_vector_with_margins_has_its_days_counted_from_the_season():
    days = {0: 0, 10: 0, 20: 100, 35: 100, 60: 0, 90: 100, 100: 100, 119: 0}
    # Snow on 15-47 and 75-109; the season 20-99 keeps 20-47 and 75-99, its first run wins.
    season = synthesis(axis(120, days), first=20, last=99)
    assert told(season) == [28 + 25, 0, 27, 1, 4]


@pytest.mark.parametrize(
    ("observations", "expected"),
    [
        pytest.param({}, [SEASON_FILL] * 4 + [0], id="never-observed"),
        pytest.param({2: 100}, [SEASON_FILL] * 4 + [0], id="only-in-the-margin"),
        pytest.param({20: 0}, [0, SEASON_FILL, SEASON_FILL, 0, 1], id="bare"),
        pytest.param({20: 100}, [30, 0, 29, 0, 1], id="held-on-both-sides"),
        pytest.param({20: 1}, [30, 0, 29, 0, 1], id="a-fraction-is-snow"),
        pytest.param({20: 205, 21: 254, 22: 255}, [SEASON_FILL] * 4 + [0], id="gaps-only"),
        pytest.param({19: 0, 20: 100, 29: 100, 30: 0},
                     [10, SEASON_FILL, SEASON_FILL, 1, 4], id="ten-days"),
        pytest.param({19: 0, 20: 100, 30: 100, 31: 0}, [11, 10, 20, 1, 4], id="eleven-days"),
        pytest.param({9: 0, 10: 100, 16: 100, 17: 0, 22: 0, 23: 100, 29: 100, 30: 0},
                     [14, 0, 6, 1, 7], id="first-of-equal-runs"),
    ],
)  # fmt: skip
def test_by_hand(observations, expected):
    assert told(synthesis(axis(50, observations), first=10, last=39)) == expected


@settings(max_examples=200, deadline=None)
@given(
    codes=hnp.arrays(np.uint8, 60, elements=CODES),
    bounds=st.tuples(st.integers(0, 59), st.integers(0, 59)).map(sorted),
)
def test_synthesis_is_what_its_rules_say(codes, bounds):
    first, last = bounds
    season = synthesis(codes[:, None, None], first=first, last=last)
    assert told(season) == by_the_rules(codes, first, last)


@given(
    codes=hnp.arrays(np.uint8, 60, elements=CODES),
    bounds=st.tuples(st.integers(0, 59), st.integers(0, 59)).map(sorted),
    origin=st.integers(-90, 90),
)
def test_only_dates_that_were_acquired_are_needed_wherever_days_are_counted_from(
    codes, bounds, origin
):
    first, last = bounds
    (days,) = np.nonzero(codes != 254)
    given = codes[days, None, None]
    season = season_synthesis(given, days + origin, first=first + origin, last=last + origin)
    assert told(season) == by_the_rules(codes, first, last)
    kept = np.full_like(codes, 254)
    kept[days] = drop_isolated_snow(given, days + origin).ravel()
    every_day = drop_isolated_snow(codes[:, None, None], np.arange(60)).ravel()
    np.testing.assert_array_equal(kept, every_day)


def test_pixels_do_not_mix():
    codes = np.random.default_rng(5).choice(np.array([0, 100, 254, 254], np.uint8), (80, 3, 4))
    season = synthesis(codes, first=15, last=64)
    for y, x in np.ndindex(3, 4):
        expected = by_the_rules(codes[:, y, x], 15, 64)
        for layer, value in zip(
            (season.scd, season.sod, season.smod, season.nsp, season.nobs), expected, strict=True
        ):
            assert layer.dtype == np.uint16
            assert layer[y, x] == value


def test_what_is_no_season_is_refused():
    with pytest.raises(ValueError, match="first <= last and a season, got 7 and 6"):
        synthesis(axis(10, {}), first=7, last=6)
    for days in (np.arange(9), np.zeros(10, int)):
        with pytest.raises(ValueError, match="one ascending day for each of 10 dates"):
            season_synthesis(axis(10, {}), days, first=0, last=9)


@pytest.mark.parametrize(
    ("observations", "dropped"),
    [
        pytest.param({10: 0, 20: 100, 30: 0}, [20], id="contradicted-on-both-sides"),
        pytest.param({10: 0, 20: 100}, [], id="nothing-after"),
        pytest.param({20: 100, 30: 0}, [], id="nothing-before"),
        pytest.param({10: 0, 20: 100, 50: 100, 60: 0}, [], id="next-clear-day-agrees"),
        pytest.param({10: 0, 20: 100, 25: 0, 35: 100, 40: 0}, [], id="confirmed-after-15-days"),
        pytest.param({10: 0, 20: 100, 25: 0, 36: 100, 40: 0}, [20, 36], id="16-days-apart"),
        pytest.param({10: 0, 20: 100, 21: 205, 22: 254, 30: 0}, [20], id="clouds-say-nothing"),
        pytest.param({0: 100, 30: 100, 60: 100}, [], id="cloudy-winter"),
        pytest.param({0: 0, 20: 100, 30: 100, 40: 0, 60: 100, 70: 0}, [60], id="after-winter"),
    ],
)
def test_isolated_snow(observations, dropped):
    codes = axis(90, observations)
    kept = drop_isolated_snow(codes, np.arange(90))
    assert np.flatnonzero(kept != codes).tolist() == dropped
    assert (kept[dropped] == 205).all()


@settings(max_examples=150, deadline=None)
@given(codes=hnp.arrays(np.uint8, 40, elements=CODES), days=st.integers(0, 20))
def test_isolated_snow_is_what_its_rules_say(codes, days):
    clear = np.flatnonzero(codes <= 100)
    snow = np.flatnonzero((codes > 0) & (codes <= 100))
    expected = codes.copy()
    for day in snow:
        before, after = clear[clear < day], clear[clear > day]
        contradicted = (
            before.size and after.size and codes[before[-1]] == 0 and codes[after[0]] == 0
        )
        confirmed = ((np.abs(snow - day) <= days) & (snow != day)).any()
        if contradicted and not confirmed:
            expected[day] = 205
    once = drop_isolated_snow(codes[:, None, None], np.arange(40), confirmation_days=days)
    np.testing.assert_array_equal(once.ravel(), expected)
    twice = drop_isolated_snow(once, np.arange(40), confirmation_days=days)
    np.testing.assert_array_equal(twice, once)


def test_a_lowland_in_flanders_has_no_snow_season(shared):
    """One ice cloud called snow by sen2cor and by Let-It-Snow, between bare days."""
    archive = shared / "archive/00002806639B424A"
    folders = sorted(p for p in archive.iterdir() if p.is_dir())
    days = [datetime.datetime.strptime(f.name[-15:-7], "%Y%m%d").toordinal() for f in folders]

    def read(name, resampling):
        images = []
        for folder in folders:
            with rasterio.open(folder / name) as source:
                images.append(source.read(1, out_shape=(32, 32), resampling=resampling))
        return np.stack(images)

    green, red, swir = (read(f"B{b}.tif", Resampling.cubic) for b in ("03", "04", "11"))
    quality = scl_table()[read("SCL.tif", Resampling.nearest)]
    n = len(folders)
    flags = snow_flags(
        green,
        red,
        swir,
        quality,
        gains=np.ones((3, n)),
        offsets=np.zeros((3, n)),
        coarse=coarse_red(red, np.ones(n), np.zeros(n), factor=12, origin_yx=(0, 0)),
        parameters=LisParameters(),
    )
    observed = classify_snow(flags, np.zeros((32, 32), np.float32), np.full(n, -1.0))
    cloud, before, after = (
        days.index(datetime.date(2018, 9, 23).toordinal() + off) for off in (0, -2, 3)
    )
    assert (observed[cloud] == 100).sum() > 1000
    assert (observed[[before, after]] == 0).mean() > 0.99

    dates, whole = np.array(days), {"first": days[0], "last": days[-1]}
    plain = season_synthesis(observed, dates, **whole)
    careful = season_synthesis(drop_isolated_snow(observed, dates), dates, **whole)
    assert (plain.scd > 0).mean() > 0.98
    # One pixel stays: no clear date before its snow in August 2017 contradicts it.
    assert (careful.scd > 0).sum() == 1
