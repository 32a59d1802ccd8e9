"""Read an archive's documents from files, HTTP or S3, within what the policy trusts."""

import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.util import Retry

from alpage.archive.trust import TrustPolicy, mask
from alpage.errors import ArchiveError, StorageError, UntrustedHref
from alpage.logs import Redacting
from alpage.objectstore import read_object

# It warns of retries with the request's query, in which archives take their keys.
logging.getLogger("urllib3.connectionpool").addFilter(Redacting())

_RETRIED_STATUS = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 30.0


class TrustedIO(StacApiIO):  # type: ignore[misc]
    """The transport of one archive: every href and every redirect passes the policy first.

    ``base`` is the archive's own address. S3 is reached as `alpage.objectstore` says.
    """

    def __init__(self, policy: TrustPolicy, base: str, *, timeout_s: float, retries: int) -> None:
        retry = Retry(
            total=retries,
            backoff_factor=0.5,
            backoff_max=_LONGEST_WAIT_S,
            status_forcelist=_RETRIED_STATUS,
            # A search is a POST, and as harmless to repeat as a GET.
            allowed_methods=None,
        )
        super().__init__(timeout=timeout_s, max_retries=retry)
        self._policy = policy
        self._base = base
        self.session.hooks["response"].append(self._check_redirect)

    def _check_redirect(self, response: requests.Response, *_: Any, **__: Any) -> None:
        if response.is_redirect:
            self._policy.check(urljoin(response.url, response.headers["location"]), self._base)

    def request(self, href: str, *args: Any, **kwargs: Any) -> str:
        """Return the text of an HTTP answer; the next page of a search is no exception."""
        self._policy.check(href, self._base)
        try:
            return str(super().request(href, *args, **kwargs))
        except APIError as error:
            # pystac-client wraps whatever is raised while a request is sent, redirects included.
            if isinstance(error.__context__, UntrustedHref):
                raise error.__context__ from None
            raise

    def read_bytes(self, href: str) -> bytes:
        """Return a document's bytes.

        Raises
        ------
        UntrustedHref
            The policy does not allow the href.
        ArchiveError
            It cannot be read.
        """
        place = self._policy.check(href, self._base)
        scheme = urlsplit(place).scheme
        try:
            if scheme == "s3":
                return read_object(place)
            if scheme:
                answer = self.session.get(place, timeout=self.timeout)
                answer.raise_for_status()
                return bytes(answer.content)
            return Path(place).read_bytes()
        except FileNotFoundError as error:
            raise ArchiveError(f"{mask(href)} does not exist") from error
        except StorageError as error:
            raise ArchiveError(str(error)) from error
        except (OSError, APIError) as error:
            raise ArchiveError(f"{mask(href)} cannot be read: {_brief(error)}") from error

    def read_document(self, href: str) -> dict[str, Any]:
        """Return a JSON object. Raises what `read_bytes` does, and ArchiveError if it is none."""
        try:
            document = json.loads(self.read_bytes(href))
        except (ValueError, RecursionError) as error:
            raise ArchiveError(f"{mask(href)} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ArchiveError(f"{mask(href)} holds no JSON object")
        return document


def _brief(error: Exception) -> str:
    """Tell a failure without the URLs that libraries put in their messages."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    return getattr(error, "strerror", None) or type(error).__name__
