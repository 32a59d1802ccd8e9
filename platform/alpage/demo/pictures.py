"""Maps and series of a valley's cubes, beside the truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alpage.cube.reader import Cube
from alpage.simulate.valley import Valley

FOUND = "#1b6ca8"
TRUE = "#c8553d"


def draw_maps(cubes: Mapping[str, Cube], folder: Path) -> list[Path]:
    """Write a map of each product; returns the files."""
    wanted = (
        ("vegetation", "dekad/ndvi", "NDVI, dekad of {date}", "YlGn", (0.0, 0.9)),
        ("snow", "season/scd", "days with snow, season from {date}", "Blues", (0.0, 365.0)),
        ("lakes", "year/water_occurrence", "water occurrence in {date}, percent", "GnBu", (0, 100)),
    )
    paths = []
    for product, layer, title, colours, (low, high) in wanted:
        array = _fullest(cubes[product][layer])
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.add_subplot()
        x, y = array["x"].to_numpy() / 1000, array["y"].to_numpy() / 1000
        image = axes.imshow(
            array.to_numpy(),
            extent=(x.min(), x.max(), y.min(), y.max()),
            cmap=colours,
            vmin=low,
            vmax=high,
        )
        figure.colorbar(image, ax=axes, shrink=0.85)
        axes.set_title(title.format(date=str(array["time"].to_numpy())[:10]))
        axes.set_xlabel("x, km")
        axes.set_ylabel("y, km")
        axes.set_facecolor("#dddddd")
        paths.append(_save(figure, folder / f"{product}.map.png"))
    return paths


def _fullest(array: Any) -> Any:
    """The slot with most filled pixels, of those the one with the highest mean."""
    filled = np.isfinite(array).sum(["y", "x"]).to_numpy()
    mean = np.nan_to_num(array.mean(["y", "x"]).to_numpy(), nan=-np.inf)
    best = np.lexsort((mean, filled))[-1]
    return array.isel(time=int(best))


def draw_series(cubes: Mapping[str, Cube], valley: Valley, folder: Path) -> list[Path]:
    """Write the series of each product beside the truth; returns the files."""
    lake = cubes["lakes"].zones("day").sel(zone="lake")
    snow = cubes["snow"].zones("day").sel(zone="valley")
    dekads = cubes["vegetation"].zones("dekad")
    names = dict(zip(dekads["zone"].values, dekads["zone_name"].values, strict=True))
    ndvi_truth = pd.read_csv(valley.truth / "ndvi.csv", parse_dates=["date"])
    paths = []

    figure, axes = _figure("lake area, ha")
    area = lake["water_area"].to_series().dropna() / 1e4
    error = lake["water_area_uncertainty"].to_series().reindex(area.index) / 1e4
    truth = _truth(valley, "lake_area.csv")["area_m2"] / 1e4
    axes.plot(truth.index, truth, color=TRUE, label="truth")
    axes.errorbar(area.index, area, yerr=error, fmt=".", color=FOUND, label="computed")
    paths.append(_finish(figure, axes, folder / "lakes.series.png"))

    figure, axes = _figure("snow-covered fraction of the valley")
    fraction = snow["snow_cover_fraction"].to_series()
    fraction = fraction[snow["invalid_fraction"].to_series() < 0.3].dropna()
    truth = _truth(valley, "snow_cover_fraction.csv")["snow_fraction"]
    axes.plot(truth.index, truth, color=TRUE, label="truth")
    axes.plot(fraction.index, fraction, ".", color=FOUND, label="computed, clear days")
    paths.append(_finish(figure, axes, folder / "snow.series.png"))

    figure, axes = _figure("NDVI of three fields")
    for zone, style in zip(_one_of_each(names), ("-", "--", ":"), strict=False):
        true = ndvi_truth[ndvi_truth["zone"] == zone].set_index("date")["ndvi"]
        series = dekads["ndvi_mean"].sel(zone=zone).to_series().dropna()
        axes.plot(true.index, true, style, color=TRUE, label=f"truth, {names[zone]}")
        axes.plot(series.index, series, style, color=FOUND, label=f"computed, {names[zone]}")
    paths.append(_finish(figure, axes, folder / "vegetation.series.png"))
    return paths


def _one_of_each(names: Mapping[str, str]) -> list[str]:
    first: dict[str, str] = {}
    for zone, name in names.items():
        if str(zone).startswith("field"):
            first.setdefault(str(name).split()[0], zone)
    return list(first.values())


def _truth(valley: Valley, name: str) -> pd.DataFrame:
    return pd.read_csv(valley.truth / name, parse_dates=["date"], index_col="date")


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def _finish(figure: Figure, axes: Any, path: Path) -> Path:
    axes.legend(fontsize="small")
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
