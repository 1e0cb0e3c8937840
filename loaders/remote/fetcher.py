"""Bytes of remote files, whatever happens on the way: lost connections are made again, and go on where they stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from loaders.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    LoadCanceledError,
    LoaderError,
    RemoteChangedError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from loaders.remote.retries import RetryPolicy
from loaders.remote.streamed import StreamedFiles
from loaders.remote.transport import RemoteFile, Transport

_Result = TypeVar("_Result")
#: What is read by one call, and so what is lost at most when a connection is.
_BLOCK_BYTES = 1 << 20


class Fetcher:
    """Reads files of one checkpoint; owns the transport. Threads may share it; without ranges only one may read."""

    def __init__(self, transport: Transport, policy: RetryPolicy | None = None) -> None:
        self._transport = transport
        self._streamed = StreamedFiles(transport, self._count)
        self._policy = policy or RetryPolicy()
        self._stopping = threading.Event()
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._received_bytes = 0
        self._failure: LoaderError | None = None

    @property
    def received_bytes(self) -> int:
        """Bytes of files that came over the network."""
        return self._received_bytes

    def require(self, name: str) -> RemoteFile:
        """Look at a file; raises CheckpointMissingError if there is none."""
        return self._persistently(lambda: self._transport.stat(name))

    def find(self, name: str) -> RemoteFile | None:
        """Look at a file that need not be there. Some servers (S3 among them) refuse what they do not have."""
        try:
            return self.require(name)
        except (CheckpointMissingError, RemoteRefusedError):
            return None

    def read_small(self, file: RemoteFile, max_bytes: int) -> bytes:
        """Read a whole file into memory; raises CheckpointCorruptError if it is larger than it may be."""
        if file.num_bytes > max_bytes:
            raise CheckpointCorruptError(f"{file.where}: {file.num_bytes} bytes, expected at most {max_bytes}")
        return self.read_beginning(file, file.num_bytes)

    def read_beginning(self, file: RemoteFile, num_bytes: int) -> bytes:
        """Read the first bytes of a file into memory."""
        data = bytearray(num_bytes)
        self.read(file, 0, memoryview(data))
        return bytes(data)

    def read(self, file: RemoteFile, offset: int, memory: memoryview) -> None:
        """Fill memory from an offset on.

        Raises:
            RemoteUnavailableError: the server stayed away for too long.
            RemoteChangedError: it is another file by now.
            LoadCanceledError: `abort` was called.

        """
        done = 0

        def go_on() -> RemoteUnavailableError | None:
            """Read on; an error after some progress is returned, so that the count of failures begins anew."""
            nonlocal done
            before = done
            try:
                done += self._read_once(file, offset + done, memory[done:])
            except _BrokenOffError as error:
                done += error.num_bytes
                if done == before:
                    raise
                return error
            return None

        while done < len(memory):
            broken_off = self._persistently(go_on)
            if broken_off is not None:
                self._pause(1, broken_off)

    def check_unchanged(self, file: RemoteFile) -> None:
        """Raise RemoteChangedError if the file is not what it was."""
        now = self.require(file.name)
        if (now.num_bytes, now.version) != (file.num_bytes, file.version):
            raise RemoteChangedError(f"{file.where}: changed while it was being read")

    def fail(self, error: LoaderError) -> LoaderError:
        """Abort because of an error, and return it; the first one, where several readers fail one after the other."""
        with self._lock:
            # Whoever is woken up by an abort fails as well, for no reason of its own.
            if self._failure is None and not self._stopping.is_set():
                self._failure = error
        self.abort()
        return self._failure or error

    def abort(self) -> None:
        """Make every read, under way or to come, fail at once; idempotent, from any thread."""
        self._stopping.set()
        self._transport.abort()

    def close(self) -> None:
        """Close connections; idempotent, but not to be called while somebody reads."""
        self._streamed.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_once(self, file: RemoteFile, offset: int, memory: memoryview) -> int:
        """Fill memory over one connection; raises _BrokenOffError with what came before that was lost."""
        done = 0
        source = self._transport if file.has_ranges else self._streamed
        with source.open(file, offset, len(memory)) as body:
            while done < len(memory):
                try:
                    count = body.readinto(memory[done : done + _BLOCK_BYTES])
                except RemoteUnavailableError as error:
                    raise _BrokenOffError(str(error), done) from error
                if not count:
                    raise _BrokenOffError(f"{file.where}: the connection broke off", done)
                self._count(count)
                done += count
        return done

    def _persistently(self, attempt: Callable[[], _Result]) -> _Result:
        """Try until it works, or has failed too often in a row."""
        num_failures = 0
        while True:
            if self._stopping.is_set():
                raise LoadCanceledError("the download was stopped")
            try:
                return attempt()
            except RemoteUnavailableError as error:
                num_failures += 1
                self._pause(num_failures, error)

    def _pause(self, num_failures: int, error: RemoteUnavailableError) -> None:
        """Wait before the next try; raises the error when there is to be none."""
        delay_s = self._policy.delay_s(num_failures, error.wait_s)
        if delay_s is None:
            raise error
        self._stopping.wait(delay_s)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._received_bytes += num_bytes


class _BrokenOffError(RemoteUnavailableError):
    """A body ended before it should have."""

    def __init__(self, message: str, num_bytes: int) -> None:
        super().__init__(message)
        self.num_bytes = num_bytes
