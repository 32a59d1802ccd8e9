"""STAC of the archive: items with the properties of Earth Search v1, in a static collection."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import Polygon, segmentize
from shapely.geometry import mapping

from alpage.files import replacing
from alpage.simulate import clouds
from alpage.simulate.scenes import BASELINE_OFFSET, FILES, SCALE, Scene, asset_path
from alpage.simulate.seasons import sun_position
from alpage.simulate.spec import PIXEL_M, main_tile

COLLECTION_ID = "sentinel-2-l2a"
RELATIVE_ORBIT = 108
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSIONS = (
    "eo/v1.1.0",
    "file/v2.1.0",
    "grid/v1.1.0",
    "mgrs/v1.0.0",
    "raster/v1.1.0",
    "sat/v1.0.0",
    "view/v1.0.0",
)
# Common name: title, central wavelength and full width at half maximum in micrometres.
_BAND_FACTS = {
    "blue": ("Blue (band 2) - 10m", 0.49, 0.098),
    "green": ("Green (band 3) - 10m", 0.56, 0.045),
    "red": ("Red (band 4) - 10m", 0.665, 0.038),
    "nir": ("NIR 1 (band 8) - 10m", 0.842, 0.145),
    "swir16": ("SWIR 1 (band 11) - 20m", 1.61, 0.143),
    "swir22": ("SWIR 2 (band 12) - 20m", 2.19, 0.242),
}
_SCL_SHARES = {
    "dark_features": clouds.SCL_DARK,
    "cloud_shadow": clouds.SCL_SHADOW,
    "vegetation": clouds.SCL_VEGETATION,
    "not_vegetated": clouds.SCL_BARE,
    "water": clouds.SCL_WATER,
    "medium_proba_clouds": clouds.SCL_CLOUD_MEDIUM,
    "high_proba_clouds": clouds.SCL_CLOUD_HIGH,
    "thin_cirrus": clouds.SCL_CIRRUS,
    "snow_ice": clouds.SCL_SNOW,
}


def item_path(archive: Path, scene_id: str) -> Path:
    """Path of the JSON of an item."""
    return archive / "items" / scene_id / f"{scene_id}.json"


def item_is_written(archive: Path, scene: Scene) -> bool:
    """Whether the archive holds this very processing of the scene."""
    path = item_path(archive, scene.id)
    if not path.exists():
        return False
    written = json.loads(path.read_text())["properties"]["updated"]
    return bool(written == _timestamp(scene.updated))


def write_item(archive: Path, scene: Scene, scl: NDArray[np.uint8]) -> None:
    """Write the item of a scene whose assets lie in its folder already."""
    path = item_path(archive, scene.id)
    item = make_item(scene, scl, path.parent)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(item.to_dict(False, transform_hrefs=False), indent=1))


def make_item(scene: Scene, scl: NDArray[np.uint8], folder: Path) -> pystac.Item:
    """The item of a scene; `folder` holds the assets, whose size and checksum it records."""
    outline = footprint(scene)
    # Archives mix the two: newer processings write version 2 of the projection extension.
    newer = scene.baseline >= BASELINE_OFFSET
    projection = "projection/v2.0.0" if newer else "projection/v1.1.0"
    item = pystac.Item(
        id=scene.id,
        geometry=mapping(outline),
        bbox=list(outline.bounds),
        datetime=scene.sensed,
        properties=_properties(scene, scl),
        stac_extensions=[
            f"https://stac-extensions.github.io/{name}/schema.json"
            for name in (*_EXTENSIONS, projection)
        ],
        collection=COLLECTION_ID,
    )
    for asset in FILES:
        item.add_asset(asset, _asset(scene, asset, folder))
    for rel in (pystac.RelType.ROOT, pystac.RelType.PARENT, pystac.RelType.COLLECTION):
        item.add_link(pystac.Link(rel, "../../collection.json", pystac.MediaType.JSON))
    return item


def footprint(scene: Scene) -> Polygon:
    """Outline of the pixels with data in longitude and latitude, at most a pixel too large."""
    tile = scene.tile
    width, height = tile.width * PIXEL_M, tile.height * PIXEL_M
    cut = 0.0
    if scene.swath_edge is not None and tile == main_tile(scene.spec):
        cut = scene.swath_edge * width - 2 * PIXEL_M
    west, east, south, north = tile.x0, tile.x0 + width, tile.y0 - height, tile.y0
    outline = Polygon(
        [(west, north - cut), (west, south), (east, south), (east, north), (west + cut, north)]
    )
    to_degrees = Transformer.from_crs(tile.crs, "EPSG:4326", always_xy=True)
    points = np.array(segmentize(outline, max(width, height) / 8).exterior.coords)
    return Polygon(np.column_stack(to_degrees.transform(*points.T)).round(7))


def write_collection(archive: Path) -> None:
    """Write collection.json so that it links every item found in the archive."""
    paths = sorted((archive / "items").glob("*/*.json"))
    items = [json.loads(path.read_text()) for path in paths]
    boxes = np.array([item["bbox"] for item in items])
    times = sorted(item["properties"]["datetime"] for item in items)
    interval = [datetime.fromisoformat(times[0]), datetime.fromisoformat(times[-1])]
    bbox = [*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()]
    collection = pystac.Collection(
        id=COLLECTION_ID,
        title="Simulated Sentinel-2 Level-2A",
        description="Synthetic scenes of an alpine valley, written as Earth Search v1 does.",
        license="CC0-1.0",
        extent=pystac.Extent(
            pystac.SpatialExtent([bbox]), pystac.TemporalExtent([[interval[0], interval[1]]])
        ),
    )
    collection.add_link(
        pystac.Link(pystac.RelType.ROOT, "./collection.json", pystac.MediaType.JSON)
    )
    for path, item in zip(paths, items, strict=True):
        href = f"./{path.relative_to(archive).as_posix()}"
        link = pystac.Link(pystac.RelType.ITEM, href, "application/geo+json", item["id"])
        collection.add_link(link)
    text = json.dumps(collection.to_dict(False, transform_hrefs=False), indent=1)
    with replacing(archive / "collection.json") as temporary:
        temporary.write_text(text)


def _properties(scene: Scene, scl: NDArray[np.uint8]) -> dict[str, Any]:
    tile, unit = scene.tile, scene.platform[-1].upper()
    azimuth, elevation = sun_position(scene.day)
    baseline = f"N{scene.baseline.replace('.', '')}"
    sensed, made = scene.sensed.strftime("%Y%m%dT%H%M%S"), scene.updated.strftime("%Y%m%dT%H%M%S")
    granule = f"S2{unit}_OPER_MSI_L2A_TL_2APS_{made}_T{tile.mgrs}_N{scene.baseline}"
    reference = (
        {"proj:code": tile.crs} if scene.baseline >= BASELINE_OFFSET else {"proj:epsg": tile.epsg}
    )
    return {
        "created": _timestamp(scene.updated),
        "updated": _timestamp(scene.updated),
        "platform": scene.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        **_cover_shares(scl),
        **reference,
        "mgrs:utm_zone": int(tile.mgrs[:2]),
        "mgrs:latitude_band": tile.mgrs[2],
        "mgrs:grid_square": tile.mgrs[3:],
        "grid:code": f"MGRS-{tile.mgrs}",
        "sat:relative_orbit": RELATIVE_ORBIT,
        "sat:orbit_state": "descending",
        "view:sun_azimuth": round(azimuth, 6),
        "view:sun_elevation": round(elevation, 6),
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": scene.baseline,
        "s2:product_uri": f"S2{unit}_MSIL2A_{sensed}_{baseline}_R{RELATIVE_ORBIT}_T{tile.mgrs}"
        f"_{made}.SAFE",
        "s2:generation_time": _timestamp(scene.updated),
        "s2:datatake_type": "INS-NOBS",
        "s2:granule_id": granule,
        "s2:tile_id": granule,
        "s2:sequence": str(scene.sequence),
        "earthsearch:boa_offset_applied": False,
    }


def _cover_shares(scl: NDArray[np.uint8]) -> dict[str, float]:
    counts = np.bincount(scl.ravel(), minlength=12)
    seen = max(int(counts[1:].sum()), 1)
    shares = {
        f"s2:{name}_percentage": round(100 * int(counts[code]) / seen, 6)
        for name, code in _SCL_SHARES.items()
    }
    cloudy = counts[[clouds.SCL_CLOUD_MEDIUM, clouds.SCL_CLOUD_HIGH, clouds.SCL_CIRRUS]].sum()
    return {
        "eo:cloud_cover": round(100 * int(cloudy) / seen, 6),
        "s2:nodata_pixel_percentage": round(100 * int(counts[0]) / scl.size, 6),
        **shares,
    }


def _asset(scene: Scene, asset: str, folder: Path) -> pystac.Asset:
    relative = asset_path(scene, asset)
    content = (folder / relative).read_bytes()
    fine = asset not in ("swir16", "swir22", "scl")
    pixel_m = PIXEL_M if fine else 2 * PIXEL_M
    height, width = (side * PIXEL_M // pixel_m for side in scene.tile.shape)
    raster: dict[str, Any] = {"nodata": 0, "data_type": "uint8", "spatial_resolution": pixel_m}
    fields: dict[str, Any] = {}
    title = "Scene classification map (SCL)"
    if asset in _BAND_FACTS:
        title, wavelength, fwhm = _BAND_FACTS[asset]
        offset = -scene.offset_dn * SCALE
        raster |= {"data_type": "uint16", "bits_per_sample": 15, "scale": SCALE, "offset": offset}
        band = {"name": asset, "common_name": asset, "center_wavelength": wavelength}
        fields = {"eo:bands": [band | {"full_width_half_max": fwhm}], "gsd": pixel_m}
    return pystac.Asset(
        href=f"./{relative.as_posix()}",
        title=title,
        media_type=COG_TYPE,
        roles=["data", "reflectance"],
        extra_fields={
            **fields,
            "proj:shape": [height, width],
            "proj:transform": [int(value) for value in scene.tile.transform(pixel_m)[:6]],
            "raster:bands": [raster],
            # A multihash: 12 names SHA-256, 20 its length.
            "file:checksum": f"1220{hashlib.sha256(content).hexdigest()}",
            "file:size": len(content),
        },
    )


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
