"""`http://` and `https://`: parts of files by requests for ranges, read straight into the memory they are meant for."""

from __future__ import annotations

import string
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import quote, urljoin

from loaders.errors import RemoteError
from loaders.remote.connections import TIMEOUT_S, Answer, Connections
from loaders.remote.http_answers import check_part, raise_for_status, read_file
from loaders.remote.transport import RemoteFile
from loaders.remote.url import RemoteUrl, parse_url

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation


class HttpTransport:
    """Files below a URL, or wherever `locate` says that they are right now."""

    def __init__(
        self,
        url: RemoteUrl,
        *,
        locate: Callable[[str], RemoteUrl] | None = None,
        sign: Callable[[str], dict[str, str]] | None = None,
        use_proxies: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`locate` gives the address of a file for one request; it may carry a signature that expires.

        `sign` gives headers for a request by its target, which a redirect does not get.
        """
        self._url = url
        self._locate = locate or url.member
        self._sign = sign or (lambda _: {})
        self._connections = Connections(timeout_s, use_proxies=use_proxies)

    def stat(self, name: str) -> RemoteFile:
        """Ask for the first byte: that also shows whether the server knows ranges, and works where HEAD does not."""
        where = self._where(name)
        with self._get(name, "bytes=0-0") as answer:
            file = read_file(answer, name, where)
            if answer.status == HTTPStatus.PARTIAL_CONTENT:
                # A body that was read lets the connection be kept.
                answer.readinto(memoryview(bytearray(1)))
            return file

    def open(self, file: RemoteFile, offset: int, num_bytes: int) -> Answer:
        """Ask for a range, or for the whole file where there are none."""
        answer = self._get(file.name, f"bytes={offset}-{offset + num_bytes - 1}" if file.has_ranges else None)
        try:
            check_part(answer, file, offset if file.has_ranges else 0)
        except BaseException:
            answer.close()
            raise
        return answer

    def abort(self) -> None:
        """Cut off all connections."""
        self._connections.abort()

    def close(self) -> None:
        """Close what is idle."""
        self._connections.close()

    def _where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _get(self, name: str, byte_range: str | None) -> Answer:
        url = self._locate(name)
        signature = self._sign(url.target)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._connections.get(url, _headers(url, byte_range) | signature)
            try:
                if answer.status not in _REDIRECTS:
                    raise_for_status(answer, self._where(name))
                    return answer
                target = answer.header("Location")
            except BaseException:
                answer.close()
                raise
            answer.close()
            url, signature = self._redirected(url, target, self._where(name)), {}
        raise RemoteError(f"{self._where(name)}: more than {_MAX_REDIRECTS} redirects")

    @staticmethod
    def _redirected(url: RemoteUrl, target: str | None, where: str) -> RemoteUrl:
        """Where a redirect leads; user and password do not go along."""
        if not target:
            raise RemoteError(f"{where}: a redirect without a target")
        # `http.client` reads headers as Latin-1. What should have been escaped and was not, often UTF-8, is now.
        escaped = quote(target.encode("latin-1"), safe=_PRINTABLE)
        address = parse_url(urljoin(f"{url.scheme}://{url.host}{url.target}", escaped))
        if address.scheme not in {"http", "https"} or (url.scheme == "https" and address.scheme == "http"):
            raise RemoteError(f"{where}: redirected from {url.scheme} to {address.scheme}, which is refused")
        return address


def _headers(url: RemoteUrl, byte_range: str | None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "sllm-tasks"}
    if byte_range is not None:
        headers["Range"] = byte_range
    if url.user is not None:
        credentials = b64encode(f"{url.user}:{url.password or ''}".encode()).decode("ascii")
        headers["Authorization"] = f"Basic {credentials}"
    return headers
