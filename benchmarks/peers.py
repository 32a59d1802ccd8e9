"""The same job by four ways, each in a process of its own: `python peers.py <way> <archive> <out>`.

The last line on stdout is JSON: seconds to start, seconds and CPU seconds of the work, tasks, and
what else the way tells of itself.
"""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import pystac
    import xarray as xr
    from distributed import Client

WORKERS = 2
BANDS = ("red", "nir", "scl")
MASKED_CLASSES = (0, 1, 3, 8, 9, 10)
FILL = -32768
# The best of 1, 5, 10, 20 and 40 dates by 256, 512, 1024 and 2048 pixels, for both.
CHUNK_DATES, CHUNK_PX = 40, 512


class Stopwatch:
    """Seconds and CPU seconds, of this process and its children, since the work began."""

    def __init__(self) -> None:
        self._made = time.perf_counter()
        self._began = self._made
        self._cpu = 0.0

    def begin(self) -> None:
        """Everything is imported and every worker there: the work begins."""
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()

    def stop(self) -> dict[str, float]:
        """Return what was measured."""
        return {
            "start_s": self._began - self._made,
            "work_s": time.perf_counter() - self._began,
            "cpu_s": _cpu_seconds() - self._cpu,
        }


def _cpu_seconds() -> float:
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def alpage(archive: Path, out: Path) -> dict[str, Any]:
    """A study, run as `alpage run` does."""
    watch = Stopwatch()
    from alpage import verbs
    from alpage.clusters import open_cluster
    from alpage.study import ClusterChoice, make_study

    content = {
        "product": "products:ndvi_statistics",
        "area": {"file": str(archive / "area.geojson")},
        "period": "2018-01-01/2018-12-31",
        "archive": str(archive / "collection.json"),
        "cube": str(out),
    }
    with open_cluster(ClusterChoice(workers=WORKERS)) as client:
        cluster = {"kind": "address", "address": client.scheduler.address}
        study = make_study({**content, "cluster": cluster}, folder=Path(__file__).parent)
        client.run(import_module, "alpage.engine.block")
        watch.begin()
        report = verbs.run(study)
        measured = watch.stop()
        tasks = count_tasks(client)
    blocks = {"blocks": report.n_blocks, "plan_s": measured["work_s"] - report.seconds}
    by_kind = {kind: getattr(report, kind) for kind in ("read_seconds", "compute_seconds")}
    return {**measured, "tasks": tasks, **blocks, **by_kind, "write_seconds": report.write_seconds}


def odc_stac(archive: Path, out: Path) -> dict[str, Any]:
    """odc-stac, xarray and dask, as its documentation shows."""
    watch = Stopwatch()
    import odc.stac
    import pystac

    with dask_cluster("odc.stac") as client:
        odc.stac.configure_rio(cloud_defaults=True, client=client)
        watch.begin()
        items = list(pystac.Collection.from_file(str(archive / "collection.json")).get_items())
        chunks = {"time": CHUNK_DATES, "y": CHUNK_PX, "x": CHUNK_PX}
        bands = odc.stac.load(items, bands=BANDS, chunks=chunks, groupby="solar_day")
        write_zarr(bands, out)
        return {**watch.stop(), "tasks": count_tasks(client)}


def stackstac(archive: Path, out: Path) -> dict[str, Any]:
    """stackstac, xarray and dask."""
    watch = Stopwatch()
    import numpy as np
    import pystac
    import stackstac
    import xarray as xr

    with dask_cluster("stackstac") as client:
        watch.begin()
        collection = pystac.Collection.from_file(str(archive / "collection.json"))
        items = [_for_stackstac(item) for item in collection.get_items()]
        stack = stackstac.stack(
            items,
            assets=list(BANDS),
            chunksize=(CHUNK_DATES, 1, CHUNK_PX, CHUNK_PX),
            dtype="uint16",
            fill_value=np.uint16(0),
            rescale=False,
            xy_coords="center",
        )
        bands = xr.Dataset({name: stack.sel(band=name, drop=True) for name in BANDS})
        write_zarr(bands, out)
        return {**watch.stop(), "tasks": count_tasks(client)}


def _for_stackstac(item: "pystac.Item") -> "pystac.Item":
    """It reads hrefs as they stand, and knows the projection extension before version 1.2 only."""
    item.make_asset_hrefs_absolute()
    item.properties["proj:epsg"] = int(item.properties["proj:code"].removeprefix("EPSG:"))
    return item


def floor(archive: Path, out: Path) -> dict[str, Any]:
    """The floor: rasterio decodes every band and throws it away. Writes nothing to `out`."""
    watch = Stopwatch()
    import rasterio

    def read(path: Path) -> int:
        with rasterio.open(path) as image:
            return int(image.read(1).nbytes)

    paths = sorted(archive.glob("*/*.tif"))
    with ThreadPoolExecutor(WORKERS) as pool:
        watch.begin()
        decoded = sum(pool.map(read, paths))
        return {**watch.stop(), "tasks": len(paths), "decoded_bytes": decoded}


WAYS = {way.__name__: way for way in (alpage, odc_stac, stackstac, floor)}


@contextmanager
def dask_cluster(needed: str) -> Iterator["Client"]:
    """Give a client of a local cluster whose workers have imported what they need."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(import_module, needed)
        yield client


def write_zarr(bands: "xr.Dataset", out: Path) -> None:
    """Compute masked NDVI, mean and maximum and write all three, encoded as alpage does."""
    import xarray as xr
    from zarr.codecs import BloscCodec

    red, nir = (bands[name].astype("float32") for name in ("red", "nir"))
    clear = ~bands["scl"].isin(MASKED_CLASSES) & (red > 0) & (nir > 0)
    ndvi = (nir - red) / (nir + red).where(clear)
    cube = xr.Dataset({"ndvi": ndvi, "ndvi_mean": ndvi.mean("time"), "ndvi_max": ndvi.max("time")})
    cube = cube.drop_vars(set(cube.coords) - {"time", "y", "x"}).drop_attrs()
    encoding = {
        "dtype": "int16",
        "scale_factor": 1e-4,
        "_FillValue": FILL,
        "compressors": (BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),),
    }
    encodings = {name: dict(encoding) for name in cube.data_vars}
    cube.to_zarr(out, mode="w", encoding=encodings, consolidated=False)


def count_tasks(client: "Client") -> int:
    """Return how many tasks the scheduler has seen finish."""

    def finished(dask_scheduler: Any) -> int:
        return sum(p.state_counts["memory"] for p in dask_scheduler.task_prefixes.values())

    return int(client.run_on_scheduler(finished))


if __name__ == "__main__":
    way, archive, out = sys.argv[1:]
    print(json.dumps(WAYS[way](Path(archive).resolve(), Path(out).resolve())))
