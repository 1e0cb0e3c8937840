"""A checkpoint that several nodes have: each part is asked of one of them, and of the next one if that fails."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from loaders.errors import CheckpointCorruptError, LoadCanceledError, LoaderError, RemoteError, RemoteUnavailableError
from loaders.format.geometry import CHUNK_BYTES
from loaders.remote.http_transport import HttpTransport
from loaders.remote.transport import Body, RemoteFile
from loaders.remote.url import parse_url
from sllm_tasks.peers.paths import MAC_HEADER, mac

_Answer = TypeVar("_Answer")


class PeerTransport:
    """Reads one checkpoint from the agents of all nodes that have it. Threads may share it.

    Raises RemoteUnavailableError as long as somebody may answer later, RemoteError when all refuse.
    """

    def __init__(self, digest: str, secret: str, find_urls: Callable[[], Sequence[str]]) -> None:
        """`find_urls` tells where agents are that have it; it is asked again when none of them answers."""
        self._digest = digest
        self._secret = secret
        self._find_urls = find_urls
        # All below: under the lock.
        self._lock = threading.Lock()
        self._urls = tuple(find_urls())
        self._transports: dict[str, HttpTransport] = {}
        # Agents that did not answer lately, asked last.
        self._silent: set[str] = set()
        # How often each part was asked for: a wrong one is asked of another agent.
        self._num_asked: Counter[tuple[str, int]] = Counter()
        self._aborted = False

    def stat(self, name: str) -> RemoteFile:
        """Look at a file."""
        file = self._ask(lambda _, transport: transport.stat(name), self._in_turn(0))
        return replace(file, where=f"{name} of checkpoint {self._digest} on {', '.join(self._urls)}")

    def open(self, file: RemoteFile, offset: int, num_bytes: int) -> Body:
        """Ask for a part: chunks in turn, so that all agents are busy."""
        with self._lock:
            turn = offset // CHUNK_BYTES + self._num_asked[file.name, offset]
            self._num_asked[file.name, offset] += 1
            everybody_is_silent = self._silent.issuperset(self._urls)
        if everybody_is_silent:
            self._look_for_others()

        def ask(url: str, transport: HttpTransport) -> Body:
            return _PeerBody(transport.open(file, offset, num_bytes), partial(self._note_silent, url))

        return self._ask(ask, self._in_turn(turn))

    def abort(self) -> None:
        """Cut off all connections."""
        with self._lock:
            self._aborted = True
            transports = tuple(self._transports.values())
        for transport in transports:
            transport.abort()

    def close(self) -> None:
        """Close what is idle."""
        for transport in self._transports.values():
            transport.close()

    def _ask(self, question: Callable[[str, HttpTransport], _Answer], urls: Sequence[str]) -> _Answer:
        reasons: list[LoaderError] = []
        for url in urls:
            try:
                answer = question(url, self._transport(url))
            except LoadCanceledError:
                raise
            except LoaderError as error:
                reasons.append(error)
                self._note_silent(url)
            else:
                with self._lock:
                    self._silent.discard(url)
                return answer
        raise self._refusal(reasons)

    def _refusal(self, reasons: Sequence[LoaderError]) -> LoaderError:
        """Say why nobody has answered."""
        message = "; ".join(map(str, reasons)) or f"no live node has checkpoint {self._digest}"
        if self._look_for_others() or any(isinstance(reason, RemoteUnavailableError) for reason in reasons):
            return RemoteUnavailableError(message)
        # What an agent has wrong says more than that another one has nothing.
        wrong = (reason for reason in reasons if isinstance(reason, CheckpointCorruptError))
        return next(wrong, None) or RemoteError(message)

    def _look_for_others(self) -> bool:
        """Ask where agents are by now (started again, they have another address); tell whether any is new."""
        found = tuple(self._find_urls())
        with self._lock:
            is_new = bool(set(found) - set(self._urls))
            self._urls = found or self._urls
            return is_new

    def _in_turn(self, first: int) -> list[str]:
        with self._lock:
            urls = [self._urls[(first + turn) % len(self._urls)] for turn in range(len(self._urls))]
            return sorted(urls, key=self._silent.__contains__)

    def _transport(self, url: str) -> HttpTransport:
        with self._lock:
            if url not in self._transports:
                address = parse_url(f"{url}/checkpoints/{self._digest}")
                transport = HttpTransport(address, sign=self._sign, use_proxies=False)
                self._transports[url] = transport
                if self._aborted:
                    transport.abort()
            return self._transports[url]

    def _sign(self, target: str) -> dict[str, str]:
        return {MAC_HEADER: mac(self._secret, target)}

    def _note_silent(self, url: str) -> None:
        with self._lock:
            self._silent.add(url)


class _PeerBody:
    """Tells when an agent breaks off, so that the rest is asked of another one."""

    def __init__(self, body: Body, on_lost: Callable[[], None]) -> None:
        self._body = body
        self._on_lost = on_lost

    def readinto(self, memory: memoryview) -> int:
        try:
            count = self._body.readinto(memory)
        except RemoteUnavailableError:
            self._on_lost()
            raise
        if not count:
            self._on_lost()
        return count

    def __enter__(self) -> Self:
        self._body.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body.__exit__(kind, error, trace)
