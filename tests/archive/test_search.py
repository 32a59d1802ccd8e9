"""Searching real archives: files, a STAC API on loopback, S3, stac-geoparquet, hostile ones."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from shapely.geometry import Point, box, shape

from alpage.archive.scenes import SceneList
from alpage.archive.search import search_archive
from alpage.errors import ArchiveError, UntrustedHref
from alpage.settings import Settings

FLEMISH = Point(3.024, 50.816)
YEARS = (date(2017, 1, 1), date(2018, 12, 31))
SITE2 = "data/stac-items/odc-stac/site2-2020_jun_jul-35MNM.geojson"
SITE1 = "data/stac-items/odc-stac/site1-20200606-tall-strip-africa.geojson"
THOUSAND = "data/stac-items/rustac/1000-sentinel-2-items.parquet"
ANTIMERIDIAN = (
    "data/stac-items/safe-to-stac/"
    "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157.SAFE/expected_output.json"
)


def write_collection(
    folder: Path, items: list[dict[str, Any]], links: list[dict[str, str]] | None = None
) -> str:
    """Write a static collection whose items lie beside it; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(items):
        (folder / f"{number}.json").write_text(json.dumps(item))
    hrefs = [{"rel": "item", "href": f"./{number}.json"} for number in range(len(items))]
    document = {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": folder.name,
        "description": "-",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[-10, 40, 20, 60]]},
            "temporal": {"interval": [["2017-01-01T00:00:00Z", None]]},
        },
        "links": hrefs + (links or []),
    }
    path = folder / "collection.json"
    path.write_text(json.dumps(document))
    return str(path)


def test_the_real_static_archive(flemish: Path) -> None:
    found = search_archive(str(flemish), collection=None, geometry=FLEMISH, period=YEARS)
    assert len(found.scenes) == 118
    assert (found.rejected, found.duplicates) == ((), ())
    assert all(Path(a.href).is_file() for s in found.scenes.scenes for a in s.assets.values())
    again = search_archive(flemish.as_uri(), collection=None, geometry=FLEMISH, period=YEARS)
    assert again.scenes.digest == found.scenes.digest


def test_both_days_of_a_period_belong_to_it(flemish: Path) -> None:
    period = (date(2017, 8, 14), date(2017, 8, 27))
    found = search_archive(str(flemish), collection=None, geometry=FLEMISH, period=period)
    days = [str(scene.solar_day) for scene in found.scenes.scenes]
    assert days == ["2017-08-14", "2017-08-24", "2017-08-27"]


def test_a_frozen_answer_is_an_archive(flemish: Path, tmp_path: Path) -> None:
    """Read again it gives the same scenes; the images lie where it was frozen from."""
    found = search_archive(str(flemish), collection=None, geometry=FLEMISH, period=YEARS)
    path = tmp_path / "scenes.parquet"
    found.scenes.freeze(path)
    assert SceneList.load(path).scenes == found.scenes.scenes
    with pytest.raises(ArchiveError, match=r"118 of them unusable.*outside the archive's folder"):
        search_archive(str(path), collection=None, geometry=FLEMISH, period=YEARS)


@pytest.mark.parametrize(
    ("geometry", "period", "collection"),
    [
        (Point(80, 10), YEARS, None),
        (FLEMISH, (date(2031, 1, 1), date(2031, 2, 1)), None),
        (FLEMISH, YEARS, "another"),
    ],
)
def test_nothing_found_tells_what_there_is(
    flemish: Path, geometry: Any, period: Any, collection: str | None
) -> None:
    with pytest.raises(ArchiveError) as empty:
        search_archive(str(flemish), collection=collection, geometry=geometry, period=period)
    for told in (
        "no scene",
        "s2-l2a-00002806639B424A: (3.019, 50.813",
        "2018-11-27",
        str(period[0]),
    ):
        assert told in str(empty.value)


