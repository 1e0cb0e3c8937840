"""A proxy for stream sockets that a test can make slow, deaf or broken; it stands between one process and a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

_Result = TypeVar("_Result")
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_BLOCK_BYTES = 1 << 16


class FaultProxy:
    """Listens on a unix socket (`listen_path`) or on a free TCP port, and connects to another; a context manager."""

    def __init__(self, connect: Callable[[], Awaitable[_Streams]], listen_path: Path | None = None) -> None:
        self._connect = connect
        self._listen_path = listen_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        # The loop's own from here on.
        self._open = asyncio.Event()
        self._delay_s = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def to_unix(cls, path: Path, listen_path: Path) -> FaultProxy:
        """Stand before a unix socket."""
        return cls(lambda: asyncio.open_unix_connection(path), listen_path)

    @classmethod
    def to_tcp(cls, host: str, port: int) -> FaultProxy:
        """Stand before a TCP port."""
        return cls(lambda: asyncio.open_connection(host, port))

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

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
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self._loop.call_soon_threadsafe(self._open.set)

    def delay(self, seconds: float) -> None:
        """Hold every block back for a while."""
        self._loop.call_soon_threadsafe(setattr, self, "_delay_s", seconds)

    def reset(self) -> None:
        """Break every connection."""
        self._do(self._reset())

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._open.set()
        if self._listen_path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._listen_path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reset(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            far_reader, far_writer = await self._connect()
            self._writers.add(far_writer)
            try:
                await asyncio.wait(
                    [
                        asyncio.create_task(self._pump(reader, far_writer)),
                        asyncio.create_task(self._pump(far_reader, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                far_writer.transport.abort()
                self._writers.discard(far_writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(_BLOCK_BYTES):
                await asyncio.sleep(self._delay_s)
                await self._open.wait()
                writer.write(block)
                await writer.drain()
