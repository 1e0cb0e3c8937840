"""An HTTP server of a folder that does what servers on the way do: ranges, breaking off, wrong bytes, refusals."""

from __future__ import annotations

import os
import re
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import unquote, urlsplit

_BLOCK_BYTES = 1 << 16


class FileServer:
    """A context manager. What tests set while it runs holds from the next request on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.has_ranges = True
        #: Bytes after which every body breaks off; None for whole ones.
        self.break_off_after: int | None = None
        #: How many requests for a name are to be answered with a status, and which.
        self.failures: dict[str, tuple[int, int]] = {}
        #: How many bodies of a name are to be wrong in one byte.
        self.wrong_bodies: Counter[str] = Counter()
        #: Where to look instead, by name.
        self.redirects: dict[str, str] = {}
        #: Called before a range of a name is sent, in the thread that does.
        self.before_range: Callable[[str, int], None] | None = None
        #: Whether files have an ETag.
        self.has_versions = True
        #: Name, first byte and number of bytes of each body, and the headers of all requests.
        self.requests: list[tuple[str, int, int]] = []
        self.headers: list[dict[str, str]] = []
        self.sent_bytes: Counter[str] = Counter()
        #: Connections that were made, and those that are open.
        self.num_connections = 0
        self.num_open = 0
        self.lock = threading.Lock()

        class Handler(_Handler):
            server_state = self

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def wrap_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS with connections from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def sent_of(self, suffix: str) -> int:
        """Bytes of bodies of all files whose names end so."""
        return sum(count for name, count in self.sent_bytes.items() if name.endswith(suffix))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of tests go away without a word."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server_state: FileServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        with self.server_state.lock:
            self.server_state.num_connections += 1
            self.server_state.num_open += 1

    def finish(self) -> None:
        super().finish()
        with self.server_state.lock:
            self.server_state.num_open -= 1

    def do_GET(self) -> None:
        state = self.server_state
        name = unquote(urlsplit(self.path).path).lstrip("/")
        state.headers.append(dict(self.headers))
        if name in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[name])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        num_left, status = state.failures.get(name, (0, 0))
        path = state.root / name
        if num_left:
            state.failures[name] = (num_left - 1, status)
            self._refuse(status)
        elif not path.is_file():
            self._refuse(404)
        else:
            with path.open("rb") as file:
                self._send(name, file)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name: str, file: BinaryIO) -> None:
        state = self.server_state
        status = os.fstat(file.fileno())
        num_bytes = status.st_size
        begin, end = 0, num_bytes
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if state.has_ranges else None
        if match is not None:
            begin, end = int(match[1]), min(int(match[2]) + 1, num_bytes)
            if begin >= num_bytes:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{num_bytes}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        state.requests.append((name, begin, end - begin))
        if state.before_range is not None:
            state.before_range(name, begin)
        self.send_response(200 if match is None else 206)
        if match is not None:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{num_bytes}")
        if state.has_versions:
            self.send_header("ETag", f'"{status.st_ino}-{num_bytes}-{status.st_mtime_ns}"')
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        file.seek(begin)
        self._send_body(name, bytearray(file.read(end - begin)))

    def _send_body(self, name: str, part: bytearray) -> None:
        state = self.server_state
        with state.lock:
            # Questions for one byte stay as they are.
            is_wrong = len(part) > 1 and state.wrong_bodies[name] > 0
            state.wrong_bodies[name] -= is_wrong
        if is_wrong:
            part[-1] ^= 1
        limit = len(part) if state.break_off_after is None else min(state.break_off_after, len(part))
        try:
            for offset in range(0, limit, _BLOCK_BYTES):
                block = memoryview(part)[offset : min(offset + _BLOCK_BYTES, limit)]
                self.wfile.write(block)
                with state.lock:
                    state.sent_bytes[name] += len(block)
        except OSError:
            self.close_connection = True
            return
        self.close_connection = self.close_connection or limit < len(part)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Tests read `requests`."""