def test_broken_items_are_named_and_the_search_goes_on(items: Any, tmp_path: Path) -> None:
    good = items("data/s2-cog-29RKH/S2A_29RKH_20200219_0_L2A.json")[0]

    def changed(name: str, **changes: Any) -> dict[str, Any]:
        return {**json.loads(json.dumps(good)), "id": name, **changes}

    ranged = changed("ranged")
    ranged["properties"] |= {"datetime": None, "start_datetime": "2020-02-19T00:00:00Z"}
    foreign = changed("foreign")
    foreign["assets"]["red"]["href"] = "/vsicurl/https://example.org/B04.tif"
    climbing = changed("climbing")
    climbing["assets"]["red"]["href"] = "../../../etc/passwd"
    signed = changed("signed")
    signed["assets"]["red"]["href"] = "https://me:hunter2@example.org/B04.tif?sig=hunter2"
    bad = [
        ranged,
        changed("placeless", geometry=None),
        changed("empty", geometry={"type": "Polygon", "coordinates": []}),
        changed("imageless", assets={}),
        foreign,
        climbing,
        signed,
    ]
    links = [
        {"rel": "item", "href": "./gone.json"},
        {"rel": "item", "href": "./torn.json"},
        {"rel": "item", "href": "./list.json"},
        {"rel": "item", "href": "/etc/hostname"},
        {"rel": "child", "href": "./missing/catalog.json"},
        {"rel": "child", "href": "./collection.json"},
        {"rel": "self"},
    ]
    path = write_collection(tmp_path / "c", [*bad, good], links)
    (tmp_path / "c" / "torn.json").write_text('{"type": "Feature", "id"')
    (tmp_path / "c" / "list.json").write_text("[1]")
    found = search_archive(
        path, collection=None, geometry=box(-20, 20, 0, 30), period=(date(2020, 2, 19),) * 2
    )
    assert [scene.id for scene in found.scenes.scenes] == [good["id"]]
    reasons = dict(found.rejected)
    expected = {
        "ranged": "no datetime",
        "placeless": "no geometry",
        "empty": "geometry is empty",
        "imageless": "neither names nor assets|reflectance band",
        "foreign": "GDAL virtual",
        "climbing": "outside the archive",
        "signed": "credentials",
        "gone": "does not exist",
        "torn": "not JSON",
        "list": "no JSON object",
        "hostname": "outside the archive",
        "catalog": "does not exist",
    }
    assert reasons.keys() == expected.keys()
    for name, pattern in expected.items():
        assert any(part in reasons[name] for part in pattern.split("|")), reasons[name]
    assert "hunter2" not in str(reasons)


def test_trees_of_catalogues(items: Any, tmp_path: Path) -> None:
    """A catalogue of two collections in folders of their own, one wanted."""
    site1, site2 = items(SITE1), items(SITE2)
    write_collection(tmp_path / "strip", site1)
    write_collection(tmp_path / "tile", site2)
    root = tmp_path / "catalog.json"
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in ("strip", "tile")]
    root.write_text(json.dumps({"type": "Catalog", "id": "root", "links": links}))
    period = (date(2020, 6, 1), date(2020, 8, 1))
    africa = box(20, -20, 35, 20)
    both = search_archive(str(root), collection=None, geometry=africa, period=period)
    one = search_archive(str(root), collection="tile", geometry=africa, period=period)
    assert {s.id for s in both.scenes.scenes} == {i["id"] for i in site1 + site2}
    assert {s.id for s in one.scenes.scenes} == {i["id"] for i in site2}


def test_a_catalogue_of_bare_items_is_filtered_by_what_they_say(items: Any, tmp_path: Path) -> None:
    features = items(SITE2)
    features[0]["collection"] = "other"
    write_collection(tmp_path, features)
    links = [{"rel": "item", "href": f"./{number}.json"} for number in range(len(features))]
    root = tmp_path / "catalog.json"
    root.write_text(json.dumps({"type": "Catalog", "id": "root", "links": links}))
    found = search_archive(str(root), collection="other", geometry=AFRICA, period=SUMMER)
    assert [scene.id for scene in found.scenes.scenes] == [features[0]["id"]]


def test_one_name_in_two_collections_is_refused(items: Any, tmp_path: Path) -> None:
    """Two acquisitions of one id: of neither could be told which is meant."""
    first = items(SITE2)[0]
    second = json.loads(json.dumps(items(SITE2)[1]))
    second |= {"id": first["id"], "collection": "other"}
    write_collection(tmp_path, [first, second])
    root = tmp_path / "catalog.json"
    links = [{"rel": "item", "href": f"./{number}.json"} for number in range(2)]
    root.write_text(json.dumps({"type": "Catalog", "id": "root", "links": links}))

    def ask(collection: str | None) -> Any:
        return search_archive(str(root), collection=collection, geometry=AFRICA, period=SUMMER)

    with pytest.raises(ArchiveError, match=f"and other both have an item {first['id']}: name one"):
        ask(None)
    assert len(ask("other").scenes) == 1


def test_reprocessed_scenes_are_replaced(items: Any, tmp_path: Path) -> None:
    old = items(SITE2)[0]
    new = json.loads(json.dumps(old))
    new["id"] = old["id"][:-15] + "20230501T000000"
    new["properties"]["s2:processing_baseline"] = "05.00"
    path = write_collection(tmp_path / "c", [new, old, old])
    found = search_archive(
        path, collection=None, geometry=shape(old["geometry"]), period=(date(2020, 7, 31),) * 2
    )
    assert [scene.id for scene in found.scenes.scenes] == [new["id"]]
    assert found.scenes.items[0]["id"] == new["id"]
    assert found.duplicates == (old["id"],)


