"""The quality gate: what a cube's own statistics must say before readers see it.

The checks are declared by the layers of the product and need no pixels: every
finished block left its statistics in the ledger.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from alpage.cube.axes import axes_from_json
from alpage.cube.layout import STATISTICS, Layout, step_layers
from alpage.cube.ledger import read_statistics
from alpage.errors import GateFailed
from alpage.product import Layer

PIXELS, FILLED, MINIMUM, MAXIMUM, SUM = range(len(STATISTICS))
Verdict = Literal["pass", "fail", "not checked"]


@dataclass(frozen=True)
class BlockStatistics:
    """Statistics of one layer's blocks, and the number of the first block."""

    values: NDArray[np.int64]
    """(blocks, tile rows, tile columns, STATISTICS), of stored values; 0 where not computed."""
    first_block: int = 0


@dataclass(frozen=True)
class Check:
    """One check of one layer."""

    check: str
    layer: str
    value: float | list[int] | None
    """What was found: [minimum, maximum] stored, a fraction, or a mean's change in units."""
    limit: float | list[int]
    verdict: Verdict
    message: str = ""
    """For a check that failed or was not made: why."""


@dataclass(frozen=True)
class GateReport:
    """Every check that was made."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

    def require(self) -> None:
        """Raise GateFailed where a check failed, with the message of each."""
        failures = [check.message for check in self.checks if check.verdict == "fail"]
        if failures:
            raise GateFailed(f"gate: {'; '.join(failures)}. Readers keep the cube they have")

    def to_json(self) -> list[dict[str, Any]]:
        """Return the checks as plain values."""
        return [asdict(check) for check in self.checks]


def judge(
    layers: Iterable[Layer],
    statistics: Mapping[str, BlockStatistics],
    previous: Mapping[str, BlockStatistics] | None = None,
) -> GateReport:
    """Return the verdict of every check that the layers declare; never raises for a bad cube.

    Parameters
    ----------
    layers
        The product's layers with their limits.
    statistics
        Of each layer's blocks, by path.
    previous
        The same of the cube that readers have now; without it drift is not checked.

    >>> from alpage.timeaxis import Calendar
    >>> layer = Layer("ndvi", Calendar.DAY, "int16", -32768, valid_range=(-10000, 10000))
    >>> block = BlockStatistics(np.array([[[[100, 50, -200, 10001, 9000]]]]))
    >>> print(judge([layer], {"day/ndvi": block}).checks[0].message)
    valid_range: day/ndvi, tile 0,0, block 0 holds 10001, expected -10000 to 10000
    """
    checks = []
    for layer in layers:
        checks += list(
            _judge_layer(layer, statistics[layer.path], (previous or {}).get(layer.path))
        )
    return GateReport(tuple(checks))


def check(
    layers: Iterable[Layer],
    statistics: Mapping[str, BlockStatistics],
    previous: Mapping[str, BlockStatistics] | None = None,
) -> GateReport:
    """Return the report of `judge`. Raises GateFailed where a check failed."""
    report = judge(layers, statistics, previous)
    report.require()
    return report


def check_cube(root: zarr.Group, layout: Layout, previous: zarr.Group | None = None) -> GateReport:
    """Return the report on a cube from its ledger.

    Parameters
    ----------
    root
        The cube to publish.
    layout
        Its layout.
    previous
        The cube that readers have now, if any: of the same grid, on its own time axes.

    Raises
    ------
    GateFailed
        Names each check that failed, with layer, tile, block and values.
    """
    before = _statistics(previous, layout) if previous is not None else None
    return check(layout.product.layers, _statistics(root, layout), before)


def _statistics(root: zarr.Group, layout: Layout) -> dict[str, BlockStatistics]:
    """Statistics of every layer that the cube has, numbered by the cube's own axes."""
    axes = axes_from_json(root.attrs["alpage"]["axes"])
    found = {}
    for step, calendar in layout.steps.items():
        if step_layers(layout.product, step) and f"ledger/{step}/statistics" in root:
            first = axes[calendar].first_block
            for path, values in read_statistics(root, layout, step).items():
                found[path] = BlockStatistics(values, first)
    return found


def _judge_layer(
    layer: Layer, now: BlockStatistics, before: BlockStatistics | None
) -> Iterator[Check]:
    if layer.valid_range is not None:
        yield _judge_range(layer, layer.valid_range, now)
    if layer.minimum_coverage > 0:
        yield _judge_coverage(layer, now)
    if layer.maximum_drift is not None:
        yield _judge_drift(layer, layer.maximum_drift, now, before)


