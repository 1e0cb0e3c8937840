"""What the web process does about the network it listens on: TLS, and clients that stall."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from sllm_tasks.config import Settings
from tests.support.tls import Certificate
from tests.support.web_server import WebServer
from webapp.stalled import limit_stalls


def test_with_a_certificate_it_speaks_https_and_nothing_else(settings: Settings, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    given = {"tls_certificate": certificate.path, "tls_key": certificate.key_path}
    with WebServer(settings.model_copy(update=given)) as server:
        assert httpx2.get(f"{server.url}/readyz", verify=server.trust).json() == {"status": "ready"}
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/healthz", verify=ssl.create_default_context())
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http{server.url.removeprefix('https')}/healthz")


@pytest.fixture
def stalled() -> Iterator[socket.socket]:
    """A server's side of a connection whose client neither reads nor sends, blocking as gunicorn makes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit_stalls(listener, 0.1)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            connection.setblocking(True)
            yield connection


def test_a_client_that_does_not_go_on_with_its_request_holds_no_thread(stalled: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        stalled.recv(1)


def test_a_reader_that_does_not_read_holds_no_thread(stalled: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        stalled.sendall(bytes(64 << 20))
