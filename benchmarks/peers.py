"""The same job by several ways, each in a process of its own.

`python peers.py <way> <archive> <out> <small archive> <small out>`: folders or s3:// prefixes. The
small job is done first, so that nobody's imports and first calls are in the time of the work. The
last line on stdout is JSON: seconds to start, seconds and CPU seconds of the work, tasks, and what
else the way tells of itself.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import psutil

if TYPE_CHECKING:
    import pystac
    import xarray as xr
    from distributed import Client

Job = tuple[str, str]
"""An archive and where the result goes."""
WORKERS = 2
BANDS = ("red", "nir", "scl")
MASKED_CLASSES = (0, 1, 3, 8, 9, 10)
FILL = -32768
SEASON = ("2018-09-01", "2019-08-31")
# As most begin: one date of one internal tile of the COGs.
PLAIN = (1, 512)
# All dates at once: of 1, 5, 10, 20 and 40 of 40 dates by 256, 512, 1024 and 2048 pixels the best
# was 40 by 512, for both libraries.
TUNED = (73, 512)


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


def alpage(job: Job, small: Job) -> dict[str, Any]:
    """A study, run as `alpage run` does."""
    return _alpage(job, small, WORKERS, _ndvi)


def alpage_alone(job: Job, small: Job) -> dict[str, Any]:
    """The same with one worker."""
    return _alpage(job, small, 1, _ndvi)


def snow_alpage(job: Job, small: Job) -> dict[str, Any]:
    """The snow product: flags, snow line of the whole area, codes, season and series."""
    return _alpage(job, small, WORKERS, _snow)


def snow_alpage_alone(job: Job, small: Job) -> dict[str, Any]:
    """The same with one worker."""
    return _alpage(job, small, 1, _snow)


def _ndvi(archive: str) -> dict[str, Any]:
    return {"product": "products:ndvi_statistics", "period": "2018-01-01/2018-12-31"}


def _snow(archive: str) -> dict[str, Any]:
    # Coarse cells and confirmed snow are left out on both sides: xarray has no word for them.
    return {
        "product": "snow",
        "period": f"{SEASON[0]}/{SEASON[1]}",
        "dem": f"{archive}/dem.tif",
        "parameters": {"coarse_factor": 1, "confirmation_days": 0},
    }


def _alpage(
    job: Job, small: Job, workers: int, asked: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    watch = Stopwatch()
    from alpage import verbs
    from alpage.clusters import open_cluster
    from alpage.study import ClusterChoice, Study, make_study

    def study_of(archive: str, out: str, address: str) -> Study:
        # An area is a file of this machine, wherever the archive is.
        area = Path(scratch, f"{Path(archive).name}.geojson")
        with fsspec.open(f"{archive}/area.geojson") as file:
            area.write_bytes(file.read())
        content = asked(archive) | {
            "area": {"file": str(area)},
            "archive": f"{archive}/collection.json",
            "cube": out,
            "cluster": {"kind": "address", "address": address, "workers": workers},
        }
        return make_study(content, folder=Path(__file__).parent)

    with (
        tempfile.TemporaryDirectory() as scratch,
        open_cluster(ClusterChoice(workers=workers)) as client,
    ):
        address = client.scheduler.address
        verbs.run(study_of(*small, address))
        tasks, study = count_tasks(client), study_of(*job, address)
        watch.begin()
        plans: list[Any] = []
        report = verbs.run(study, on_plan=plans.append)
        measured = watch.stop()
        tasks = count_tasks(client) - tasks
        peaks = client.run(_peak_bytes)
    (plan,) = plans
    return {
        **measured,
        "tasks": tasks,
        "blocks": report.n_blocks,
        "plan_s": measured["work_s"] - report.seconds,
        "read_seconds": report.read_seconds,
        "compute_seconds": report.compute_seconds,
        "write_seconds": report.write_seconds,
        "requests": report.requests,
        "tiles_needed": plan.bill.requests - plan.inspection.requests,
        "bytes_read": report.bytes_read,
        "worker_peak_mib": max(peaks.values()) / 2**20,
        "planned_peak_mib": plan.bill.peak_bytes / 2**20,
    }


def _peak_bytes() -> int:
    """The most memory that this process ever held."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def odc_stac(job: Job, small: Job) -> dict[str, Any]:
    """odc-stac, xarray and dask, as its documentation shows."""
    return _odc_stac(job, small, *PLAIN)


