"""The pool's memory: a file on tmpfs or hugetlbfs, mapped by every process, its pages made once and kept."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from loaders.errors import PoolCorruptError, PoolError, PoolSpaceError
from loaders.memory.mapping import Mapping
from loaders.memory.pages import PageKind, hugetlb_folder, hugetlb_mounts, shared_page_kind
from loaders.memory.records import PoolShape
from loaders.memory.syscalls import HUGE_PAGE_BYTES

_FILE = "memory"
#: For the directory beside the memory, which grows with the number of chunks (some 100 bytes for each).
_DIRECTORY_BYTES = 8 << 20


class PoolMemory:
    """The memory of an existing pool in this process."""

    def __init__(self, shape: PoolShape) -> None:
        """Map it. Raises PoolError."""
        self._shape = shape
        check_memory(shape)
        try:
            self._fd = os.open(shape.memory, os.O_RDWR)
        except OSError as error:
            raise PoolError(f"{shape.memory}: the pool's memory cannot be opened: {error.strerror}") from error
        try:
            self.mapping = _map(self._fd, shape)
        except PoolError:
            os.close(self._fd)
            raise
        # Chunks whose pages and page tables this process has made. Bytes are set by any thread, and never back.
        self._resident = bytearray(shape.num_chunks)

    def chunk(self, index: int) -> memoryview:
        """The whole of one chunk."""
        return self.mapping.view[self.offset(index) : self.offset(index + 1)]

    def offset(self, index: int) -> int:
        """Where a chunk begins."""
        return index * self._shape.chunk_bytes

    def make_resident(self, start: int, stop: int) -> None:
        """Make pages of chunks now; cheap where it was done before. Raises PoolSpaceError."""
        if all(self._resident[start:stop]):
            return
        try:
            self.mapping.populate(self.offset(start), self.offset(stop))
        except OSError as error:
            if error.errno not in {errno.EFAULT, errno.ENOMEM}:
                raise PoolError(f"{self._shape.memory}: {error.strerror}") from error
            needed, free = self.offset(stop - start), _free_bytes(Path(self._shape.memory).parent)
            raise PoolSpaceError(
                f"{self._shape.memory}: {needed} bytes of the pool are needed and {free} are free where it is; "
                f"something else took the room that was there when the pool was made",
                needed_bytes=needed,
                free_bytes=free,
            ) from error
        self._resident[start:stop] = b"\1" * (stop - start)

    def assemble(self, chunks: Sequence[int], *, copy_on_write: bool = False) -> Mapping:
        """Chunks side by side in a range of their own. Raises PoolError."""
        if copy_on_write and self._shape.page_kind is PageKind.HUGETLB:
            # There a page that the file lacks when it is first read becomes the mapping's own, and stays empty.
            for index in chunks:
                self.make_resident(index, index + 1)
        offsets = [self.offset(index) for index in chunks]
        try:
            return Mapping.assemble(self._fd, offsets, self._shape.chunk_bytes, copy_on_write=copy_on_write)
        except OSError as error:
            raise PoolError(f"{self._shape.memory}: chunks cannot be put side by side: {error.strerror}") from error

    def close(self) -> None:
        """Let go of it; what is still viewed stays mapped."""
        self.mapping.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_memory(folder: Path, capacity_bytes: int, chunk_bytes: int) -> PoolShape:
    """Make the file of a new pool in a folder that has none.

    Its pages are made later, piece by piece, since that takes a second per few GB; the room for them is checked here.
    Raises PoolSpaceError, and PoolError when the file cannot be made.
    """
    num_bytes = capacity_bytes // chunk_bytes * chunk_bytes
    reserved = hugetlb_folder(num_bytes) if chunk_bytes % HUGE_PAGE_BYTES == 0 else None
    if reserved is None:
        _check_room(folder, num_bytes)
    path = folder / _FILE if reserved is None else reserved / _hugetlb_name(folder)
    try:
        kind = shared_page_kind(folder) if reserved is None else PageKind.HUGETLB
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, num_bytes)
            # On hugetlbfs the first mapping claims the pages; elsewhere this costs and means nothing.
            Mapping.shared(fd, num_bytes).close()
        finally:
            os.close(fd)
    except OSError as error:
        raise PoolError(f"{path}: the pool's memory cannot be made: {error.strerror}") from error
    return PoolShape(num_chunks=num_bytes // chunk_bytes, chunk_bytes=chunk_bytes, memory=str(path), page_kind=kind)


def _check_room(folder: Path, num_bytes: int) -> None:
    needed, free = num_bytes + _DIRECTORY_BYTES, _free_bytes(folder)
    if free < needed:
        raise PoolSpaceError(
            f"{folder}: a pool of {num_bytes} bytes needs {needed} and {free} are free",
            needed_bytes=needed,
            free_bytes=free,
        )


def check_memory(shape: PoolShape) -> None:
    """Raise PoolCorruptError when the file is not the one that the directory speaks of."""
    try:
        num_bytes = Path(shape.memory).stat().st_size
    except OSError as error:
        raise PoolCorruptError(f"{shape.memory}: the pool's memory is gone: {error.strerror}") from error
    if num_bytes != shape.capacity_bytes:
        raise PoolCorruptError(f"{shape.memory}: has {num_bytes} bytes, not {shape.capacity_bytes}")


def remove_memory(folder: Path) -> None:
    """Delete the memory of the pool in a folder, wherever it is; no matter if there is none."""
    (folder / _FILE).unlink(missing_ok=True)
    for mount in hugetlb_mounts():
        (mount / _hugetlb_name(folder)).unlink(missing_ok=True)


def _hugetlb_name(folder: Path) -> str:
    """A hugetlbfs is one folder for all: the name keeps pools apart, and lets the next one of the folder find it."""
    return f"sllm-pool-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}"


def _map(fd: int, shape: PoolShape) -> Mapping:
    try:
        return Mapping.shared(fd, shape.capacity_bytes)
    except OSError as error:
        raise PoolError(f"{shape.memory}: the pool's memory cannot be mapped: {error.strerror}") from error


def _free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize
