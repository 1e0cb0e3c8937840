"""Everything that the writer asks of the file system; what fails there becomes DiskFullError or StorageError."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loaders.errors import DiskFullError, StorageError


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Name the path and the kind of failure in errors of the system."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else StorageError
        raise kind(f"{path}: {error.strerror}") from error


def check_room(directory: Path, num_bytes: int, already: int) -> None:
    """Raise DiskFullError unless a directory's file system has room; `already` bytes of it are there."""
    with translated(directory):
        status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if num_bytes - already > free:
        raise DiskFullError(f"{directory}: {num_bytes - already} bytes are needed, {free} are free")


def write_file(path: Path, data: bytes) -> None:
    """Write a small file, durably but for its name."""
    with translated(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _write_all(fd, memoryview(data), 0)
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with translated(path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class DataFile:
    """A data file being written in whole chunks, past the page cache where the file system allows.

    Buffers begin at a page; offsets and lengths are multiples of 4096. Owns its descriptor.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._path = path
        self._is_direct = True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with translated(path):
            try:
                self._fd = os.open(path, flags | os.O_DIRECT, 0o644)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._is_direct = False
                self._fd = os.open(path, flags, 0o644)
        try:
            self._allocate(num_bytes)
        except BaseException:
            os.close(self._fd)
            raise

    def _allocate(self, num_bytes: int) -> None:
        """Take all the room at once: later writes find it, and in few pieces."""
        with translated(self._path):
            os.ftruncate(self._fd, num_bytes)
            if num_bytes:
                os.posix_fallocate(self._fd, 0, num_bytes)

    def write(self, data: NDArray[np.uint8], offset: int) -> None:
        """Write at an offset; several threads may do so at once."""
        with translated(self._path):
            try:
                _write_all(self._fd, data.data, offset)
            except OSError as error:
                # Some file systems take the flag and refuse the write.
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._use_page_cache()
                _write_all(self._fd, data.data, offset)
            if not self._is_direct:
                os.fdatasync(self._fd)
                os.posix_fadvise(self._fd, offset, len(data), os.POSIX_FADV_DONTNEED)

    def read(self, data: NDArray[np.uint8], offset: int) -> bool:
        """Fill a buffer from an offset; return whether the file had that many bytes."""
        view, done = data.data, 0
        with translated(self._path):
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if not count:
                    return False
                done += count
        return True

    def sync(self) -> None:
        """Make the bytes durable."""
        with translated(self._path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _use_page_cache(self) -> None:
        self._is_direct = False
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