def _judge_range(layer: Layer, limits: tuple[int, int], now: BlockStatistics) -> Check:
    name, low, high, values = "valid_range", limits[0], limits[1], now.values
    filled = values[..., FILLED] > 0
    if not filled.any():
        return Check(name, layer.path, None, [low, high], "not checked", "no pixel is filled")
    smallest = np.where(filled, values[..., MINIMUM], low)
    largest = np.where(filled, values[..., MAXIMUM], high)
    excess = np.maximum(low - smallest, largest - high)
    found = [int(values[filled][:, MINIMUM].min()), int(values[filled][:, MAXIMUM].max())]
    if excess.max() <= 0:
        return Check(name, layer.path, found, [low, high], "pass")
    block, row, column = np.unravel_index(int(excess.argmax()), excess.shape)
    value = min(smallest[block, row, column], low)
    if low - value < excess.max():
        value = largest[block, row, column]
    others = int((excess > 0).sum()) - 1
    message = (
        f"{name}: {layer.path}, tile {row},{column}, block {now.first_block + block} holds "
        f"{_told(layer, int(value))}, expected {low} to {high}"
    )
    if others:
        message += f" (and {others} more block{'s' if others > 1 else ''} beyond it)"
    return Check(name, layer.path, found, [low, high], "fail", message)


def _told(layer: Layer, value: int) -> str:
    return str(value) if layer.scale == 1.0 else f"{value} ({value * layer.scale:g} {layer.units})"


def _judge_coverage(layer: Layer, now: BlockStatistics) -> Check:
    name, limit = "minimum_coverage", layer.minimum_coverage
    pixels, filled = now.values[..., PIXELS], now.values[..., FILLED]
    if not pixels.any():
        message = f"{name}: {layer.path} has no block computed, expected {limit:.4g} of it filled"
        return Check(name, layer.path, None, limit, "fail", message)
    fraction = float(filled.sum() / pixels.sum())
    if fraction >= limit:
        return Check(name, layer.path, fraction, limit, "pass")
    each = np.where(pixels > 0, filled / np.maximum(pixels, 1), np.inf)
    block, row, column = np.unravel_index(int(each.argmin()), each.shape)
    message = (
        f"{name}: {layer.path} is filled to {fraction:.4g} ({filled.sum()} of {pixels.sum()} "
        f"pixels), expected at least {limit:.4g}; least in tile {row},{column}, "
        f"block {now.first_block + block}: {each.min():.4g}"
    )
    return Check(name, layer.path, fraction, limit, "fail", message)


def _judge_drift(
    layer: Layer, limit: float, now: BlockStatistics, before: BlockStatistics | None
) -> Check:
    name = "maximum_drift"
    if before is None:
        return Check(name, layer.path, None, limit, "not checked", "there is no cube before this")
    first, ours, theirs = _common(now, before)
    both = (ours[..., FILLED] > 0) & (theirs[..., FILLED] > 0)
    if not both.any():
        return Check(name, layer.path, None, limit, "not checked", "no block is filled in both")
    means = [_mean(layer, values[both]) for values in (ours, theirs)]
    drift = means[0] - means[1]
    if abs(drift) <= limit:
        return Check(name, layer.path, drift, limit, "pass")
    change = np.zeros(both.shape)
    for sign, values in ((1, ours), (-1, theirs)):
        change[both] += sign * values[both][:, SUM] / values[both][:, FILLED] * layer.scale
    block, row, column = np.unravel_index(int(np.abs(change).argmax()), change.shape)
    message = (
        f"{name}: the mean of {layer.path} over {both.sum()} blocks went from {means[1]:.6g} to "
        f"{means[0]:.6g} {layer.units}, expected a change of at most {limit:g}; most in tile "
        f"{row},{column}, block {first + block}: {change[block, row, column]:+.6g}"
    )
    return Check(name, layer.path, drift, limit, "fail", message)


def _mean(layer: Layer, values: NDArray[np.int64]) -> float:
    return float(values[:, SUM].sum() / values[:, FILLED].sum() * layer.scale)


def _common(
    now: BlockStatistics, before: BlockStatistics
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """The blocks that both axes hold: number of the first, and the statistics of each."""
    first = max(now.first_block, before.first_block)
    ends = (one.first_block + len(one.values) for one in (now, before))
    stop = max(min(ends), first)
    ours, theirs = (
        one.values[first - one.first_block : stop - one.first_block] for one in (now, before)
    )
    return first, ours, theirs