@pytest.mark.parametrize(
    ("area", "is_met"),
    [
        (box(179.5, 66, 179.9, 66.3), True),
        (box(-179.9, 66, -179.6, 66.3), True),
        (box(180.1, 66, 180.3, 66.3), True),
        (box(0, 66, 1, 66.3), False),
        (box(-178, 66, -177, 66.3), False),
    ],
)
def test_areas_at_the_antimeridian(items: Any, tmp_path: Path, area: Any, is_met: bool) -> None:
    path = write_collection(tmp_path / "c", items(ANTIMERIDIAN))
    # 23:46 UTC of the 25th is the 26th there.
    period = (date(2023, 6, 26), date(2023, 6, 26))
    if is_met:
        found = search_archive(path, collection=None, geometry=area, period=period)
        assert len(found.scenes) == 1
    else:
        with pytest.raises(ArchiveError, match="no scene"):
            search_archive(path, collection=None, geometry=area, period=period)


def test_a_thousand_items_in_a_table(shared: Path, items: Any) -> None:
    path = shared / THOUSAND
    if not path.is_file():
        pytest.skip("needs shared/data/stac-items/rustac")
    area = box(-105.3, 39.9, -105.0, 40.2)
    period = (date(2024, 7, 20), date(2024, 7, 31))
    found = search_archive(str(path), collection="sentinel-2-l2a", geometry=area, period=period)
    # By hand, on the bare items: none of these lies so near to midnight that solar days differ.
    expected = {
        item["id"]
        for item in items(THOUSAND)
        if "2024-07-20" <= item["properties"]["datetime"][:10] <= "2024-07-31"
        and shape(item["geometry"]).intersects(area)
    }
    assert {s.id for s in found.scenes.scenes} | set(found.duplicates) == expected
    assert len(expected) > 5
    with pytest.raises(ArchiveError, match=r"covers sentinel-2-l2a: \(.*2024-08-28"):
        search_archive(str(path), collection=None, geometry=Point(0, 0), period=YEARS)


class StacServer:
    """A STAC API, and files under /files/, on loopback: real HTTP, pages, faults, redirects."""

    def __init__(self, features: list[dict[str, Any]], files: Path, page: int = 4) -> None:
        self.features = features
        self.requests: list[tuple[str, str]] = []
        self.searches: list[dict[str, Any]] = []
        self.failures = 0
        self.next_href: str | None = None
        self.redirect_to: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests.append(("GET", self.path))
                parts = urlsplit(self.path)
                if outer.redirect_to and parts.path == "/search":
                    self.send_response(302)
                    self.send_header("location", outer.redirect_to)
                    self.end_headers()
                elif parts.path.startswith("/files/"):
                    self._file(files / parts.path.removeprefix("/files/"))
                elif parts.path == "/search":
                    self._page({key: value[0] for key, value in parse_qs(parts.query).items()})
                elif parts.path == "/":
                    self._json(outer.landing())
                elif parts.path == "/collections/s2":
                    self._json(
                        {
                            "id": "s2",
                            "extent": {
                                "spatial": {"bbox": [[1, 2, 3, 4]]},
                                "temporal": {"interval": [["2020-06-01T00:00:00Z", None]]},
                            },
                        }
                    )
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                outer.requests.append(("POST", self.path))
                body = self.rfile.read(int(self.headers["content-length"]))
                if outer.failures:
                    outer.failures -= 1
                    self.send_error(503)
                else:
                    self._page(json.loads(body))

            def _file(self, path: Path) -> None:
                if not path.is_file():
                    self.send_error(404)
                    return
                self._bytes(path.read_bytes())

            def _json(self, document: Any) -> None:
                self._bytes(json.dumps(document).encode())

            def _bytes(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.send_header("etag", '"1"')
                self.send_header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")
                self.end_headers()
                self.wfile.write(body)

            def _page(self, asked: dict[str, Any]) -> None:
                outer.searches.append(asked)
                start = int(asked.get("token", 0))
                met = [f for f in outer.features if outer.is_met(f, asked)]
                links = []
                if start + page < len(met):
                    links.append(outer.next_link(asked, start + page))
                self._json(
                    {
                        "type": "FeatureCollection",
                        "features": met[start : start + page],
                        "links": links,
                    }
                )

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def landing(self) -> dict[str, Any]:
        core = "https://api.stacspec.org/v1.0.0"
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "api",
            "description": "-",
            "conformsTo": [f"{core}/core", f"{core}/collections", f"{core}/item-search"],
            "links": [
                {"rel": "self", "href": self.url},
                {
                    "rel": "search",
                    "type": "application/geo+json",
                    "href": f"{self.url}/search",
                    "method": "POST",
                },
                {"rel": "data", "href": f"{self.url}/collections"},
            ],
        }

    def next_link(self, asked: dict[str, Any], start: int) -> dict[str, Any]:
        if self.redirect_to or self.next_href:
            return {"rel": "next", "href": self.next_href or f"{self.url}/search?token=1"}
        return {
            "rel": "next",
            "method": "POST",
            "href": f"{self.url}/search",
            "body": {**asked, "token": str(start)},
        }

    @staticmethod
    def is_met(feature: dict[str, Any], asked: dict[str, Any]) -> bool:
        start, end = (datetime.fromisoformat(edge) for edge in asked["datetime"].split("/"))
        when = datetime.fromisoformat(feature["properties"]["datetime"])
        is_near = shape(feature["geometry"]).intersects(shape(asked["intersects"]))
        return asked["collections"] == ["s2"] and start <= when <= end and is_near


