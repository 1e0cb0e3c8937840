"""What is asked of whatever serves a remote checkpoint: the size and version of a file, and parts of its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file as it was when it was asked for."""

    #: Below the checkpoint's URL.
    name: str
    #: Names the file in errors.
    where: str
    num_bytes: int
    #: An ETag, or a time of change: another one means other bytes. None if there is neither.
    version: str | None
    #: Whether parts of it can be asked for.
    has_ranges: bool


class Body(Protocol):
    """Bytes on their way; a context manager."""

    def readinto(self, memory: memoryview) -> int:
        """Read some bytes; 0 when no more will come. Raises RemoteUnavailableError when the connection is lost."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Transport(Protocol):
    """One way to reach the files of one checkpoint; several threads may use it at once. Whoever made it closes it.

    Raises RemoteUnavailableError for what may go better the next time, and other LoaderErrors for what will not.
    """

    def stat(self, name: str) -> RemoteFile:
        """Look at a file; raises CheckpointMissingError, naming it, if there is none."""

    def open(self, file: RemoteFile, offset: int, num_bytes: int) -> Body:
        """Ask for a part of a file, or for all of one without ranges (whatever was said).

        Raises RemoteChangedError if it is not the file that was looked at.
        """

    def abort(self) -> None:
        """Wake up everybody who waits for bytes; nothing can be asked for any more. Idempotent, from any thread."""

    def close(self) -> None:
        """Let go of connections; idempotent."""
