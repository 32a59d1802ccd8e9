"""Which hrefs are opened. They come from catalogues, so they are untrusted input."""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from alpage.errors import UntrustedHref
from alpage.redaction import safe_name

HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
VIRTUAL = re.compile(r"/+vsi", re.IGNORECASE)
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True)
class Place:
    """Where a trusted href points."""

    scheme: Literal["s3", "http", "https", "file"]
    root: str
    """Bucket, host[:port], or nothing for files."""
    path: str
    """Decoded path below the root, without leading slash; absolute for files."""


def place_of(href: str, plain_http_hosts: Collection[str] = ()) -> Place:
    """Return where the href points.

    Known are `s3://bucket/key` (the key as it is), `https://` and `http://host/path` and
    `file:///path` (percent decoded) and plain paths (as they are). Raises `UntrustedHref` for
    every other scheme, GDAL's virtual paths and connection strings, queries, fragments,
    users and passwords, dot segments, and plain http to other machines than this one and the
    named hosts. Which buckets and public hosts may be read is the archive's to say.

    >>> place_of("s3://bucket/scene/B04.tif")
    Place(scheme='s3', root='bucket', path='scene/B04.tif')
    >>> place_of("/vsicurl/http://host/a.tif")
    Traceback (most recent call last):
    alpage.errors.UntrustedHref: /vsicurl/http://host/a.tif: GDAL virtual paths are not opened...
    """
    if not href or not href.isprintable() or "\\" in href:
        raise _refusal(href, "empty, or has control characters or backslashes")
    if VIRTUAL.match(href):
        raise _refusal(href, "GDAL virtual paths are not opened: give a URL or a path")
    if "://" not in href:
        if re.match(r"[A-Za-z][A-Za-z0-9+._-]*:", href):
            raise _refusal(href, "GDAL connection strings are not opened: give a URL or a path")
        return _file(href, href)
    if "?" in href or "#" in href:
        raise _refusal(href, "queries and fragments are not opened: give keys by environment")
    scheme, rest = href.split("://", 1)
    root, _, path = rest.partition("/")
    if "@" in root:
        raise _refusal(href, "users and passwords are not taken from hrefs")
    match scheme.lower():
        case "file" if root in {"", "localhost"}:
            return _file(href, unquote(f"/{path}"))
        case "s3":
            return _s3(href, root, path)
        case "https":
            return _web(href, "https", root, unquote(path))
        case "http":
            _check_plain(href, root, plain_http_hosts)
            return _web(href, "http", root, unquote(path))
    raise _refusal(href, "expected s3, https, http on this machine, or file")


def _refusal(href: str, reason: str) -> UntrustedHref:
    return UntrustedHref(f"{safe_name(href)}: {reason}")


def _file(href: str, path: str) -> Place:
    if not path.isprintable() or VIRTUAL.match(path):
        raise _refusal(href, "GDAL virtual paths are not opened: give a URL or a path")
    return Place("file", "", str(Path(path).absolute()))


def _s3(href: str, bucket: str, path: str) -> Place:
    if not BUCKET.fullmatch(bucket):
        raise _refusal(href, "not a bucket name after s3://")
    return Place("s3", bucket, _clean(href, path))


def _web(href: str, scheme: Literal["http", "https"], root: str, path: str) -> Place:
    if not HOST.fullmatch(root):
        raise _refusal(href, "not a host name after the scheme")
    return Place(scheme, root.lower(), _clean(href, path))


def _check_plain(href: str, root: str, plain_http_hosts: Collection[str]) -> None:
    host = (urlsplit(f"//{root}").hostname or "") if HOST.fullmatch(root) else ""
    if not (_loopback(host) or host in plain_http_hosts):
        raise _refusal(href, "plain http only on this machine or to ALPAGE_PLAIN_HTTP_HOSTS")


def _clean(href: str, path: str) -> str:
    if not path.isprintable() or any(part in {"", ".", ".."} for part in path.split("/")):
        raise _refusal(href, "expected an object's path without empty, . or .. parts")
    return path


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