Serve = Callable[[list[dict[str, Any]], Path], StacServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[StacServer] = []

    def start(features: list[dict[str, Any]], files: Path) -> StacServer:
        server = StacServer(features, files)
        threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.server.shutdown()
        server.server.server_close()


SUMMER = (date(2020, 6, 1), date(2020, 8, 1))
AFRICA = box(20, -20, 35, 20)


def test_an_api_is_asked_page_by_page(items: Any, tmp_path: Path, serve: Serve) -> None:
    features = items(SITE1) + items(SITE2)
    api = serve(features, tmp_path)
    found = search_archive(api.url, collection="s2", geometry=AFRICA, period=SUMMER)
    assert {s.id for s in found.scenes.scenes} == {item["id"] for item in features}
    posts = [path for method, path in api.requests if method == "POST"]
    assert len(posts) == -(-len(features) // 4)
    assert shape(api.searches[0]["intersects"]).equals(AFRICA)
    found.scenes.freeze(tmp_path / "scenes.parquet")
    assert SceneList.load(tmp_path / "scenes.parquet").digest == found.scenes.digest


def test_the_same_items_by_file_and_by_api(items: Any, tmp_path: Path, serve: Serve) -> None:
    features = items(SITE2)
    path = write_collection(tmp_path / "c", features)
    by_file = search_archive(path, collection=None, geometry=AFRICA, period=SUMMER)
    by_api = search_archive(
        serve(features, tmp_path).url, collection="s2", geometry=AFRICA, period=SUMMER
    )
    assert by_file.scenes.digest == by_api.scenes.digest


def test_an_api_gives_the_solar_days_at_the_edge(items: Any, tmp_path: Path, serve: Serve) -> None:
    """The scene's UTC day lies before the period, its solar day within."""
    item = items(ANTIMERIDIAN)[0]
    for asset in item["assets"].values():
        asset["href"] = "https://example.org/" + asset["href"].removeprefix("./")
    api = serve([item], tmp_path)
    day = (date(2023, 6, 26), date(2023, 6, 26))
    area = box(179, 66, 181, 66.3)
    assert len(search_archive(api.url, collection="s2", geometry=area, period=day).scenes) == 1
    asked = shape(api.searches[0]["intersects"])
    assert asked.area == pytest.approx(area.area)
    before = (date(2023, 6, 25), date(2023, 6, 25))
    with pytest.raises(ArchiveError, match=r"1 items were looked at.*covers s2: \(1.000, 2.000"):
        search_archive(api.url, collection="s2", geometry=area, period=before)


def test_an_api_that_falters_is_asked_again(items: Any, tmp_path: Path, serve: Serve) -> None:
    api = serve(items(SITE2), tmp_path)
    api.failures = 2
    found = search_archive(api.url, collection="s2", geometry=AFRICA, period=SUMMER)
    assert len(found.scenes) == 13


def test_an_api_needs_its_collection(items: Any, tmp_path: Path, serve: Serve) -> None:
    api = serve(items(SITE2), tmp_path)
    with pytest.raises(ArchiveError, match="name the collection"):
        search_archive(api.url, collection=None, geometry=AFRICA, period=SUMMER)
    with pytest.raises(ArchiveError, match="0 items were looked at"):
        search_archive(api.url, collection="other", geometry=AFRICA, period=SUMMER)
    (tmp_path / "bare.json").write_text('{"type": "Collection", "id": "s2", "links": []}')
    with pytest.raises(ArchiveError, match="links to no item"):
        search_archive(
            f"{api.url}/files/bare.json", collection=None, geometry=AFRICA, period=SUMMER
        )


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "https://10.0.0.1/search"])
def test_pages_and_redirects_lead_nowhere_private(
    items: Any, tmp_path: Path, serve: Serve, target: str
) -> None:
    api = serve(items(SITE2), tmp_path)
    api.next_href = target
    with pytest.raises(UntrustedHref, match="is not opened"):
        search_archive(api.url, collection="s2", geometry=AFRICA, period=SUMMER)
    api.next_href, api.redirect_to = None, target
    with pytest.raises(UntrustedHref, match="is not opened"):
        search_archive(api.url, collection="s2", geometry=AFRICA, period=SUMMER)


