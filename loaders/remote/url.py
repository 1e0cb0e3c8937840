"""Where a remote checkpoint is: a URL whose secrets reach no message and no log."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from loaders.errors import UrlError

#: What a remote checkpoint may be behind.
SCHEMES = ("file", "http", "https", "s3")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
#: What a path may hold as it is; a percent sign begins something that is escaped already.
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RemoteUrl:
    """A URL in parts. As text it lacks user, password and query, any of which may be a secret."""

    scheme: str
    #: With the port, if one was given.
    host: str
    #: Escaped, without a slash at the end.
    path: str
    query: str = ""
    user: str | None = None
    password: str | None = None

    @property
    def target(self) -> str:
        """Path and query, as they go over the wire."""
        return (self.path or "/") + (f"?{self.query}" if self.query else "")

    @property
    def plain_path(self) -> str:
        """The path without escapes."""
        return unquote(self.path)

    def member(self, name: str) -> RemoteUrl:
        """The URL of a file below this one; a signature in the query goes along."""
        return replace(self, path=f"{self.path}/{quote(name)}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"

    def __repr__(self) -> str:
        return f"<RemoteUrl {self}>"


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL rather than as a path."""
    return _URL.match(text) is not None


def parse_url(text: str) -> RemoteUrl:
    """Take a URL apart; raises UrlError, which does not repeat it, for one that cannot be read."""
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    match = _URL.match(text)
    if match is None or match[1].lower() not in SCHEMES:
        kind = "no URL" if match is None else f"a URL of the kind {match[1].lower()}"
        raise UrlError(f"{kind}, expected one that begins with {known}")
    if not text.isprintable() or " " in text:
        raise UrlError("the URL has blanks or control characters, expected them to be escaped")
    try:
        parts = urlsplit(text)
        port = parts.port
        # As it will be looked up.
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise UrlError("the URL has a host or port that makes no sense") from error
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme == "file" and host not in {"", "localhost"}:
        raise UrlError("a file:// URL names another host, expected file:///path")
    if scheme in {"file", "s3"} and ("?" in text or "#" in text):
        raise UrlError("the URL has a ? or a #, expected them to be escaped: %3F, %23")
    if scheme != "file" and not host:
        raise UrlError("the URL names no host")
    if ":" in host:
        host = f"[{host}]"
    return RemoteUrl(
        scheme=scheme,
        host="" if scheme == "file" else host + (f":{port}" if port is not None else ""),
        path=quote(parts.path.rstrip("/"), safe=_PATH_CHARACTERS),
        # A signature stays as it is.
        query=quote(parts.query, safe=string.printable),
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
