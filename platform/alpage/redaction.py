"""What must not be told: credentials, in addresses and as the environment holds them."""

import os
import re
from functools import cache

# What ends a sentence is none of its URL.
URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]*[^\s'\"<>:,.;)\]]")
# Of a request's target, which libraries tell apart from its host.
QUERY = re.compile(r"(?<=[\w/.])\?[\w.%~-]+=[^\s'\"<>]*[^\s'\"<>:,.;)\]]")
# Keys of AWS hold slashes, which a URL would have to escape.
USER = re.compile(r"(?<=://)[^\s/@:]+:(?!\d+/)[^\s@]*@")
# Values shorter than this would be found in words.
SHORTEST = 8
SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|API_KEY|AUTH_STRING", re.IGNORECASE)

CREDENTIALS_ELSEWHERE = (
    "expected an address without user and password; give them by the environment"
)


def safe_name(href: str) -> str:
    """Return the href without user, password, query or fragment, for messages.

    >>> safe_name("https://me:pw@host/a.tif?sig=secret")
    'https://host/a.tif'
    """
    bare = re.split(r"[?#]", href, maxsplit=1)[0]
    bare = re.sub(r"^([A-Za-z][\w+.-]*://)[^/]*@", r"\1", bare)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in bare)[:300]


def names_user(href: str) -> bool:
    """Return whether a URL holds a user or a password.

    >>> names_user("s3://me:p/w@bucket/a"), names_user("s3://bucket/me:pw@a")
    (True, False)
    """
    return bool(USER.search(href) or re.match(r"[A-Za-z][\w+.-]*://[^/?#]*@", href))


def redact(text: str) -> str:
    """Return a text without the credentials of its URLs and those in the environment.

    >>> redact("GET https://me:pw@host/a.tif?sig=secret failed")
    'GET https://host/a.tif failed'
    >>> redact("Retrying: /v1/search?api_key=secret&sig=xyz")
    'Retrying: /v1/search'
    """
    text = URL.sub(lambda found: safe_name(found[0]), USER.sub("", text))
    text = QUERY.sub("", text)
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


@cache
def _secrets() -> tuple[str, ...]:
    """Values of variables named like a secret, the longest first; files are only named there."""
    values = {
        value
        for name, value in os.environ.items()
        if SECRET_VARIABLE.search(name) and not name.upper().endswith("_FILE")
    }
    return tuple(sorted((one for one in values if len(one) >= SHORTEST), key=len, reverse=True))
