"""Hrefs that are opened and refused, and bytes that arrive whole or not at all."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpage import objectstore
from alpage.engine import storage
from alpage.engine.hrefs import place_of
from alpage.engine.storage import (
    ReadCounters,
    fetch_head,
    fetch_ranges,
    gdal_path,
    locate,
    merge,
)
from alpage.errors import StorageError, UntrustedHref
from alpage.objectstore import StorageSettings
from alpage.redaction import safe_name


@pytest.mark.parametrize(
    ("href", "scheme", "root", "path"),
    [
        ("s3://bucket/a/b%20c.tif", "s3", "bucket", "a/b%20c.tif"),
        ("https://Host.example:8443/a%20b/c.tif", "https", "host.example:8443", "a b/c.tif"),
        ("http://127.0.0.1:9000/c.tif", "http", "127.0.0.1:9000", "c.tif"),
        ("http://[::1]:9000/c.tif", "http", "[::1]:9000", "c.tif"),
        ("http://localhost/c.tif", "http", "localhost", "c.tif"),
        ("file:///data/a%20b.tif", "file", "", "/data/a b.tif"),
        ("/data/a%20b.tif", "file", "", "/data/a%20b.tif"),
    ],
)
def test_known_hrefs_are_placed(href: str, scheme: str, root: str, path: str) -> None:
    place = place_of(href)
    assert (place.scheme, place.root, place.path) == (scheme, root, path)


@pytest.mark.parametrize(
    "href",
    [
        "",
        "/vsicurl/http://example.org/a.tif",
        "//VSIS3/bucket/a.tif",
        "/vsizip//vsicurl/http://example.org/a.zip",
        "/vsistdin/",
        "file:///vsimem/a.tif",
        "file:///%76simem/a.tif",
        "file://host/a.tif",
        "GTIFF_DIR:1:/data/a.tif",
        "NETCDF:/data/a.nc:x",
        "ftp://example.org/a.tif",
        "gs://bucket/a.tif",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/../other/a.tif",
        "s3://buck et/a.tif",
        "s3://user:key@bucket/a.tif",
        "s3://bucket/a.tif?versionId=1",
        "https://example.org/a.tif?X-Amz-Signature=abc",
        "https://example.org/a.tif#frag",
        "https://me:secret@example.org/a.tif",
        "https://example.org/%2e%2e/a.tif",
        "https://example.org//a.tif",
        "https:///a.tif",
        "http://example.org/a.tif",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1.example.org/a.tif",
        "https://example.org/a\n.tif",
        "https://example.org\\@evil/a.tif",
    ],
)
def test_other_hrefs_are_refused(href: str) -> None:
    with pytest.raises(UntrustedHref) as refusal:
        locate(href)
    assert "secret" not in str(refusal.value)
    assert "abc" not in str(refusal.value)


def test_plain_http_to_named_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGE_PLAIN_HTTP_HOSTS", "minio.svc, Other.svc")
    storage.forget()
    assert locate("http://other.svc:9000/a/b.tif")[1] == "a/b.tif"
    with pytest.raises(UntrustedHref, match="plain http"):
        locate("http://third.svc/a.tif")


@given(st.text(max_size=80))
def test_any_text_is_placed_or_refused(href: str) -> None:
    try:
        place = place_of(href)
    except UntrustedHref:
        return
    assert not place.path.lower().lstrip("/").startswith("vsi") or place.scheme != "file"


def test_names_for_messages_hold_no_secrets() -> None:
    assert safe_name("s3://key:pw@bucket/a.tif?token=t#x") == "s3://bucket/a.tif"


def test_one_store_a_bucket_and_process() -> None:
    assert locate("s3://bucket/a")[0] is locate("s3://bucket/b/c")[0]
    assert locate("s3://bucket/a")[0] is not locate("s3://other/a")[0]


def test_settings_speak_alike_to_obstore_and_gdal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:7070")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show")
    settings = StorageSettings()
    assert "do-not-show" not in repr(settings)
    assert settings.requester_pays
    store = settings.s3_store("bucket")
    assert store.config["endpoint"] == "http://127.0.0.1:7070"
    assert store.config["region"] == "eu-west-3"
    assert store.config["virtual_hosted_style_request"] in (False, "false")
    options = settings.gdal_options()
    assert options["AWS_S3_ENDPOINT"] == "127.0.0.1:7070"
    assert options["AWS_HTTPS"] == "NO"
    assert options["AWS_VIRTUAL_HOSTING"] == "FALSE"
    assert options["AWS_REQUEST_PAYER"] == "requester"
    assert not any("do-not-show" in value for value in options.values())


def test_half_a_key_is_an_error_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show")
    with pytest.raises(StorageError, match="AccessKeyId") as refusal:
        locate("s3://bucket/a.tif")
    assert "do-not-show" not in str(refusal.value)


def test_http_endpoint_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.svc")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    assert not StorageSettings().http_endpoint


def test_gdal_paths(tmp_path: Path) -> None:
    assert gdal_path("http://127.0.0.1:9/a b.tif")[0] == "/vsicurl/http://127.0.0.1:9/a%20b.tif"
    assert gdal_path(str(tmp_path / "a.tif"))[0] == str(tmp_path / "a.tif")


spans = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 900_000)), max_size=12)


@given(spans)
def test_merged_spans_hold_every_range(ranges: list[tuple[int, int]]) -> None:
    merged = merge(ranges)
    for start, length in ranges:
        assert any(a <= start and start + length <= b for a, b in merged)
    single = max((length for _, length in ranges), default=0)
    assert all(b - a <= max(storage.REQUEST_BYTES, single) for a, b in merged)
    wasted = sum(b - a for a, b in merged) - sum(length for _, length in ranges)
    assert wasted <= storage.MERGE_GAP * len(ranges)


BODY = bytes(range(256)) * 4000
RANGES = [(900_000, 1000), (5, 10), (0, 0), (15, 20), (300_000, 3)]


@pytest.mark.parametrize("kind", ["file", "url", "http", "s3"])
def test_ranges_come_in_the_order_asked(
    kind: str, range_server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    path = tmp_path / "bucket" / "a b.bin"
    path.write_bytes(BODY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", range_server.url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    href = {
        "file": str(path),
        "url": path.as_uri(),
        "http": f"{range_server.url}/bucket/a%20b.bin",
        "s3": "s3://bucket/a b.bin",
    }[kind]
    counters = ReadCounters()
    head, size = fetch_head(href, 100, counters)
    assert (bytes(head), size) == (BODY[:100], len(BODY))
    found = fetch_ranges(href, RANGES, counters)
    assert [bytes(part) for part in found] == [BODY[a : a + n] for a, n in RANGES]
    assert fetch_ranges(href, [], counters) == []
    # Head; 0-35; 300000-300003; 900000-901000: gaps above 256 kB are not bridged.
    assert counters.requests == 4
    assert counters.bytes == 100 + 35 + 3 + 1000
    assert counters.fetch_seconds > 0
    if kind in {"http", "s3"}:
        assert range_server.gets == 4


def test_head_of_a_short_object(range_server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    for href in (str(tmp_path / "a"), f"{range_server.url}/a"):
        head, size = fetch_head(href, 65536, ReadCounters())
        assert (bytes(head), size) == (b"abc", 3)


@pytest.mark.parametrize(
    ("faults", "retries", "failures"),
    [
        (["503", "500"], 2, {"503": 1, "500": 1}),
        (["broken", "429", "broken"], 3, {"connection": 2, "429": 1}),
        (["short", "broken"], 2, {"short": 1, "connection": 1}),
    ],
)
def test_faults_are_survived(
    range_server, tmp_path: Path, faults: list[str], retries: int, failures: dict[str, int]
) -> None:
    (tmp_path / "a.bin").write_bytes(BODY)
    href, counters = f"{range_server.url}/a.bin", ReadCounters()
    range_server.faults = list(faults)
    assert bytes(fetch_ranges(href, [(1000, 5000)], counters)[0]) == BODY[1000:6000]
    assert counters.retries == retries
    assert counters.failures == failures
    range_server.faults = list(faults)
    assert bytes(fetch_head(href, 5000, counters)[0]) == BODY[:5000]
    assert counters.retries == 2 * retries


def test_answers_that_stay_short_are_an_error(
    range_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectstore, "MAX_TRIES", 2)
    (tmp_path / "a.bin").write_bytes(BODY)
    range_server.faults = ["short"] * 2
    with pytest.raises(StorageError, match=r"a\.bin: answers came short"):
        fetch_ranges(f"{range_server.url}/a.bin", [(0, 100)], ReadCounters())


def test_absent_and_forbidden_objects(range_server) -> None:
    with pytest.raises(FileNotFoundError):
        fetch_head(f"{range_server.url}/no.tif", 10, ReadCounters())
    range_server.faults, counters = ["403"], ReadCounters()
    with pytest.raises(StorageError, match="refused us") as refusal:
        fetch_ranges(f"{range_server.url}/no.tif", [(0, 10)], counters)
    assert (counters.failures, counters.retries) == ({"403": 1}, 0)
    assert "SECRETKEY" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    with pytest.raises(FileNotFoundError):
        fetch_head("/no/such/file.tif", 10, ReadCounters())
    with pytest.raises(StorageError, match="directory"):
        fetch_head("/", 10, ReadCounters())


def test_a_file_cut_after_its_header_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    with pytest.raises(StorageError, match="shorter"):
        fetch_ranges(str(tmp_path / "a.bin"), [(0, 10)], ReadCounters())


def test_s3_requests_are_signed_with_the_environments_keys(
    range_server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a.bin").write_bytes(b"abc")
    monkeypatch.setenv("AWS_ENDPOINT_URL", range_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")
    fetch_head("s3://bucket/a.bin", 10, ReadCounters())
    assert "Credential=some-id/" in range_server.log[0][3]


@pytest.mark.slow
def test_spawned_workers_need_only_the_href(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(BODY)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        counters = pickle.loads(pickle.dumps(ReadCounters()))
        size = pool.submit(_size, str(tmp_path / "a.bin"), counters).result()
    assert size == len(BODY)


def _size(href: str, counters: ReadCounters) -> int:
    return fetch_head(href, 1, counters)[1]