def odc_stac_tuned(job: Job, small: Job) -> dict[str, Any]:
    """The same in the chunks that were fastest."""
    return _odc_stac(job, small, *TUNED)


def _odc_stac(job: Job, small: Job, dates: int, px: int) -> dict[str, Any]:
    watch = Stopwatch()
    import odc.stac

    def work(archive: str, out: str) -> None:
        chunks = {"time": dates, "y": px, "x": px}
        items = read_items(archive)
        bands = odc.stac.load(items, bands=BANDS, chunks=chunks, groupby="solar_day")
        write_zarr(bands, out)

    with dask_cluster("odc.stac") as client:
        odc.stac.configure_rio(cloud_defaults=True, client=client)
        return timed(work, job, small, watch, client)


def snow_xarray(job: Job, small: Job) -> dict[str, Any]:
    """Snow by odc-stac, xarray and dask."""
    return _snow_xarray(job, small, *PLAIN)


def snow_xarray_tuned(job: Job, small: Job) -> dict[str, Any]:
    """The same in the chunks that were fastest."""
    return _snow_xarray(job, small, *TUNED)


def _snow_xarray(job: Job, small: Job, dates: int, px: int) -> dict[str, Any]:
    watch = Stopwatch()
    import odc.stac
    import rioxarray
    from snow_xarray import BANDS as SNOW_BANDS
    from snow_xarray import write_snow

    def work(archive: str, out: str) -> None:
        chunks = {"time": dates, "y": px, "x": px}
        items = read_items(archive)
        bands = odc.stac.load(items, bands=SNOW_BANDS, chunks=chunks, groupby="solar_day")
        dem = rioxarray.open_rasterio(f"{archive}/dem.tif", chunks={"y": px, "x": px})
        write_snow(bands, dem.squeeze("band", drop=True), SEASON, out)

    with dask_cluster("odc.stac") as client:
        odc.stac.configure_rio(cloud_defaults=True, client=client)
        return timed(work, job, small, watch, client)


def stackstac(job: Job, small: Job) -> dict[str, Any]:
    """stackstac, xarray and dask."""
    return _stackstac(job, small, *PLAIN)


def stackstac_tuned(job: Job, small: Job) -> dict[str, Any]:
    """The same in the chunks that were fastest."""
    return _stackstac(job, small, *TUNED)


def _stackstac(job: Job, small: Job, dates: int, px: int) -> dict[str, Any]:
    watch = Stopwatch()
    import numpy as np
    import stackstac
    import xarray as xr

    def work(archive: str, out: str) -> None:
        items = read_items(archive)
        for item in items:
            # It knows the projection extension before version 1.2 only.
            code = item.properties["proj:code"]
            item.properties["proj:epsg"] = int(code.removeprefix("EPSG:"))
        stack = stackstac.stack(
            items,
            assets=list(BANDS),
            chunksize=(dates, 1, px, px),
            dtype="uint16",
            fill_value=np.uint16(0),
            rescale=False,
            xy_coords="center",
        )
        bands = xr.Dataset({name: stack.sel(band=name, drop=True) for name in BANDS})
        write_zarr(bands, out)

    with dask_cluster("stackstac") as client:
        return timed(work, job, small, watch, client)


def timed(
    work: Callable[[str, str], None], job: Job, small: Job, watch: Stopwatch, client: "Client"
) -> dict[str, Any]:
    """Do the small job, then the job under the watch; return what was measured."""
    work(*small)
    before = count_tasks(client)
    watch.begin()
    work(*job)
    return {**watch.stop(), "tasks": count_tasks(client) - before}


