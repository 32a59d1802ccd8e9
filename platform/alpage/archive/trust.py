"""Which hrefs of a STAC item may be opened. Items are written by others: nothing is assumed."""

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from alpage.errors import UntrustedHref

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")
_VSI = re.compile(r"(^|[/:=])vsi[a-z0-9_]*([/?]|$)", re.IGNORECASE)
_EXPANSION = re.compile(r"(^|/)~|\$|%[A-Za-z_]\w*%")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_INTERNAL_SUFFIXES = (".localhost", ".local", ".internal", ".localdomain")
_MASKED_LENGTH = 160


class TrustPolicy(BaseModel):
    """What an archive's hrefs may point at.

    ``hosts`` and ``buckets`` are allow-lists; None means any public host and any bucket.
    ``hosts`` names hosts exactly, or whole domains with a leading dot (``.example.org``). A
    private host (an in-cluster store) is only reached when it is listed there. ``folders`` are
    local folders, besides the archive's own, below which assets may lie.

    A public name that resolves to a private address is not noticed here: that needs the
    network, and belongs to the cluster's egress rules.

    >>> TrustPolicy().check("s3://sentinel-cogs/29/R/B04.tif", "https://stac.example.org/v1")
    's3://sentinel-cogs/29/R/B04.tif'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schemes: frozenset[str] = Field(
        default=frozenset({"s3", "https", "file"}),
        description="Schemes that may be opened; http only on loopback addresses and named hosts.",
    )
    hosts: tuple[str, ...] | None = Field(
        default=None, description="Hosts that may be opened; all public ones when absent."
    )
    plain_http_hosts: tuple[str, ...] = Field(
        default=(), description="Hosts that are opened over http too, private or not."
    )
    buckets: tuple[str, ...] | None = Field(
        default=None, description="S3 buckets that may be opened; all when absent."
    )
    folders: tuple[Path, ...] = Field(
        default=(), description="Local folders allowed besides the archive's own."
    )
    # Asked for each href of an archive, and each time a walk of the file system.
    _homes: dict[str, Path | None] = PrivateAttr(default_factory=dict)

    def check(self, href: str, base: str) -> str:
        """Return the href in the form to open: a URL, or the real path of a local file.

        Parameters
        ----------
        href
            As an item gives it. Relative ones are taken from the archive's folder.
        base
            Where the archive itself was read: its document's path or URL.

        Raises
        ------
        UntrustedHref
            The href leaves what this policy allows. The message masks credentials.
        """
        # Twice decoded: a store or proxy on the way may decode once more than we do.
        decoded = unquote(unquote(href))
        if not href or _CONTROL.search(decoded):
            _refuse(href, "it is empty or holds backslashes or control characters")
        if _VSI.search(decoded):
            _refuse(href, "GDAL virtual file prefixes are not opened")
        if _SCHEME.match(href):
            return self._check_absolute(href, base)
        if href.startswith("//") or ":" in href.split("/", 1)[0]:
            _refuse(href, "it is neither a path nor a URL")
        if _EXPANSION.search(decoded):
            _refuse(href, "'~' and variables are not expanded")
        if _SCHEME.match(base) and not base.startswith("file:"):
            if href.startswith("/"):
                _refuse(href, "a remote archive may not name local paths")
            return self.check(f"{base.split('?')[0].rsplit('/', 1)[0]}/{href}", base)
        return self._check_local(href, base)

    def _check_absolute(self, href: str, base: str) -> str:
        try:
            parts = urlsplit(href)
            valid = parts.port != 0 and " " not in href
        except ValueError:
            valid = False
        if not valid:
            _refuse(href, "it is not a valid URL")
        scheme = parts.scheme.lower()
        if "@" in parts.netloc:
            _refuse(href, "credentials in URLs are refused; give them by the environment")
        if scheme == "file" and "file" in self.schemes:
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                _refuse(href, "a file URL names one local path and nothing else")
            return self._check_local(unquote(parts.path), base)
        if scheme not in self.schemes and scheme != "http":
            _refuse(href, f"scheme {scheme!r} is none of {sorted(self.schemes)}")
        if any(step in (".", "..") for step in unquote(unquote(parts.path)).split("/")):
            _refuse(href, "a URL may not climb with '..'")
        if scheme == "s3":
            self._check_bucket(href, parts)
        else:
            self._check_host(href, parts, base)
        return href

    def _check_bucket(self, href: str, parts: SplitResult) -> None:
        if not _BUCKET.match(parts.netloc) or _EXPANSION.search(unquote(parts.path)):
            _refuse(href, "it is not s3://bucket/key")
        if parts.query or parts.fragment:
            _refuse(href, "an S3 key takes no query")
        if self.buckets is not None and parts.netloc not in self.buckets:
            _refuse(href, f"bucket {parts.netloc!r} is not in the allowed buckets")

    def _check_host(self, href: str, parts: SplitResult, base: str) -> None:
        host = (parts.hostname or "").rstrip(".").lower()
        if not host:
            _refuse(href, "it names no host")
        is_plain = host in self.plain_http_hosts
        named = is_plain or any(_same_host(host, entry) for entry in self.hosts or ())
        at_home = _is_loopback(host) and _is_loopback(urlsplit(base).hostname or "")
        is_near = is_plain or (_is_loopback(host) and (named or at_home))
        if parts.scheme.lower() == "http" and not is_near:
            _refuse(
                href,
                "http is only opened on a loopback address that the archive itself uses, and on"
                " hosts that ALPAGE_PLAIN_HTTP_HOSTS names",
            )
        if self.hosts is not None and not named and not at_home:
            _refuse(href, f"host {host!r} is not in the allowed hosts")
        if _is_private(host) and not named and not at_home:
            _refuse(href, f"host {host!r} is private; list it in `hosts` if it is meant")

    def _check_local(self, path: str, base: str) -> str:
        if "file" not in self.schemes:
            _refuse(path, "local files are not allowed")
        if _EXPANSION.search(path):
            _refuse(path, "'~' and variables are not expanded")
        roots = [folder.resolve() for folder in self.folders]
        if base not in self._homes:
            self._homes[base] = archive_folder(base)
        home = self._homes[base]
        if home is not None:
            roots.append(home)
        joined = Path(path) if home is None else home / path
        real = joined.resolve()
        if not joined.is_absolute() or not any(real.is_relative_to(root) for root in roots):
            _refuse(path, "it lies outside the archive's folder; list its folder in `folders`")
        return str(real)


def archive_folder(base: str) -> Path | None:
    """Return the real folder a local archive lies in; None for a remote one.

    >>> archive_folder("https://stac.example.org/v1") is None
    True
    """
    if base.startswith("file:"):
        base = unquote(urlsplit(base).path)
    elif _SCHEME.match(base):
        return None
    path = Path(base).resolve()
    return path if path.is_dir() else path.parent


def mask(href: str) -> str:
    """Return the href fit for a log: without user, password, query, fragment, odd characters.

    >>> mask("https://me:pw@example.org/a.tif?sig=secret")
    'https://***@example.org/a.tif?***'
    """
    bare, mark, rest = re.sub(r"(?i)(%3f|%23)", "?", href.replace("#", "?", 1)).partition("?")
    # Greedy up to the last '@', so that a password that itself holds one is hidden whole.
    bare = re.sub(r"//.*@", "//***@", bare, flags=re.DOTALL)
    if "@" in rest and "/" not in bare.partition("//")[2]:
        # The '?' may belong to a password.
        bare = bare.partition("//")[0] + "//***"
    shown = "".join(char if char.isprintable() else "?" for char in bare)
    return shown[:_MASKED_LENGTH] + ("?***" if mark else "")


def _refuse(href: str, reason: str) -> NoReturn:
    raise UntrustedHref(f"href {mask(href)!r} is not opened: {reason}")


def _same_host(host: str, entry: str) -> bool:
    entry = entry.lower()
    return host.endswith(entry) if entry.startswith(".") else host == entry


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # The C library also reads 0x7f.1, 2130706433 and 0177.0.0.1 as addresses.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host.lower() == "localhost"


def _is_private(host: str) -> bool:
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address is not None:
        return not address.is_global or address.is_multicast
    return "." not in host or host.endswith(_INTERNAL_SUFFIXES)


def as_location(archive: str) -> str:
    """Return the archive's address made absolute: a URL as it is, a path from here.

    >>> as_location("s3://bucket/collection.json")
    's3://bucket/collection.json'
    """
    return archive if _SCHEME.match(archive) else os.path.abspath(archive)  # noqa: PTH100
