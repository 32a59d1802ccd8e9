"""Open a cube for reading: xarray datasets, one per calendar, at one snapshot."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from alpage.cube.store import CubeStore
from alpage.errors import CubeError
from alpage.timeaxis import Calendar

if TYPE_CHECKING:
    import xarray as xr


class Cube(Mapping[str, "xr.Dataset | xr.DataArray"]):
    """A cube at one snapshot: `cube["day"]` is a dataset, `cube["day/ndvi"]` a layer of it.

    Nothing is read before it is asked for, and no pixels before they are computed: arrays are
    Dask's. What another run publishes meanwhile does not show; open the cube again for that.
    """

    def __init__(self, url: str, snapshot: str, root: zarr.Group) -> None:
        self.url = url
        self.snapshot = snapshot
        """The version of the cube that this is."""
        self.about: dict[str, Any] = dict(root.attrs["alpage"])
        """What the cube says of itself: product, version, parameters, grid, period, zones."""
        self._root = root
        self._opened: dict[str, xr.Dataset] = {}

    @property
    def groups(self) -> tuple[str, ...]:
        """The calendars that have layers, the finest first."""
        return tuple(calendar.value for calendar in Calendar if calendar.value in self._root)

    @property
    def layers(self) -> tuple[str, ...]:
        """The path of every layer, such as day/ndvi."""
        return tuple(
            f"{group}/{name}"
            for group in self.groups
            for name, array in sorted(self._root[group].arrays())
            if array.ndim == 3
        )

    def __getitem__(self, path: str) -> "xr.Dataset | xr.DataArray":
        """Return a group's dataset or one layer, in physical units, NaN where empty.

        Layers with flags keep their integer codes. Raises CubeError where there is none.
        """
        group, _, name = path.partition("/")
        if path not in self.groups and path not in self.layers:
            raise CubeError(
                f"cube: {self.url} has no {path!r}; there are groups {', '.join(self.groups)} "
                f"and layers {', '.join(self.layers)}"
            )
        dataset = self._open(group)
        return dataset[name] if name else dataset

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __contains__(self, path: object) -> bool:
        return path in self.groups or path in self.layers

    @property
    def series_calendars(self) -> tuple[str, ...]:
        """The calendars on which there are series per zone."""
        return tuple(sorted(self._root["zones"].group_keys())) if "zones" in self._root else ()

    def zones(self, calendar: str = "day") -> "xr.Dataset":
        """Return the series per zone on a calendar: (zone, time), NaN where nothing was seen.

        Raises CubeError where the product makes no series on this calendar.
        """
        found = self.series_calendars
        if calendar not in found:
            raise CubeError(
                f"cube: {self.url} has no series by {calendar!r}; "
                f"there are {' and '.join(found) or 'none'}"
            )
        names = ("zone_name", "zone_area")
        return self._open(f"zones/{calendar}").set_coords(names)

    def sel_observed(self, group: str = "day") -> "xr.Dataset":
        """Return a group's dataset with the days on which any scene was acquired.

        A group that does not count acquisitions comes back whole.
        """
        import xarray as xr

        dataset = self[group]
        if not isinstance(dataset, xr.Dataset):
            raise CubeError(f"cube: expected a group such as {self.groups[0]}, got layer {group}")
        if "observed" not in dataset.coords:
            return dataset
        return dataset.isel(time=np.flatnonzero(dataset["observed"].to_numpy() > 0))

    def __repr__(self) -> str:
        about = self.about
        lines = [f"<alpage.Cube {about.get('product', '?')} {about.get('version', '')}>"]
        lines += [f"  {self.url}", f"  snapshot {self.snapshot}"]
        if period := about.get("period"):
            lines.append(f"  {period[0]} to {period[1]}")
        for group in self.groups:
            sizes = ", ".join(f"{k}: {v}" for k, v in self._open(group).sizes.items())
            names = [path.split("/")[1] for path in self.layers if path.startswith(f"{group}/")]
            lines.append(f"  {group} ({sizes}): {', '.join(names)}")
        return "\n".join(lines)

    def _open(self, group: str) -> "xr.Dataset":
        if group not in self._opened:
            import xarray as xr

            dataset = xr.open_zarr(
                self._root.store, group=group, consolidated=False, chunks={}, decode_coords="all"
            )
            counted = [name for name in ("observed",) if name in dataset]
            self._opened[group] = dataset.set_coords(counted)
        return self._opened[group]


def open_cube(url: str, *, snapshot: str | None = None) -> Cube:
    """Return a cube as readers see it now, or as it was at a snapshot.

    Parameters
    ----------
    url
        Folder or s3:// URL of the cube; keys come from the environment.
    snapshot
        One of the cube's versions; the newest where absent.

    Raises
    ------
    CubeError
        There is no cube at the URL, or no such snapshot of it.
    StorageError
        The store cannot be read.

    >>> open_cube("/no/such/folder")
    Traceback (most recent call last):
    alpage.errors.CubeError: cube: there is none at /no/such/folder; `alpage run` makes one
    """
    store = CubeStore.open(url)
    snapshot = snapshot or store.tip()
    try:
        root = store.read(snapshot=snapshot)
    except FileNotFoundError:
        raise CubeError(f"cube: nothing was published at {url} yet; `alpage run` does") from None
    if "alpage" not in root.attrs:
        raise CubeError(f"cube: {url} is an Icechunk store, but alpage did not write it")
    return Cube(url, snapshot, root)