def read_items(archive: str) -> "list[pystac.Item]":
    """Return the items of an archive, their hrefs absolute."""
    import pystac

    with fsspec.open(f"{archive}/collection.json") as file:
        links = [link["href"] for link in json.load(file)["links"] if link["rel"] == "item"]
    paths = [f"{archive}/{link.removeprefix('./')}" for link in links]
    items = []
    for path, file in zip(paths, fsspec.open_files(paths), strict=True):
        with file as opened:
            items.append(pystac.Item.from_dict(json.load(opened), href=path))
        for asset in items[-1].assets.values():
            asset.href = f"{path.rpartition('/')[0]}/{asset.href.removeprefix('./')}"
    return items


def floor(job: Job, small: Job) -> dict[str, Any]:
    """The floor: rasterio decodes every band and throws it away. Writes nothing."""
    return _floor(job, small, WORKERS)


def floor_alone(job: Job, small: Job) -> dict[str, Any]:
    """The same on one thread: what a second core of this machine gives."""
    return _floor(job, small, 1)


def _floor(job: Job, small: Job, threads: int) -> dict[str, Any]:
    watch = Stopwatch()
    import rasterio

    def read(path: str) -> int:
        with rasterio.open(path) as image:
            return int(image.read(1).nbytes)

    def work(archive: str) -> tuple[int, int]:
        paths = [str(a.href) for item in read_items(archive) for a in item.assets.values()]
        return len(paths), sum(pool.map(read, (path for path in paths if path.endswith(".tif"))))

    with ThreadPoolExecutor(threads) as pool:
        work(small[0])
        watch.begin()
        files, decoded = work(job[0])
        return {**watch.stop(), "tasks": files, "decoded_bytes": decoded}


WAYS = {
    way.__name__: way
    for way in (
        alpage,
        alpage_alone,
        odc_stac,
        odc_stac_tuned,
        stackstac,
        stackstac_tuned,
        floor,
        floor_alone,
    )
}
SNOW_WAYS = {
    way.__name__: way
    for way in (
        snow_alpage,
        snow_alpage_alone,
        snow_xarray,
        snow_xarray_tuned,
        floor,
        floor_alone,
    )
}


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


def write_zarr(bands: "xr.Dataset", out: str) -> None:
    """Compute masked NDVI, mean and maximum and write all three, encoded as alpage does."""
    import xarray as xr
    from zarr.codecs import ZstdCodec

    red, nir = (bands[name].astype("float32") for name in ("red", "nir"))
    clear = ~bands["scl"].isin(MASKED_CLASSES) & (red > 0) & (nir > 0)
    ndvi = (nir - red) / (nir + red).where(clear)
    cube = xr.Dataset({"ndvi": ndvi, "ndvi_mean": ndvi.mean("time"), "ndvi_max": ndvi.max("time")})
    cube = cube.drop_vars(set(cube.coords) - {"time", "y", "x"}).drop_attrs()
    encoding = {
        "dtype": "int16",
        "scale_factor": 1e-4,
        "_FillValue": FILL,
        "compressors": (ZstdCodec(level=1),),
    }
    encodings = {name: dict(encoding) for name in cube.data_vars}
    cube.to_zarr(out, mode="w", encoding=encodings, consolidated=False)


def count_tasks(client: "Client") -> int:
    """Return how many tasks the scheduler has seen finish."""

    def finished(dask_scheduler: Any) -> int:
        return sum(p.state_counts["memory"] for p in dask_scheduler.task_prefixes.values())

    return int(client.run_on_scheduler(finished))


if __name__ == "__main__":
    way, *places = sys.argv[1:]
    archive, out, small_archive, small_out = places
    print(json.dumps((WAYS | SNOW_WAYS)[way]((archive, out), (small_archive, small_out))))
