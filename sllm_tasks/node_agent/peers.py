"""Checkpoints from node to node over HTTP; every request is signed with the cluster's secret."""

from __future__ import annotations

import hashlib
import hmac
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, ModelUnusableError, UnavailableError
from sllm_tasks.node_agent.files import is_checkpoint_file
from sllm_tasks.node_agent.store import CheckpointStore, is_digest

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_TIMEOUT_S = 30.0
_BLOCK_BYTES = 1 << 20


def _mac(secret: str, path: str) -> str:
    return hmac.new(secret.encode(), b"sllm-peer\0" + path.encode(), hashlib.sha256).hexdigest()


class PeerServer:
    """Serves `/checkpoints/<digest>/<file>` of a store; started and stopped with its agent."""

    def __init__(self, settings: Settings, store: CheckpointStore, secret: str) -> None:
        class Handler(_Handler):
            pass

        Handler.store, Handler.secret = store, secret
        self._server = ThreadingHTTPServer((settings.node_host, settings.node_port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="peer-server", daemon=True)
        self.url = f"http://{settings.node_host}:{self._server.server_port}"

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: CheckpointStore
    secret: str
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        parts = self.path.split("/")
        authorized = hmac.compare_digest(self.headers.get("X-Sllm-Mac", ""), _mac(self.secret, self.path))
        if not authorized:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        if len(parts) != 4 or parts[1] != "checkpoints" or not is_digest(parts[2]) or not _may_be_sent(parts[3]):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            file = (self.store.path(parts[2]) / parts[3]).open("rb")
        except (ModelUnusableError, OSError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            num_bytes = file.seek(0, 2)
            file.seek(0)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(num_bytes))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, _BLOCK_BYTES)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        logger.debug(format, *args)


def _may_be_sent(name: str) -> bool:
    return name == _MANIFEST or is_checkpoint_file(name)


def fetch_checkpoint(
    url: str, digest: str, store: CheckpointStore, secret: str, progress: Callable[[int], None]
) -> None:
    """Copy a checkpoint from a peer into the store; every file is checked against the digest before it is published.

    Raises:
        UnavailableError: The peer does not answer, or breaks off.
        ModelUnusableError: What came is not that checkpoint, or the disk is full.

    """
    done_bytes = 0
    try:
        with httpx2.Client(base_url=url, timeout=_TIMEOUT_S) as client:
            path = f"/checkpoints/{digest}/{_MANIFEST}"
            manifest = client.get(path, headers={"X-Sllm-Mac": _mac(secret, path)}).raise_for_status().json()
            expected = {str(name): str(value) for name, value in manifest["files"].items()}
            if not all(is_checkpoint_file(name) for name in expected):
                raise ModelUnusableError(ErrorCode.CHECKPOINT_CORRUPT, f"the manifest of {digest} names other files")
            with store.receiving(int(manifest["num_bytes"])) as folder:
                received: dict[str, str] = {}
                for name in expected:
                    blocks = _blocks(client, secret, digest, name)
                    for num_bytes in store.write_file(folder / name, blocks, received):
                        done_bytes += num_bytes
                        progress(done_bytes)
                store.publish_received(folder, digest, received)
    except (httpx2.HTTPError, ValueError, KeyError) as error:
        raise UnavailableError(f"{url} did not deliver checkpoint {digest}: {error}") from error


def _blocks(client: httpx2.Client, secret: str, digest: str, name: str) -> Iterator[bytes]:
    path = f"/checkpoints/{digest}/{name}"
    with client.stream("GET", path, headers={"X-Sllm-Mac": _mac(secret, path)}) as response:
        response.raise_for_status()
        yield from response.iter_bytes(_BLOCK_BYTES)
