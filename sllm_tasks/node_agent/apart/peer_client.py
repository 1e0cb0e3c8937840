"""Read ranges of a checkpoint's files from the agents of other nodes, straight into the memory they are for."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from sllm_tasks.errors import ErrorCode, SllmError
from sllm_tasks.node_agent.peer_paths import MAC_HEADER, PeerPath, mac

_TIMEOUT_S = 30.0


class PeerError(SllmError):
    """A peer does not answer, breaks off, or does not have what it was asked for."""

    code = ErrorCode.UNAVAILABLE
    retryable = True


@dataclass(frozen=True, slots=True)
class Peer:
    """The agent of another node."""

    url: str
    secret: str

    def open(self) -> PeerConnection:
        """Make a connection, for one thread."""
        return PeerConnection(self)


class PeerConnection:
    """Stays open from request to request; opened again after an error."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        address = urlsplit(peer.url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_S)

    def read(self, path: PeerPath, *, max_bytes: int) -> bytes:
        """Read a small file; raises PeerError."""
        response = self._get(path, {}, HTTPStatus.OK)
        try:
            data = response.read(max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(path, error) from error
        if len(data) > max_bytes:
            self.close()
            raise PeerError(f"{self._peer.url}{path}: more than {max_bytes} bytes")
        return data

    def read_into(self, path: PeerPath, memory: memoryview, offset: int) -> None:
        """Fill memory with the bytes of a file from an offset on; raises PeerError."""
        wanted = f"bytes={offset}-{offset + len(memory) - 1}"
        response = self._get(path, {"Range": wanted}, HTTPStatus.PARTIAL_CONTENT)
        done = 0
        try:
            while done < len(memory) and (count := response.readinto(memory[done:])):
                done += count
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(path, error) from error
        if done < len(memory) or response.read(1):
            self.close()
            raise PeerError(f"{self._peer.url}{path}: not the {len(memory)} bytes at {offset}")

    def close(self) -> None:
        """Close it; the next request opens it again."""
        self._connection.close()

    def _get(self, path: PeerPath, headers: dict[str, str], expected: HTTPStatus) -> http.client.HTTPResponse:
        signed = {MAC_HEADER: mac(self._peer.secret, str(path)), **headers}
        try:
            self._connection.request("GET", str(path), headers=signed)
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(path, error) from error
        if response.status != expected:
            self.close()
            raise PeerError(f"{self._peer.url}{path}: {response.status} {response.reason}")
        return response

    def _broken(self, path: PeerPath, error: Exception) -> PeerError:
        self.close()
        return PeerError(f"{self._peer.url}{path}: {type(error).__name__}: {error}")


class PeerConnections:
    """Connections of several threads to several peers: each thread has its own to each peer."""

    def __init__(self, peers: tuple[Peer, ...]) -> None:
        self.peers = peers
        # By thread and peer; the lock is for the table.
        self._lock = threading.Lock()
        self._opened: dict[tuple[int, Peer], PeerConnection] = {}

    def of(self, peer: Peer) -> PeerConnection:
        """Return the calling thread's connection to a peer."""
        with self._lock:
            return self._opened.setdefault((threading.get_ident(), peer), peer.open())

    def close(self) -> None:
        """Close all connections; no thread may use one any more."""
        for connection in self._opened.values():
            connection.close()
