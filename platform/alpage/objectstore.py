"""How S3 is reached: one set of settings, from the environment, for all that reads and writes.

obstore, Icechunk and GDAL are each told the same. Settings may travel; keys never do: every
process takes its own from its environment, profile or web identity, and renews them.
"""

import datetime as dt
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from alpage.errors import StorageError
from alpage.redaction import CREDENTIALS_ELSEWHERE, names_user

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from obstore.store import ClientConfig, RetryConfig, S3Credential

MAX_TRIES = 10
RETRIES: "RetryConfig" = {"max_retries": MAX_TRIES}  # with obstore's jittered exponential backoff
CONNECT_SECONDS, REQUEST_SECONDS = 10, 120
TIMEOUTS: "ClientConfig" = {
    "connect_timeout": f"{CONNECT_SECONDS}s",
    "timeout": f"{REQUEST_SECONDS}s",
}
PASSING = {408, 425, 429}
"""Statuses below 500 that ask for patience."""
PASSING_SIGNS = (
    r"HTTP error|body error|reading a body|streaming error|error sending|dispatch failure|"
    r"connection (?:reset|closed|refused)|timed? ?out"
)
STATUS = re.compile(r"status(?: code)?:? (\d{3})", re.IGNORECASE)
KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# botocore renews keys ten minutes before they end; clients ask again five minutes before this.
ASK_AGAIN_AFTER = dt.timedelta(minutes=8)


REFUSED = "the store refused us ({}): "
MEANINGS = {
    "NoSuchBucket": "there is no such bucket: make it, or correct the name",
    "InvalidBucketName": "this is no name of a bucket: correct it",
    "InvalidAccessKeyId": REFUSED.format("it does not know the key") + "check AWS_ACCESS_KEY_ID",
    "XAdminUserNotFound": REFUSED.format("it does not know the key") + "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": REFUSED.format("the secret does not fit the key")
    + "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": REFUSED.format("the keys have expired") + "take new ones",
    "InvalidToken": REFUSED.format("the session token is not valid") + "check AWS_SESSION_TOKEN",
    "AccessDenied": REFUSED.format("access denied") + "check the keys and the bucket's policy",
    "RequestTimeTooSkewed": "the clocks of this machine and of the store differ by more than "
    "the store allows: set this machine's clock (NTP)",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
}


class StorageSettings(BaseSettings):
    """How object stores are reached, from the environment.

    Keys are no fields of it: AWS_ACCESS_KEY_ID and its kin are read where they are used, see
    `keys`.

    >>> StorageSettings(AWS_ENDPOINT_URL="http://127.0.0.1:7070").gdal_options()["AWS_HTTPS"]
    'NO'
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    )
    region: str = Field(
        default="us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION")
    )
    allow_http: bool | None = Field(default=None, validation_alias="AWS_ALLOW_HTTP")
    """Whether an http:// endpoint is spoken to; unset means as the endpoint says."""
    virtual_hosted: bool | None = Field(
        default=None,
        validation_alias=AliasChoices("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_VIRTUAL_HOSTING"),
    )
    """Whether the bucket is part of the host's name; unset means at AWS, not at an endpoint."""
    skip_signature: bool = Field(
        default=False, validation_alias=AliasChoices("AWS_SKIP_SIGNATURE", "AWS_NO_SIGN_REQUEST")
    )
    request_payer: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_REQUEST_PAYER", "AWS_REQUESTER_PAYS")
    )

    @property
    def requester_pays(self) -> bool:
        """Whether reads are charged to us."""
        return (self.request_payer or "").lower() in {"requester", "true", "1"}

    @property
    def http_endpoint(self) -> bool:
        """Whether S3 is spoken without TLS."""
        return (self.endpoint or "").startswith("http://") and self.allow_http is not False

    @property
    def path_style(self) -> bool:
        """Whether the bucket is part of the path rather than of the host's name."""
        return self.endpoint is not None if self.virtual_hosted is None else not self.virtual_hosted

    def s3_store(self, bucket: str, retries: "RetryConfig" = RETRIES) -> S3Store:
        """Return a new store for the bucket; `bucket_store` keeps one for each."""
        config: Any = {
            "region": self.region,
            "skip_signature": self.skip_signature,
            "request_payer": self.requester_pays,
            "virtual_hosted_style_request": not self.path_style,
            # Not every store has it, and alpage deletes hardly anything.
            "disable_bulk_delete": True,
        }
        if self.endpoint:
            config["endpoint"] = self.endpoint if self.path_style else self._host_of(bucket)
        client: ClientConfig = {**TIMEOUTS, "allow_http": self.http_endpoint}
        asked = self.skip_signature or has_keys_in_environment()
        try:
            return S3Store(
                bucket,
                config=config,
                client_options=client,
                retry_config=retries,
                credential_provider=None if asked else _obstore_keys,
            )
        except BaseError as error:
            told = str(error).splitlines()[0]
            raise StorageError(f"s3://{bucket}: {told}: check the AWS_ variables") from None

    def _host_of(self, bucket: str) -> str:
        scheme, host = str(self.endpoint).split("://", 1)
        return f"{scheme}://{bucket}.{host.rstrip('/')}"

    def gdal_options(self) -> dict[str, str]:
        """Return GDAL's configuration options that say the same as these settings."""
        options = {
            "AWS_REGION": self.region,
            "AWS_NO_SIGN_REQUEST": "YES" if self.skip_signature else "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE" if self.path_style else "TRUE",
            "GDAL_HTTP_MAX_RETRY": "8",
            "GDAL_HTTP_RETRY_DELAY": "0.3",
            "GDAL_HTTP_CONNECTTIMEOUT": str(CONNECT_SECONDS),
            "GDAL_HTTP_TIMEOUT": str(REQUEST_SECONDS),
            # Bytes a second, and how long fewer may come.
            "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
            "GDAL_HTTP_LOW_SPEED_TIME": "30",
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        }
        if self.requester_pays:
            options["AWS_REQUEST_PAYER"] = "requester"
        if self.endpoint:
            options["AWS_S3_ENDPOINT"] = self.endpoint.split("://", 1)[-1].rstrip("/")
            options["AWS_HTTPS"] = "NO" if self.http_endpoint else "YES"
        return options


