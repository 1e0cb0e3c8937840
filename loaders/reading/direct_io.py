"""Reads past the page cache where the file system has them, buffered ones elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from loaders.errors import CheckpointCorruptError, StorageError
from loaders.format.files import OpenFile

#: O_DIRECT wants buffers, offsets and lengths in multiples of the device's block; 4 KiB suits every device in use.
ALIGNMENT = 4096


class DirectReader:
    """Reads an open file into aligned memory; several threads may do so at once. A context manager."""

    def __init__(self, opened: OpenFile, *, direct: bool = True) -> None:
        """Take a file that stays open as long as this reader is used; `direct` false leaves the page cache in use."""
        self._opened = opened
        self._direct = _open_direct(opened) if direct else None

    @property
    def is_direct(self) -> bool:
        """Whether reads go past the page cache."""
        return self._direct is not None

    def read(self, chunks: Sequence[memoryview], offset: int, num_bytes: int) -> None:
        """Fill the first `num_bytes` of some memory that is in pieces.

        Every piece begins at a page. Together they have room for `num_bytes` rounded up to ALIGNMENT, and may be
        overwritten up to there.

        Raises:
            CheckpointCorruptError: The file ends early.
            StorageError: The device failed.

        """
        done = 0
        if self._direct is not None and offset % ALIGNMENT == 0:
            room = _part(chunks, 0, -(-num_bytes // ALIGNMENT) * ALIGNMENT)
            try:
                done = _read(self._direct, room, offset, num_bytes)
            except OSError as error:
                # EINVAL: this file system took the flag at `open` but does not take the reads.
                if error.errno != errno.EINVAL:
                    raise self._failed(error, offset) from error
        if done < num_bytes:
            # The tail behind the last whole block, or everything.
            try:
                done += _read(self._opened.fd, _part(chunks, done, num_bytes), offset + done, num_bytes - done)
            except OSError as error:
                raise self._failed(error, offset + done) from error
        if done < num_bytes:
            raise CheckpointCorruptError(
                f"{self._opened.where}: ends at byte {offset + done}, expected {self._opened.num_bytes} bytes"
            )

    def close(self) -> None:
        """Close what it opened; idempotent, but not to be called while somebody reads."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, error: OSError, offset: int) -> StorageError:
        return StorageError(f"{self._opened.where}: reading at byte {offset}: {error.strerror}")


def _open_direct(opened: OpenFile) -> int | None:
    """Open the same file once more, whatever its name means by now; None where there are no direct reads."""
    try:
        return os.open(f"/proc/self/fd/{opened.fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        if error.errno == errno.EINVAL:  # tmpfs, and overlays of it
            return None
        raise StorageError(f"{opened.where}: {error.strerror}") from error


def _part(chunks: Sequence[memoryview], begin: int, end: int) -> list[memoryview]:
    """Bytes `begin` to `end` of memory that is in pieces."""
    part, passed = [], 0
    for chunk in chunks:
        piece = chunk[max(begin - passed, 0) : max(end - passed, 0)]
        if piece.nbytes:
            part.append(piece)
        passed += chunk.nbytes
    return part


def _read(descriptor: int, memory: Sequence[memoryview], offset: int, wanted: int) -> int:
    """Read until `wanted` bytes are there or the file ends; direct reads stop at the last whole block before that."""
    done, room = 0, sum(piece.nbytes for piece in memory)
    while done < wanted:
        count = os.preadv(descriptor, _part(memory, done, room), offset + done)
        done += count
        if count == 0 or count % ALIGNMENT:
            break
    return min(done, wanted)
