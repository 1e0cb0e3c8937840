"""Files of servers that know no ranges: each is read in one go, from its beginning."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from loaders.errors import RemoteUnavailableError
from loaders.remote.transport import Body, RemoteFile, Transport

_SKIP_BYTES = 1 << 20


class StreamedFiles:
    """Gives parts of such files as long as they are asked for in order, by one thread for each file.

    A part that lies before the last one costs a new beginning; what lies between two parts is read and thrown away.
    """

    def __init__(self, transport: Transport, on_received: Callable[[int], None]) -> None:
        """`on_received` hears of bytes that were thrown away."""
        self._transport = transport
        self._on_received = on_received
        # By name: the body, and the offset of its next byte.
        self._waiting: dict[str, tuple[Body, int]] = {}

    def open(self, file: RemoteFile, offset: int, num_bytes: int) -> Body:
        """Begin to read a part; raises RemoteUnavailableError."""
        body, position = self._waiting.pop(file.name, (None, 0))
        if body is not None and position > offset:
            body.__exit__(None, None, None)
            body = None
        if body is None:
            body, position = self._transport.open(file, 0, file.num_bytes), 0
        part = _Part(self, file, body, position)
        try:
            part.skip_to(offset, num_bytes)
        except BaseException:
            body.__exit__(None, None, None)
            raise
        return part

    def keep(self, file: RemoteFile, body: Body, position: int) -> None:
        """Take back a body whose part was read."""
        self._waiting[file.name] = (body, position)

    def skipped(self, num_bytes: int) -> None:
        """Count bytes that were thrown away."""
        self._on_received(num_bytes)

    def close(self) -> None:
        """Close what was not read to its end; idempotent."""
        while self._waiting:
            _, (body, _) = self._waiting.popitem()
            body.__exit__(None, None, None)


class _Part:
    def __init__(self, files: StreamedFiles, file: RemoteFile, body: Body, position: int) -> None:
        self._files = files
        self._file = file
        self._body = body
        self._position = position
        self._end = position

    def skip_to(self, offset: int, num_bytes: int) -> None:
        thrown_away = memoryview(bytearray(min(_SKIP_BYTES, offset - self._position)))
        while self._position < offset:
            count = self._body.readinto(thrown_away[: offset - self._position])
            if not count:
                raise RemoteUnavailableError(f"{self._file.where}: the connection broke off")
            self._files.skipped(count)
            self._position += count
        self._end = offset + num_bytes

    def readinto(self, memory: memoryview) -> int:
        count = self._body.readinto(memory[: self._end - self._position])
        self._position += count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._position == self._end < self._file.num_bytes:
            self._files.keep(self._file, self._body, self._position)
        else:
            self._body.__exit__(kind, error, trace)