@dataclass(frozen=True)
class Keys:
    """What requests are signed with."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(repr=False)
    until: dt.datetime | None
    """When to ask for them again; None for keys that do not change."""


@cache
def settings() -> StorageSettings:
    """Return this process's settings, read from the environment once."""
    return StorageSettings()


@cache
def bucket_store(bucket: str) -> S3Store:
    """Return this process's store for a bucket."""
    return settings().s3_store(bucket)


def forget_environment() -> None:
    """Drop settings, stores and keys, so that a changed environment is read again."""
    settings.cache_clear()
    bucket_store.cache_clear()
    _chain.cache_clear()


def has_keys_in_environment() -> bool:
    """Return whether the environment itself holds keys, before any profile or identity."""
    return any(os.environ.get(name) for name in KEY_VARIABLES)


def keys() -> Keys:
    """Return the keys of this process where the environment holds none, renewed when due.

    They come from where AWS's own tools take them: AWS_PROFILE, AWS_WEB_IDENTITY_TOKEN_FILE
    with AWS_ROLE_ARN, a container's or machine's role. Raises StorageError where there are none.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = _chain()
        frozen = None if found is None else found.get_frozen_credentials()
    except (BotoCoreError, ClientError, OSError) as error:
        # Not chained: an answer may repeat what was sent.
        told = str(error).strip().split("\n", 1)[0]
        raise StorageError(f"s3: keys cannot be had: {told}") from None
    if frozen is None:
        raise StorageError(
            "s3: there are no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
            "or AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN; for a public bucket, "
            "AWS_SKIP_SIGNATURE=true"
        )
    until = dt.datetime.now(dt.UTC) + ASK_AGAIN_AFTER
    return Keys(frozen.access_key, frozen.secret_key, frozen.token or None, until)


def on_s3(url: str | Path) -> bool:
    """Return whether a URL or path is an object's.

    >>> on_s3("s3://bucket/a"), on_s3("/data/a")
    (True, False)
    """
    return str(url).startswith("s3://")


def split(url: str) -> tuple[str, str]:
    """Return bucket and prefix of an s3:// URL.

    >>> split("s3://bucket/cubes/lakes/")
    ('bucket', 'cubes/lakes')
    """
    if names_user(url):
        raise StorageError(f"{CREDENTIALS_ELSEWHERE}, got {url}")
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise StorageError(f"expected s3://bucket/path, got {parts.scheme}://{parts.netloc}")
    return parts.netloc, parts.path.strip("/")


def touch(url: str) -> None:
    """Ask a bucket for anything at all, so that what is wrong is told at once and in words.

    Raises StorageError where there is no such bucket, nothing answers or keys are refused. That
    listing is not allowed is no failure: who only reads may do without.
    """
    bucket, prefix = split(url)
    try:
        until_whole(lambda: obstore.list_with_delimiter(bucket_store(bucket), prefix))
    except (FileNotFoundError, BaseError) as error:
        if _code(str(error)) not in ("AccessDenied", "AllAccessDisabled"):
            raise StorageError(f"s3://{bucket}: {reason(error)}") from None


def names_under(url: str) -> Iterator[str]:
    """Yield the names of the objects under a URL, from there on. Raises StorageError."""
    bucket, prefix = split(url)
    seen: str | None = None
    for is_last in tries():
        try:
            for page in obstore.list(bucket_store(bucket), prefix, offset=seen):
                for found in page:
                    seen = found["path"]
                    yield seen.removeprefix(f"{prefix}/")
        except (FileNotFoundError, BaseError) as error:
            if is_last or not _is_broken_off(error):
                raise StorageError(f"{url} cannot be listed: {reason(error)}") from None
        else:
            return


def read_object(url: str) -> bytes:
    """Return the bytes of an object.

    Raises FileNotFoundError where there is none, StorageError where it cannot be read.
    """
    bucket, key = split(url)
    try:
        return until_whole(lambda: bytes(obstore.get(bucket_store(bucket), key).bytes()))
    except (FileNotFoundError, BaseError) as error:
        # Some stores answer 404 to a key of nobody, too.
        if isinstance(error, FileNotFoundError) and _code(str(error)) not in MEANINGS:
            raise FileNotFoundError(url) from None
        raise StorageError(f"{url} cannot be read: {reason(error)}") from None


def until_whole[T](ask: Callable[[], T]) -> T:
    """Return what a request gives, made again where its answer broke off on the way.

    What else fails raises obstore's own error, after obstore's own tries.
    """
    for is_last in tries():
        try:
            return ask()
        except BaseError as error:
            if is_last or not _is_broken_off(error):
                raise
    raise AssertionError("unreachable")


def tries() -> Iterator[bool]:
    """Yield for each time that a request is made, until one succeeds: whether it is the last.

    Waits between them, longer each time, and seldom as long as others.
    """
    for attempt in range(1, MAX_TRIES):
        yield False
        time.sleep(random.uniform(0.5, 1) * min(0.1 * 2**attempt, 15.0))  # noqa: S311
    yield True


def write_object(url: str, content: bytes | Path) -> None:
    """Write an object, whatever is there. Raises StorageError."""
    bucket, key = split(url)
    try:
        obstore.put(bucket_store(bucket), key, content)
    except (FileNotFoundError, BaseError) as error:
        raise StorageError(f"{url} cannot be written: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """Return what a store's failure means and what to do, without what was signed or sent.

    Understands the messages of obstore and of Icechunk.

    >>> reason(OSError("service error: NoSuchBucket: The specified bucket does not exist."))
    'there is no such bucket: make it, or correct the name'
    """
    text = str(error)
    if own := re.search(r"StorageError: (s3: [^\n]*)", text):
        return own[1].strip('"')
    code = _code(text)
    if code in MEANINGS:
        return MEANINGS[code]
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "the store refused us: check the keys in the environment and the bucket's policy"
    if re.search(r"kind: Connect|dispatch failure|dns error|tcp connect", text):
        where = settings().endpoint or f"AWS in {settings().region}"
        return f"nothing answers at {where}: check AWS_ENDPOINT_URL and the network"
    status = STATUS.search(text)
    told = code or (f"status {status[1]}" if status else type(error).__name__)
    return f"the store failed ({told}): check endpoint, region and network"


def status_of(error: BaseException) -> str:
    """Return the HTTP status that a failure tells of: its number, `connection` or `other`.

    >>> status_of(OSError("Server returned non-2xx status code: 503 Service Unavailable"))
    '503'
    """
    text = str(error)
    if status := STATUS.search(text):
        return status[1]
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "403" if isinstance(error, PermissionDeniedError) else "401"
    return "connection" if re.search(PASSING_SIGNS, text, re.IGNORECASE) else "other"


def is_passing(error: BaseException) -> bool:
    """Return whether a failure of obstore or Icechunk may be over when it is tried again.

    >>> is_passing(OSError("Server returned non-2xx status code: 503 Service Unavailable"))
    True
    """
    text = str(error)
    if status := STATUS.search(text):
        return int(status[1]) in PASSING or int(status[1]) >= 500
    return bool(re.search(PASSING_SIGNS, text, re.IGNORECASE))


def _is_broken_off(error: BaseException) -> bool:
    """Whether a body ended early: of what may pass, obstore tries all but this again itself."""
    return is_passing(error) and not re.search(r"after \d+ retries", str(error))


def _code(text: str) -> str:
    found = re.search(r'(?:<Code>|code: "|service error: |unhandled error \()([A-Z]\w+)', text)
    return found[1] if found else ""


def _obstore_keys() -> "S3Credential":
    found = keys()
    return {
        "access_key_id": found.key_id,
        "secret_access_key": found.secret,
        "token": found.token,
        "expires_at": found.until,
    }


@cache
def _chain() -> "Credentials | None":
    from botocore.session import Session

    return Session().get_credentials()
