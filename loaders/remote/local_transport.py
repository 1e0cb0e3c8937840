"""`file://`: a directory of this machine or of a network file system."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from loaders.errors import RemoteChangedError, StorageError
from loaders.format.files import FileIdentity, OpenFile, open_regular
from loaders.remote.transport import RemoteFile
from loaders.remote.url import RemoteUrl


class LocalTransport:
    """Files below a path; links are followed, as in the caches of Hugging Face."""

    def __init__(self, url: RemoteUrl) -> None:
        self._path = Path(url.plain_path or "/")

    def stat(self, name: str) -> RemoteFile:
        """Open the file, look at it, and close it."""
        opened = open_regular(self._path / name)
        os.close(opened.fd)
        return RemoteFile(
            name=name,
            where=opened.where,
            num_bytes=opened.num_bytes,
            version=_version(opened.identity),
            has_ranges=True,
        )

    def open(self, file: RemoteFile, offset: int, num_bytes: int) -> _FilePart:
        """Open the file at an offset."""
        opened = open_regular(self._path / file.name)
        if _version(opened.identity) != file.version:
            os.close(opened.fd)
            raise RemoteChangedError(f"{opened.where}: changed while it was being read")
        return _FilePart(opened, offset, num_bytes)

    def abort(self) -> None:
        """Reads of a file end by themselves."""

    def close(self) -> None:
        """Nothing is kept open."""


def _version(identity: FileIdentity) -> str:
    return f"{identity.inode} {identity.num_bytes} {identity.modified_ns}"


class _FilePart:
    def __init__(self, opened: OpenFile, offset: int, num_bytes: int) -> None:
        self._opened = opened
        self._offset = offset
        self._end = offset + num_bytes

    def readinto(self, memory: memoryview) -> int:
        try:
            count = os.preadv(self._opened.fd, [memory[: self._end - self._offset]], self._offset)
        except OSError as error:
            raise StorageError(f"{self._opened.where}: reading at byte {self._offset}: {error.strerror}") from error
        self._offset += count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._opened.fd)