def test_static_files_and_tables_over_http(items: Any, tmp_path: Path, serve: Serve) -> None:
    features = items(SITE2)
    path = write_collection(tmp_path / "c", features)
    by_file = search_archive(path, collection=None, geometry=AFRICA, period=SUMMER)
    by_file.scenes.freeze(tmp_path / "scenes.parquet")
    api = serve([], tmp_path)
    for name in ("c/collection.json", "scenes.parquet"):
        found = search_archive(
            f"{api.url}/files/{name}", collection=None, geometry=AFRICA, period=SUMMER
        )
        assert found.scenes.digest == by_file.scenes.digest


def test_static_files_on_s3(
    items: Any, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path-style reads of a bucket called `files`, unsigned."""
    features = items(SITE2)
    write_collection(tmp_path / "c", features)
    monkeypatch.setenv("AWS_ENDPOINT_URL", serve([], tmp_path).url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    found = search_archive(
        "s3://files/c/collection.json", collection=None, geometry=AFRICA, period=SUMMER
    )
    assert len(found.scenes) == 13
    with pytest.raises(ArchiveError, match=r"cannot be read|does not exist"):
        search_archive("s3://files/gone.json", collection=None, geometry=AFRICA, period=SUMMER)


def test_relative_images_of_a_served_archive(flemish: Path, serve: Serve) -> None:
    api = serve([], flemish.parent)
    found = search_archive(
        f"{api.url}/files/collection.json",
        collection=None,
        geometry=FLEMISH,
        period=(date(2017, 8, 1), date(2017, 8, 31)),
    )
    hrefs = {scene.assets["red"].href for scene in found.scenes.scenes}
    assert f"{api.url}/files/S2_00002806639B424A_20170804T105328/B04.tif" in hrefs
    assert len(found.scenes) == 4


def test_operators_choose_hosts_and_buckets(items: Any, tmp_path: Path) -> None:
    path = write_collection(tmp_path / "c", items(SITE2))
    strict = Settings(allowed_hosts=("data.example.org",), allowed_buckets=None)
    with pytest.raises(ArchiveError, match=r"13 of them unusable.*not in the allowed hosts"):
        search_archive(path, collection=None, geometry=AFRICA, period=SUMMER, operator=strict)
    with pytest.raises(UntrustedHref, match="not in the allowed hosts"):
        search_archive(
            "https://example.org/collection.json",
            collection=None,
            geometry=AFRICA,
            period=SUMMER,
            operator=strict,
        )
    azure = Settings(allowed_hosts=(".blob.core.windows.net",), allowed_buckets=None)
    found = search_archive(path, collection=None, geometry=AFRICA, period=SUMMER, operator=azure)
    assert len(found.scenes) == 13


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ('{"type": "FeatureCollection", "features": []}', "expected a STAC API"),
        ('{"a": 1}', "document without type"),
        ('{"type": "Catalog", "id": "c", "links": []}', "links to no item"),
    ],
)
def test_what_is_no_archive_is_said(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "thing.json"
    path.write_text(content)
    with pytest.raises(ArchiveError, match=reason):
        search_archive(str(path), collection=None, geometry=AFRICA, period=SUMMER)


def test_requests_that_cannot_be_answered(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="does not exist"):
        search_archive(str(tmp_path / "none.json"), collection=None, geometry=AFRICA, period=SUMMER)
    with pytest.raises(ArchiveError, match="empty geometry"):
        search_archive(
            str(tmp_path),
            collection=None,
            geometry=box(0, 0, 1, 1).boundary.difference(box(-1, -1, 2, 2)),
            period=SUMMER,
        )
    with pytest.raises(UntrustedHref):
        search_archive("/vsis3/b/c.json", collection=None, geometry=AFRICA, period=SUMMER)
