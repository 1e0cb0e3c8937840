"""A body counts when it has come whole and not before; over real sockets, because servers differ in this."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from sllm_tasks.config import Settings
from tests.support.web import MODEL, Web
from tests.support.web_server import WebServer

_LIMIT = 2048
_JOB = json.dumps({"model": MODEL, "input": {"prompt": "one two"}}).encode()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with a limit that is soon reached."""
    return settings.model_copy(update={"max_body_bytes": _LIMIT})


@pytest.fixture
def server(settings: Settings, web: Web) -> Iterator[WebServer]:
    """A real server over the same ledger and live state."""
    assert web.services.settings is settings
    with WebServer(settings) as running:
        yield running


def _send(server: WebServer, web: Web, framing: str, rest: bytes) -> tuple[int, str]:
    """Post a job with these bytes for a body, close our side, and read the status and the code of the answer."""
    address = urlsplit(server.url)
    assert address.port is not None
    head = (
        f"POST /api/v1/jobs HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {web.api_key}\r\n"
        f"Content-Type: application/json\r\n{framing}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", address.port), timeout=30) as connection:
        connection.sendall(head.encode())
        # The server may have answered and gone before it has heard all.
        with contextlib.suppress(OSError):
            connection.sendall(rest)
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            answer = stream.read()
    top, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body) if body.startswith(b"{") else {}
    return int(top.split()[1]), document.get("code", "")


def _chunks(body: bytes, size: int = 500) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def _num_jobs(web: Web) -> int:
    return len(web.http.get("/api/v1/jobs", headers=web.auth).json["data"])


_CHUNKED = "Transfer-Encoding: chunked"


def test_a_body_in_chunks_is_taken_up_to_the_limit_and_not_beyond_it(server: WebServer, web: Web) -> None:
    assert _send(server, web, _CHUNKED, _chunks(_JOB.ljust(_LIMIT)) + b"0\r\n\r\n")[0] == 202
    # What is within the limit is a job by itself, so that cutting the rest off would go unnoticed.
    for length in (_LIMIT + 1, 8 * _LIMIT, 100 * _LIMIT):
        refused = _send(server, web, _CHUNKED, _chunks(_JOB.ljust(length)) + b"0\r\n\r\n")
        assert refused == (413, "body_too_large"), length
    assert _num_jobs(web) == 1


def test_a_body_of_known_length_is_taken_up_to_the_limit_and_not_beyond_it(server: WebServer, web: Web) -> None:
    for length, status in ((_LIMIT, 202), (_LIMIT + 1, 413)):
        assert _send(server, web, f"Content-Length: {length}", _JOB.ljust(length))[0] == status
    assert _num_jobs(web) == 1


def test_a_body_that_breaks_off_is_not_taken_for_the_whole(server: WebServer, web: Web) -> None:
    broken = {
        "without the last chunk": (_CHUNKED, _chunks(_JOB)),
        "within a chunk": (_CHUNKED, _chunks(_JOB) + b"ff\r\n    "),
        "within the last chunk": (_CHUNKED, _chunks(_JOB) + b"0\r\n"),
        "with a chunk that is none": (_CHUNKED, _chunks(_JOB) + b"zz\r\n\r\n"),
        "with a chunk of another length": (_CHUNKED, _chunks(_JOB) + b"1\r\n    \r\n0\r\n\r\n"),
        "before its length": (f"Content-Length: {len(_JOB) + 10}", _JOB),
    }
    for case, (framing, rest) in broken.items():
        assert _send(server, web, framing, rest)[0] == 400, case
    assert _num_jobs(web) == 0
