"""Open files that may be anything: regular ones only, and never a wait. An open file can no longer be exchanged."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from loaders.errors import CheckpointCorruptError, CheckpointMissingError, LoaderError, StorageError

# A FIFO or a device must not make `open` wait (O_NONBLOCK changes nothing for regular files).
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """What tells whether an open file is still the one that was checked."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Take it from fstat."""
        return cls(device=status.st_dev, inode=status.st_ino, num_bytes=status.st_size, modified_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A regular file, open for reading; whoever opened it closes `fd`."""

    #: Names the file in errors.
    where: str
    fd: int
    identity: FileIdentity

    @property
    def num_bytes(self) -> int:
        """Size at the time it was opened."""
        return self.identity.num_bytes

    def check_unchanged(self) -> None:
        """Raise CheckpointCorruptError if the file was written to since it was opened."""
        if FileIdentity.of(os.fstat(self.fd)) != self.identity:
            raise CheckpointCorruptError(f"{self.where}: changed while it was being read")

    def read_exactly(self, num_bytes: int, offset: int = 0) -> bytes:
        """Read a part; raises CheckpointCorruptError if the file is shorter."""
        parts = []
        while num_bytes:
            part = self._pread(num_bytes, offset)
            parts.append(part)
            num_bytes -= len(part)
            offset += len(part)
        return b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer; raises CheckpointCorruptError if the file ends before."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self.fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise StorageError(f"{self.where}: reading at byte {offset + done}: {error.strerror}") from error
            if not count:
                raise self._ends_early(offset + done)
            done += count

    def sha256(self) -> str:
        """Digest of all of it, read in small pieces."""
        digest = hashlib.sha256()
        for offset in range(0, self.num_bytes, _HASH_BYTES):
            digest.update(self.read_exactly(min(_HASH_BYTES, self.num_bytes - offset), offset))
        return digest.hexdigest()

    def _pread(self, num_bytes: int, offset: int) -> bytes:
        try:
            part = os.pread(self.fd, num_bytes, offset)
        except OSError as error:
            raise StorageError(f"{self.where}: reading at byte {offset}: {error.strerror}") from error
        if not part:
            raise self._ends_early(offset)
        return part

    def _ends_early(self, offset: int) -> CheckpointCorruptError:
        return CheckpointCorruptError(f"{self.where}: ends at byte {offset}, expected {self.num_bytes}")


def open_directory(path: str | Path, *, where: str, parent: int | None = None) -> int:
    """Open a directory; below a parent (a descriptor), links are not followed."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | (os.O_NOFOLLOW if parent is not None else 0)
    try:
        return os.open(path, flags, dir_fd=parent)
    except FileNotFoundError as error:
        raise CheckpointMissingError(f"{where}: no such directory") from error
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise CheckpointCorruptError(f"{where}: not a directory") from error
        raise LoaderError(f"{where}: {error.strerror}") from error


def open_member(name: str, *, parent: int, where: str) -> OpenFile:
    """Open a file of a checkpoint: no link of either kind, so that it can be nothing from elsewhere."""
    opened = _open(name, _FLAGS | os.O_NOFOLLOW, where=where, parent=parent)
    if (num_links := os.fstat(opened.fd).st_nlink) > 1:
        os.close(opened.fd)
        raise CheckpointCorruptError(f"{where}: has {num_links} hard links, expected one")
    return opened


def open_regular(path: Path) -> OpenFile:
    """Open a regular file, through links if need be: the caches of Hugging Face consist of them."""
    return _open(path, _FLAGS, where=str(path), parent=None)


def _open(path: str | Path, flags: int, *, where: str, parent: int | None) -> OpenFile:
    try:
        fd = os.open(path, flags, dir_fd=parent)
    except FileNotFoundError as error:
        raise CheckpointMissingError(f"{where}: no such file") from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
            raise CheckpointCorruptError(f"{where}: not a regular file") from error
        raise LoaderError(f"{where}: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise CheckpointCorruptError(f"{where}: not a regular file")
    return OpenFile(where=where, fd=fd, identity=FileIdentity.of(status))
