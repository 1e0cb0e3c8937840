"""Serve a node's checkpoints to the agents of other nodes over HTTP; requests are signed by the cluster's secret."""

from __future__ import annotations

import hmac
import logging
import os
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

from sllm_tasks.config import Settings
from sllm_tasks.errors import ModelUnusableError
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.peers.paths import MAC_HEADER, PeerPath, mac

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
#: One range, both ends given: all that a fetch asks for.
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})")


class PeerServer:
    """Serves `/checkpoints/<digest>/<file>` of a store; started and stopped with its agent."""

    def __init__(self, settings: Settings, store: CheckpointStore, secret: str) -> None:
        class Handler(_Handler):
            pass

        Handler.store, Handler.secret = store, secret
        self._server = _Server((settings.node_host, settings.node_port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="peer-server", daemon=True)
        host = f"[{settings.node_host}]" if ":" in settings.node_host else settings.node_host
        self.url = f"http://{host}:{self._server.server_port}"

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Every load from here opens eight connections at once.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)


class _Handler(BaseHTTPRequestHandler):
    store: CheckpointStore
    secret: str
    timeout = _TIMEOUT_S
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # As bytes: of text it compares ASCII alone.
        shown = self.headers.get(MAC_HEADER, "").encode()
        if not hmac.compare_digest(shown, mac(self.secret, self.path).encode()):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = PeerPath.parse(self.path)
        try:
            if path is None:
                raise FileNotFoundError
            # Without following a link, as the loader opens it.
            opened = os.open(self.store.path(path.digest) / path.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (ModelUnusableError, OSError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with os.fdopen(opened, "rb") as file:
            self._send(file, os.fstat(opened).st_size)

    def _send(self, file: BinaryIO, file_bytes: int) -> None:
        begin, end = 0, file_bytes
        if (wanted := self.headers.get("Range")) is not None:
            found = _RANGE.fullmatch(wanted)
            if found is None or not int(found[1]) <= int(found[2]) < file_bytes:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{file_bytes}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin, end = int(found[1]), int(found[2]) + 1
        self.send_response(HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Length", str(end - begin))
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{file_bytes}")
        self.end_headers()
        if end > begin:
            self.connection.sendfile(file, begin, end - begin)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        logger.debug(format, *args)
