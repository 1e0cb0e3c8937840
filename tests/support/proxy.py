"""A proxy between one process and a server's unix socket, which a test can make deaf."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_BLOCK_BYTES = 1 << 16


class FaultProxy:
    """Listens on `listen_path` and connects to `path`; a context manager."""

    def __init__(self, path: Path, listen_path: Path) -> None:
        self._path = path
        self._listen_path = listen_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        # The loop's own from here on.
        self._is_open = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def blackhole(self) -> None:
        """Keep connections open, and let nothing through any more."""
        self._loop.call_soon_threadsafe(self._is_open.clear)

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self._loop.call_soon_threadsafe(self._is_open.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._is_open.set()
        self._server = await asyncio.start_unix_server(self._serve, self._listen_path)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._path)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(connection)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while block := await reader.read(_BLOCK_BYTES):
                    await self._is_open.wait()
                    writer.write(block)
                    await writer.drain()
        finally:
            # The end of one direction is the end of the other.
            writer.transport.abort()
