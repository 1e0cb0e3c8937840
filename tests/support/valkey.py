"""A private Valkey server for tests: the binary that the product itself starts, on a unix socket."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from sllm_tasks.embedded import find_server

_START_TIMEOUT_S = 10.0


class ValkeyServer:
    """A server with persistence by AOF, so that a restart is one; a context manager."""

    def __init__(self, *options: str, answers_strangers: bool = True) -> None:
        self._options = options
        self._answers_strangers = answers_strangers
        # A unix socket's path must be short, which pytest's folders are not.
        self._folder = Path(tempfile.mkdtemp(prefix="sllm-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._folder / 'socket'}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        arguments = ["--port", "0", "--unixsocket", self._folder / "socket", "--dir", self._folder]
        arguments += ["--appendonly", "yes", "--appendfsync", "no", "--save", "", "--maxmemory-policy", "noeviction"]
        arguments += self._options
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([find_server(), *arguments], stdout=log, stderr=log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline_s, (self._folder / "log").read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        """A connection past the live state, for what tests do to the server; the caller closes it."""
        return Redis.from_url(self.url)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except AuthenticationError:
                return not self._answers_strangers
            except RedisConnectionError:
                return False


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One server for the whole run; tests that break it start their own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def live_url(valkey_server: ValkeyServer) -> str:
    """Where an empty live state is."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server.url
