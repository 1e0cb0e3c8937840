"""One POST to somebody else's server: to the address that was checked, within a time limit, without redirects."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from sllm_tasks.networks import Networks
from sllm_tasks.webhooks.addresses import resolve

#: For the whole exchange; Standard Webhooks recommends 15 to 30 s.
TIMEOUT_S: Final = 15.0
_PORTS: Final = {"http": 80, "https": 443}
_FIXED_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "sllm-tasks", "Connection": "close"}


class PostError(Exception):
    """No status came back; the message says why."""


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Networks, *, timeout_s: float = TIMEOUT_S) -> int:
    """Send JSON and return the status of the answer, of which nothing else is read; raises PostError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        # Connected by us: the name is not looked up a second time, and no proxy of the environment is asked.
        connected = socket.create_connection((resolve(host, port, allowed), port), timeout=timeout_s)
        with _prepared(connected, parts.scheme, host) as sock, _limited(sock, timeout_s):
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection = http.client.HTTPConnection(host, port)
            connection.sock = sock
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", target, body, {**_FIXED_HEADERS, "Host": parts.netloc, **headers})
            with connection.getresponse() as response:
                return response.status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PostError(f"{type(error).__name__}: {error}") from error


def _prepared(connected: socket.socket, scheme: str, host: str) -> socket.socket:
    if scheme == "http":
        return connected
    context = ssl.create_default_context()
    return context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)


@contextmanager
def _limited(sock: socket.socket, timeout_s: float) -> Iterator[None]:
    """Cut a connection off after a time: a socket's own timeout is one of each read, which slow bytes never meet."""

    def cut() -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, cut)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
