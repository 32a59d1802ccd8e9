"""A valley's cubes against its truth: rows of error, in the quantity's own units."""

from typing import Any

import numpy as np
import pandas as pd
import rasterio
import xarray as xr

from alpage.cube.reader import Cube
from alpage.simulate.valley import Valley

# Dates of which less is known say more about clouds than about the product.
SEEN = 0.7


def compare_vegetation(cube: Cube, valley: Valley) -> list[dict[str, Any]]:
    """Return errors of NDVI and phenology, per kind of vegetation."""
    truth = pd.read_csv(valley.truth / "ndvi.csv", parse_dates=["date"])
    by_zone = cube.zones("dekad")["ndvi_mean"]
    rows = []
    for kind, zones in _vegetated_zones(cube).items():
        errors = []
        for zone in zones:
            series = by_zone.sel(zone=zone).dropna("time").to_series()
            daily = truth[truth["zone"] == zone].set_index("date")["ndvi"]
            true = daily.rolling(10).mean().shift(-9).reindex(series.index)
            errors.append((series - true).dropna().to_numpy())
        rows.append(_row("vegetation", f"NDVI by dekad, {kind}", np.concatenate(errors), ""))
    return rows + _compare_phenology(cube, valley)


def _compare_phenology(cube: Cube, valley: Valley) -> list[dict[str, Any]]:
    truth = pd.read_csv(valley.truth / "phenology.csv")
    cover, where = _land_cover(cube, valley)
    years = cube["year"]
    rows = []
    for metric, layer in (
        ("start", "start_of_season"),
        ("peak", "peak_of_season"),
        ("end", "end_of_season"),
    ):
        for kind, zones in _vegetated_zones(cube).items():
            if kind not in cover:
                continue
            errors = []
            true = truth[truth["zone"].isin(zones) & truth[metric].notna()]
            for year, expected in true.groupby("year")[metric].mean().items():
                if str(year) not in {str(t)[:4] for t in years["time"].to_numpy()}:
                    continue
                found = years[layer].sel(time=f"{year}-01-01").to_numpy()[where == cover[kind]]
                errors.append(found[np.isfinite(found)] - float(expected))
            if errors and np.concatenate(errors).size:
                rows.append(_row("vegetation", f"{metric}, {kind}", np.concatenate(errors), "d"))
    return rows


def _vegetated_zones(cube: Cube) -> dict[str, list[str]]:
    """Zones by the first word of their name, fields only: each kind has one true season."""
    kinds: dict[str, list[str]] = {}
    zones = cube.zones("dekad")
    for zone, name in zip(zones["zone"].values, zones["zone_name"].values, strict=True):
        kind = str(name).split()[0].lower()
        if kind in ("maize", "wheat", "grassland"):
            kinds.setdefault(kind, []).append(str(zone))
    return kinds


def _land_cover(cube: Cube, valley: Valley) -> tuple[dict[str, int], np.ndarray]:
    from alpage.simulate.seasons import LAND_COVER

    with rasterio.open(valley.truth / "landcover.tif") as image:
        cover = image.read(1)
        columns, rows = ~image.transform @ np.meshgrid(
            cube["year"]["x"].to_numpy(), cube["year"]["y"].to_numpy()
        )
    rows, columns = np.floor(rows).astype(int), np.floor(columns).astype(int)
    inside = (rows >= 0) & (rows < cover.shape[0]) & (columns >= 0) & (columns < cover.shape[1])
    on_grid = np.full(rows.shape, 255, dtype=np.uint8)
    on_grid[inside] = cover[rows[inside], columns[inside]]
    return {name: int(code) for name, code in LAND_COVER.items()}, on_grid


def compare_snow(cube: Cube, valley: Valley) -> list[dict[str, Any]]:
    """Return errors of the snow-covered fraction, the snow line and the days with snow."""
    series = cube.zones("day").sel(zone="valley")
    seen = series["invalid_fraction"].to_series() < 1 - SEEN
    fraction = series["snow_cover_fraction"].to_series()[seen].dropna()
    truth = pd.read_csv(
        valley.truth / "snow_cover_fraction.csv", parse_dates=["date"], index_col="date"
    )["snow_fraction"]
    rows = [
        _row(
            "snow",
            "snow-covered fraction",
            (fraction - truth.reindex(fraction.index)).to_numpy(),
            "",
        )
    ]
    line = series["snow_line"].to_series()[seen].dropna()
    true_line = pd.read_csv(valley.truth / "snow_line.csv", parse_dates=["date"], index_col="date")[
        "elevation_m"
    ]
    rows.append(_row("snow", "snow line", (line - true_line.reindex(line.index)).to_numpy(), "m"))
    for path in sorted(valley.truth.glob("scd_*.tif")):
        season = path.stem.removeprefix("scd_").split("-")[0]
        found = cube["season"]["scd"].sel(time=f"{season}-09-01")
        with rasterio.open(path) as image:
            true = xr.DataArray(
                image.read(1).astype(float),
                dims=("y", "x"),
                coords={
                    "y": image.transform.f + (np.arange(image.height) + 0.5) * image.transform.e,
                    "x": image.transform.c + (np.arange(image.width) + 0.5) * image.transform.a,
                },
            )
        nearest = true.reindex(x=found["x"], y=found["y"], method="nearest", tolerance=10.1)
        difference = (found - nearest).to_numpy()
        rows.append(
            _row(
                "snow", f"days with snow, {path.stem[4:]}", difference[np.isfinite(difference)], "d"
            )
        )
    return rows


def compare_lakes(cube: Cube, valley: Valley) -> list[dict[str, Any]]:
    """Return errors of the lake's area, and how many standard uncertainties they are."""
    series = cube.zones("day").sel(zone="lake")
    area = series["water_area"].to_series().dropna()
    truth = pd.read_csv(valley.truth / "lake_area.csv", parse_dates=["date"], index_col="date")
    error = (area - truth["area_m2"].reindex(area.index)).to_numpy()
    sigma = series["water_area_uncertainty"].to_series().reindex(area.index).to_numpy()
    relative = 100 * error / truth["area_m2"].reindex(area.index).to_numpy()
    return [
        _row("lakes", "area", relative, "%"),
        _row("lakes", "area, in its own uncertainty", error / sigma, "σ"),
    ]


def _row(product: str, quantity: str, errors: np.ndarray, unit: str) -> dict[str, Any]:
    return {
        "product": product,
        "quantity": quantity,
        "n": int(errors.size),
        "bias": round(float(errors.mean()), 3) if errors.size else None,
        "rmse": round(float(np.sqrt((errors**2).mean())), 3) if errors.size else None,
        "unit": unit,
    }
