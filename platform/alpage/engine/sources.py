"""Headers of a cube's scenes, kept beside its scene list: a later run asks for none of them."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from alpage.archive.scene import Scene
from alpage.archive.sensors import QUALITY
from alpage.engine.header import MAGIC, CogHeader
from alpage.engine.inspect import BandSource, SceneSource
from alpage.files import replacing
from alpage.objectstore import on_s3, read_object, write_object
from alpage.product import Band


def write_sources(place: str, sources: Mapping[str, SceneSource], scenes: Iterable[Scene]) -> None:
    """Write the sources of scenes to a path or s3:// URL, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "scene": scene.id,
            "revision": scene.revision,
            "band": name,
            "header": band.header.to_bytes(),
            "gain": band.gain,
            "offset": band.offset,
            "nodata": float(band.nodata),
        }
        for scene in scenes
        if scene.id in sources
        for name, band in sources[scene.id].bands.items()
    ]
    if not rows:
        return
    packed = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), packed, compression="zstd")
    if on_s3(place):
        write_object(place, packed.getvalue())
    else:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(place)) as scratch:
            scratch.write_bytes(packed.getvalue())


def read_sources(
    place: str, scenes: Iterable[Scene], bands: tuple[Band, ...]
) -> dict[str, SceneSource]:
    """Return the sources that were kept of scenes in their present revision, by scene id.

    Of scenes with one id the last counts. Scenes that lack one of the bands are left out; nothing
    is there where nothing was kept.
    Raises StorageError where an object store cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    present = {scene.id: scene for scene in scenes}
    try:
        packed = read_object(place) if on_s3(place) else Path(place).read_bytes()
    except FileNotFoundError:
        return {}
    found: dict[str, dict[str, BandSource]] = {}
    for row in pq.read_table(pa.BufferReader(packed)).to_pylist():
        scene = present.get(row["scene"])
        is_present = scene is not None and scene.revision == row["revision"]
        if scene is not None and is_present and row["header"].startswith(MAGIC):
            # What signs an href may have changed, which is no new revision.
            href = scene.assets[row["band"]].href
            header = replace(CogHeader.from_bytes(row["header"]), href=href)
            source = BandSource(header, row["gain"], row["offset"], row["nodata"])
            found.setdefault(row["scene"], {})[row["band"]] = source
    wanted = {QUALITY, *(band.name for band in bands)}
    return {
        scene.id: SceneSource.of(scene, found[scene.id])
        for scene in present.values()
        if wanted <= found.get(scene.id, {}).keys()
    }
