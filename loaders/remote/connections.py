"""HTTP connections that are kept for the next request, and that another thread can cut off."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from loaders.errors import LoadCanceledError, RemoteError, RemoteUnavailableError
from loaders.remote.proxies import Proxy, proxy_of
from loaders.remote.url import RemoteUrl

#: How long a server may say nothing before it counts as lost.
TIMEOUT_S: Final = 30.0
#: What a lost connection looks like; a proxy may break one off, or answer nonsense, before it leads anywhere.
_LOST = (OSError, http.client.HTTPException)


@dataclass(slots=True, eq=False)
class _Link:
    """A connection, and its socket: `http.client` forgets that one early when the server closes behind its answer."""

    origin: tuple[str, str]
    connection: http.client.HTTPConnection
    socket: socket.socket
    #: What is put before the path when a proxy is asked in plain HTTP.
    prefix: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Connections:
    """All connections of one download. `abort` wakes up whoever waits for one of them."""

    def __init__(self, timeout_s: float = TIMEOUT_S, *, use_proxies: bool = True) -> None:
        self._timeout_s = timeout_s
        self._use_proxies = use_proxies
        # Guarded by the lock: links that wait for a request, links with one, and whether it is all over.
        self._lock = threading.Lock()
        self._idle: list[_Link] = []
        self._busy: set[_Link] = set()
        self._aborted = False

    def get(self, url: RemoteUrl, headers: dict[str, str]) -> Answer:
        """Send a GET; raises RemoteUnavailableError, or RemoteError for what trying again will not mend."""
        while True:
            link, is_fresh = self._take(url)
            try:
                link.connection.request("GET", link.prefix + url.target, headers={**headers, **link.headers})
                return Answer(self, link, link.connection.getresponse(), str(url))
            except _LOST as error:
                self._drop(link)
                self._check_not_aborted()
                # A kept connection may have been closed by the server meanwhile; that says nothing of a new one.
                if is_fresh or isinstance(error, TimeoutError):
                    raise lost(str(url), error) from error

    def abort(self) -> None:
        """Cut off everything, now and from now on."""
        with self._lock:
            self._aborted = True
            links = [*self._idle, *self._busy]
        for link in links:
            try:
                # Of the class itself: TLS would take its object away from under a thread that reads.
                socket.socket.shutdown(link.socket, socket.SHUT_RDWR)
            except OSError:
                continue  # lost already

    def close(self) -> None:
        """Close what waits; idempotent."""
        with self._lock:
            links, self._idle = self._idle, []
        for link in links:
            link.connection.close()

    def give_back(self, link: _Link, *, is_reusable: bool) -> None:
        """End the use of a link."""
        with self._lock:
            self._busy.discard(link)
            if is_reusable and not self._aborted:
                self._idle.append(link)
                return
        link.connection.close()

    def _drop(self, link: _Link) -> None:
        self.give_back(link, is_reusable=False)

    def _take(self, url: RemoteUrl) -> tuple[_Link, bool]:
        self._check_not_aborted()
        origin = (url.scheme, url.host)
        with self._lock:
            for position, link in enumerate(self._idle):
                if link.origin == origin:
                    self._busy.add(self._idle.pop(position))
                    return link, False
        link = _connect(url, proxy_of(url) if self._use_proxies else None, self._timeout_s)
        with self._lock:
            self._busy.add(link)
            # Whoever aborted while this was being made did not see it.
            is_late = self._aborted
        if is_late:
            self._drop(link)
            self._check_not_aborted()
        return link, True

    def _check_not_aborted(self) -> None:
        if self._aborted:
            raise LoadCanceledError("the download was stopped")


class Answer:
    """A response whose head has arrived; a context manager that gives its connection back."""

    def __init__(self, connections: Connections, link: _Link, response: http.client.HTTPResponse, where: str) -> None:
        self._connections = connections
        self._link = link
        self._response = response
        self._where = where
        self.status = response.status

    def header(self, name: str) -> str | None:
        """Value of a header."""
        return self._response.getheader(name)

    def readinto(self, memory: memoryview) -> int:
        """Read some of the body; 0 at its end."""
        try:
            return self._response.readinto(memory)
        except _LOST as error:
            raise lost(self._where, error) from error

    def close(self) -> None:
        """Keep the connection if all of the body was read."""
        is_reusable = self._response.isclosed() and not self._response.will_close
        self._response.close()
        self._connections.give_back(self._link, is_reusable=is_reusable)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lost(where: str, error: Exception) -> RemoteUnavailableError:
    """Name what broke a connection."""
    if isinstance(error, TimeoutError):
        return RemoteUnavailableError(f"{where}: no answer in time")
    return RemoteUnavailableError(f"{where}: the connection broke off: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _connect(url: RemoteUrl, proxy: Proxy | None, timeout_s: float) -> _Link:
    address, headers = url.host, {}
    if proxy is not None:
        address, headers = proxy.host, proxy.headers
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(address, timeout=timeout_s)
    if proxy is not None and url.scheme == "https":
        connection.set_tunnel(url.host, headers=headers)
        headers = {}
    try:
        connection.connect()
    except _LOST as error:
        connection.close()
        raise _not_connected(url, error) from error
    prefix = f"http://{url.host}" if proxy is not None and url.scheme == "http" else ""
    return _Link((url.scheme, url.host), connection, connection.sock, prefix, headers)


def _not_connected(url: RemoteUrl, error: Exception) -> RemoteError:
    if isinstance(error, ssl.SSLError):
        what = getattr(error, "verify_message", None) or error.reason or str(error)
        return RemoteError(f"{url}: TLS: {what}")
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return RemoteError(f"{url}: unknown host: {error.strerror}")
    if isinstance(error, TimeoutError):
        return RemoteUnavailableError(f"{url}: no connection in time")
    return RemoteUnavailableError(f"{url}: no connection: {_reason(error)}")
