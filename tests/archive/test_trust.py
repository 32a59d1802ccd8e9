"""Hrefs that must open, and a list of those that must not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpage.archive.trust import TrustPolicy, archive_folder, mask
from alpage.errors import UntrustedHref

REMOTE = "https://stac.example.org/v1/collections/s2"


def test_named_hosts_are_read_without_tls() -> None:
    policy = TrustPolicy(plain_http_hosts=("data.svc",))
    for href in ("http://data.svc:8080/a.tif", "https://data.svc/a.tif", "http://DATA.svc/a.tif"):
        assert policy.check(href, REMOTE) == href
    # What else is allowed is told elsewhere, and this host need not be told twice.
    strict = TrustPolicy(hosts=("example.org",), plain_http_hosts=("data.svc",))
    assert strict.check("http://data.svc/a.tif", REMOTE)
    for href in ("http://example.org/a.tif", "http://other.svc/a.tif", "http://a.data.svc/a.tif"):
        with pytest.raises(UntrustedHref, match="ALPAGE_PLAIN_HTTP_HOSTS"):
            strict.check(href, REMOTE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A local archive with one image, and a secret beside it that a symlink points at."""
    (tmp_path / "archive" / "scene").mkdir(parents=True)
    (tmp_path / "archive" / "scene" / "B04.tif").touch()
    (tmp_path / "secret").touch()
    (tmp_path / "archive" / "link.tif").symlink_to(tmp_path / "secret")
    return tmp_path / "archive"


@pytest.mark.parametrize(
    "href",
    [
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/29/R/B04.tif",
        "https://account.blob.core.windows.net/c/B04.tif?sv=2024&sig=a%2Fb%3D",
        "https://example.org:8443/~mapper/$1/B04.tif",
        "https://93.184.216.34/B04.tif",
        "s3://sentinel-cogs/29/R/KH/B04.tif",
    ],
)
def test_public_hrefs_are_returned_as_they_are(href: str) -> None:
    assert TrustPolicy().check(href, REMOTE) == href


@pytest.mark.parametrize(
    "href",
    [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "~/.aws/credentials",
        "$HOME/.aws/credentials",
        "/vsicurl/https://example.org/a.tif",
        "/vsizip//vsicurl/https://example.org/a.zip/a.tif",
        "https://example.org//vsis3/other/a.tif",
        "https://example.org/%2Fvsis3/other/a.tif",
        "vsimem/a.tif",
        "VSIS3/bucket/a.tif",
        "zip+https://example.org/a.zip!a.tif",
        "GTIFF_DIR:1:a.tif",
        'NETCDF:"a.nc":v',
        "C:\\a.tif",
        "ftp://example.org/a.tif",
        "gs://bucket/a.tif",
        "http://example.org/a.tif",
        "http://127.0.0.1/a.tif",
        "https://127.0.0.1/a.tif",
        "https://localhost:9000/a.tif",
        "https://localhost./a.tif",
        "https://[::1]/a.tif",
        "https://[::ffff:10.0.0.1]/a.tif",
        "https://10.0.0.8/a.tif",
        "https://172.16.3.4/a.tif",
        "https://192.168.1.1/a.tif",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/a.tif",
        "https://0x7f.1/a.tif",
        "https://2130706433/a.tif",
        "https://0177.0.0.1/a.tif",
        "https://0/a.tif",
        "https://kubernetes/a.tif",
        "https://store.default.svc.cluster.local/a.tif",
        "https://metadata.google.internal/a.tif",
        "https://me:secret@example.org/a.tif",
        "https://@example.org/a.tif",
        "https:///a.tif",
        "https://example.org:99999/a.tif",
        "https://example.org/a/../../b.tif",
        "https://example.org/%2e%2e/b.tif",
        "https://example.org/%252e%252e/b.tif",
        "https://example.org/a.tif\nHost: evil",
        "https://example.org/%0d%0aHost:evil",
        "https://example.org/a b.tif",
        "https://example.org\\@10.0.0.1/",
        "//example.org/a.tif",
        "s3://bucket/../other/a.tif",
        "s3://bucket/$SECRET",
        "s3://Bad_Bucket!/a.tif",
        "s3://me:pw@bucket/a.tif",
        "s3://bucket/a.tif?versionId=1",
        "s3:///a.tif",
    ],
)
def test_a_remote_archive_reaches_nothing_else(href: str) -> None:
    with pytest.raises(UntrustedHref, match="is not opened"):
        TrustPolicy().check(href, REMOTE)


def test_relative_hrefs_of_a_remote_archive_stay_on_its_host() -> None:
    base = "https://stac.example.org/c/collection.json?token=x"
    assert TrustPolicy().check("a/B04.tif", base) == "https://stac.example.org/c/a/B04.tif"


