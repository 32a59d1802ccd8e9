"""A picture of one layer: the latest slot that holds anything."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from alpage.releases.contents import Contents, Group, Variable
from alpage.releases.geozarr import bounds
from alpage.timeaxis import Calendar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_SIDE_PX = 1000
SEQUENTIAL = "viridis"
# Up to 10 codes are told apart by tab10, more by tab20.
QUALITATIVE = ("tab10", "tab20")
# Outliers would flatten the picture: colours run over the middle 96 % of the pixels.
STRETCH_PERCENT = (2.0, 98.0)
# The page shines through: a grey that reads on white and on black.
INK = "#7a7a7a"


@dataclass(frozen=True)
class Picture:
    """One slot of a layer, thinned to the size of a picture, as stored."""

    group: Group
    variable: Variable
    slot: int
    pixels: NDArray[Any]
    empty: NDArray[np.bool_]


def draw_preview(root: zarr.Group, contents: Contents, path: str, title: str) -> bytes | None:
    """Return a PNG of a layer's latest slot with data; None where there is none.

    Axes carry the grid's coordinates, colours a bar with units or a legend of flags. Empty
    pixels are transparent. Large grids are thinned: pixels are left out, not averaged.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = _latest(root, contents, path)
    if picture is None:
        return None
    height, width = picture.pixels.shape
    figure = Figure(figsize=(8, min(max(6.2 * height / width + 1.2, 3), 12)), layout="compressed")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left, bottom, right, top = (edge / 1000 for edge in bounds(contents.grid))
    extent = (left, right, bottom, top)
    if "flag_values" in picture.variable.attributes:
        _draw_flags(figure, axes, picture, extent)
    else:
        _draw_values(figure, axes, picture, extent)
    date = picture.group.span.dates[picture.slot]
    calendar = picture.group.calendar
    when = str(date) if calendar is Calendar.DAY else f"{calendar.value} from {date}"
    name = picture.variable.attributes.get("long_name") or picture.variable.name
    axes.set_title(f"{title}\n{name}, {when}", fontsize=11, color=INK)
    axes.set_xlabel(f"x (km), {contents.grid.crs}", color=INK)
    axes.set_ylabel("y (km)", color=INK)
    axes.tick_params(colors=INK)
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.locator_params(nbins=5)
    buffer = io.BytesIO()
    axes.set_facecolor("none")
    canvas.print_figure(buffer, format="png", dpi=110, facecolor="none")
    return buffer.getvalue()


def _draw_values(figure: "Figure", axes: Any, picture: Picture, extent: Any) -> None:
    attributes = picture.variable.attributes
    values = picture.pixels * float(attributes.get("scale_factor", 1.0))
    shown = np.ma.masked_array(values, picture.empty)
    low, high = np.percentile(shown.compressed(), STRETCH_PERCENT)
    if low == high:
        low, high = low - 0.5, high + 0.5
    image = axes.imshow(
        shown, extent=extent, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest"
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.85, extend="both")
    unit = attributes.get("units", "1")
    name = attributes.get("long_name") or picture.variable.name
    bar.set_label(name if unit == "1" else f"{name} ({unit})", color=INK)
    bar.ax.tick_params(colors=INK)


def _draw_flags(figure: "Figure", axes: Any, picture: Picture, extent: Any) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    attributes = picture.variable.attributes
    meanings = attributes["flag_meanings"].split()
    flags = dict(zip(attributes["flag_values"], meanings, strict=True))
    flags.pop(picture.variable.nodata, None)
    palette = colormaps[QUALITATIVE[0] if len(flags) <= 10 else QUALITATIVE[1]]
    colours = [palette(number % palette.N) for number in range(len(flags))]
    classes = np.full(picture.pixels.shape, -1)
    for number, code in enumerate(flags):
        classes[picture.pixels == code] = number
    axes.imshow(
        np.ma.masked_array(classes, classes < 0),
        extent=extent,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(flags) - 0.5,
        interpolation="nearest",
    )
    patches = [
        Patch(color=colour, label=name.replace("_", " "))
        for colour, name in zip(colours, flags.values(), strict=True)
    ]
    figure.legend(handles=patches, loc="outside right center", frameon=False, labelcolor=INK)


def _latest(root: zarr.Group, contents: Contents, path: str) -> Picture | None:
    for group in contents.layers:
        for variable in group.variables:
            if f"{group.path}/{variable.name}" == path:
                slots = np.arange(len(group.span))
                if f"{group.path}/observed" in root:
                    slots = slots[root[f"{group.path}/observed"][:] > 0]
                for slot in slots[::-1].tolist():
                    pixels = _thinned(root[path], slot, contents)
                    empty = pixels == variable.nodata
                    if not empty.all():
                        return Picture(group, variable, slot, pixels, empty)
    return None


def _thinned(array: zarr.Array, slot: int, contents: Contents) -> NDArray[Any]:
    """One slot, every n-th pixel, read tile by tile."""
    grid = contents.grid
    step = max(-(-max(grid.shape_yx) // LONGEST_SIDE_PX), 1)
    shape = [-(-size // step) for size in grid.shape_yx]
    thinned = np.full(shape, array.fill_value, dtype=array.dtype)
    for tile in grid.tiles:
        rows, columns = grid.slices(tile)
        y0, x0 = -(-rows.start // step), -(-columns.start // step)
        part = np.asarray(array[slot, rows, columns])[
            y0 * step - rows.start :: step, x0 * step - columns.start :: step
        ]
        thinned[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    return thinned