def test_local_files_open_below_the_archive_only(home: Path) -> None:
    policy = TrustPolicy()
    base = str(home / "collection.json")
    (home / "collection.json").touch()
    image = home / "scene" / "B04.tif"
    for href in ("scene/B04.tif", "./scene/../scene/B04.tif", str(image), image.as_uri()):
        assert policy.check(href, base) == str(image.resolve())
    outside = home.parent / "secret"
    for href in (
        "../secret",
        "scene/../../secret",
        "link.tif",
        str(outside),
        outside.as_uri(),
        "file://server/share/a.tif",
        "~/a.tif",
        "$HOME/a.tif",
        "%APPDATA%/a.tif",
        f"/vsigzip/{image}",
        "/dev/stdin",
        "http://127.0.0.1:9000/a.tif",
    ):
        with pytest.raises(UntrustedHref, match="is not opened"):
            policy.check(href, base)


def test_further_folders_open_when_named(home: Path) -> None:
    outside = home.parent / "elsewhere"
    outside.mkdir()
    (outside / "a.tif").touch()
    policy = TrustPolicy(folders=(outside,))
    for base in (str(home / "scenes.parquet"), REMOTE):
        assert policy.check(str(outside / "a.tif"), base if base != REMOTE else str(home))
    with pytest.raises(UntrustedHref, match="folders"):
        policy.check(str(home.parent / "secret"), str(home / "scenes.parquet"))


def test_loopback_archives_may_use_loopback() -> None:
    policy = TrustPolicy()
    base = "http://127.0.0.1:8080/collection.json"
    assert policy.check("http://localhost:8080/a.tif", base)
    assert policy.check("a.tif", base) == "http://127.0.0.1:8080/a.tif"
    with pytest.raises(UntrustedHref, match="http is only"):
        policy.check("http://10.0.0.1/a.tif", base)
    with pytest.raises(UntrustedHref, match="private"):
        policy.check("https://10.0.0.1/a.tif", base)


def test_allow_lists() -> None:
    policy = TrustPolicy(hosts=("data.example.org", ".trusted.net", "10.0.0.8"), buckets=("mine",))
    for href in (
        "https://data.example.org/a.tif",
        "https://DATA.example.org./a.tif",
        "https://eu.trusted.net/a.tif",
        "https://10.0.0.8/a.tif",
        "s3://mine/a.tif",
    ):
        assert policy.check(href, "https://data.example.org/") == href
    for href in (
        "https://evil-data.example.org/a.tif",
        "https://data.example.org.evil.com/a.tif",
        "https://eviltrusted.net/a.tif",
        "https://10.0.0.9/a.tif",
        "s3://mine-too/a.tif",
    ):
        with pytest.raises(UntrustedHref, match="not in the allowed"):
            policy.check(href, "https://data.example.org/")


def test_schemes_can_be_narrowed() -> None:
    policy = TrustPolicy(schemes=frozenset({"s3"}))
    with pytest.raises(UntrustedHref, match="scheme 'https'"):
        policy.check("https://example.org/a.tif", REMOTE)
    with pytest.raises(UntrustedHref, match="local files are not allowed"):
        policy.check("a.tif", "/data/collection.json")


@pytest.mark.parametrize(
    "href",
    [
        "https://user:hunter2@10.0.0.1/a.tif?sig=hunter2#hunter2",
        "https://user:hun@hunter2@example.org/a.tif",
        "ftp://example.org/a.tif?X-Amz-Signature=hunter2&X-Amz-Credential=hunter2",
        "gs://bucket/a.tif#hunter2",
        "gs://bucket/a.tif%3Fsig=hunter2",
        "s3://bucket/a.tif?sig=hunter2",
        "../a.tif?sig=hunter2",
        "http://[bad?sig=hunter2",
    ],
)
def test_messages_hold_no_secret(href: str) -> None:
    with pytest.raises(UntrustedHref) as refused:
        TrustPolicy().check(href, REMOTE)
    assert "hunter2" not in str(refused.value)


@given(st.text(max_size=40))
def test_whatever_the_href_a_remote_archive_opens_no_local_path(href: str) -> None:
    try:
        opened = TrustPolicy().check(href, REMOTE)
    except UntrustedHref:
        return
    assert opened.startswith(("https://", "s3://")) or opened.lower().startswith(
        ("https://", "s3://")
    )


@given(st.text(max_size=30), st.text(max_size=30))
def test_masks_drop_passwords_and_queries(secret: str, other: str) -> None:
    href = f"https://user{other}:PASSWORD{secret}@example.org/a.tif?QUERY{other}"
    assert "PASSWORD" not in mask(href)
    assert "QUERY" not in mask(href)


def test_archive_folder(tmp_path: Path) -> None:
    assert archive_folder(str(tmp_path)) == tmp_path.resolve()
    assert archive_folder((tmp_path / "c.json").as_uri()) == tmp_path.resolve()
    assert archive_folder(REMOTE) is None
