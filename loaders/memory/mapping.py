"""Page-aligned memory: anonymous, shared through a file, or pieces of a file side by side in one range."""

from __future__ import annotations

import ctypes
import errno
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import NamedTuple, Self

from loaders.memory.syscalls import (
    HUGE_PAGE_BYTES,
    PAGE_BYTES,
    Advice,
    MapFlag,
    Protection,
    advise,
    map_memory,
    unmap_memory,
)


class Mapping:
    """A range of memory that begins on a huge page's border.

    The memory lives until `close()` has been called *and* the last view of it has died: memoryviews, NumPy arrays and
    tensors made from `view` each keep it mapped, so none of them can ever point at nothing. Who uses the bare
    `address` has to keep the mapping, or a view, for as long.
    """

    def __init__(self, address: int, num_bytes: int, *, is_anonymous: bool = False) -> None:
        """Take over a mapped range; use one of the class methods instead."""
        self.address = address
        self.num_bytes = num_bytes
        self._is_anonymous = is_anonymous
        # Every buffer that is made from a ctypes array holds the array, so the array's own end is the memory's.
        self._memory: ctypes.Array[ctypes.c_ubyte] | None = (ctypes.c_ubyte * num_bytes).from_address(address)
        self._end = ExitStack()
        self._end.callback(unmap_memory, address, _whole_pages(num_bytes))
        # At the end of the process views may still be in use by threads; the kernel unmaps after the last of them.
        weakref.finalize(self._memory, self._end.close).atexit = False

    @classmethod
    def anonymous(cls, num_bytes: int) -> Self:
        """Memory of this process alone, in huge pages where the kernel has them. Raises OSError."""
        address = _map([_Piece(0, num_bytes, -1, 0)], num_bytes, MapFlag.PRIVATE | MapFlag.ANONYMOUS)
        return cls(address, num_bytes, is_anonymous=True)

    @classmethod
    def shared(cls, fd: int, num_bytes: int) -> Self:
        """The first bytes of a file, shared with all who map it; the descriptor may be closed after. Raises OSError."""
        return cls(_map([_Piece(0, num_bytes, fd, 0)], num_bytes, MapFlag.SHARED), num_bytes)

    @classmethod
    def assemble(cls, fd: int, offsets: Sequence[int], chunk_bytes: int, *, copy_on_write: bool = False) -> Self:
        """Chunks of a file, in the order given, side by side; `chunk_bytes` is whole pages. Raises OSError.

        With `copy_on_write` a page that is written to becomes this mapping's own, and the file stays as it is.
        """
        # Not reserved: on a hugetlbfs the copies that are never made would have to find as many pages free.
        sharing = MapFlag.PRIVATE | MapFlag.NORESERVE if copy_on_write else MapFlag.SHARED
        num_bytes = len(offsets) * chunk_bytes
        return cls(_map(_pieces(fd, offsets, chunk_bytes), num_bytes, sharing), num_bytes)

    @classmethod
    def of_files(cls, files: Sequence[tuple[int, int]], alignment: int) -> Self:
        """Whole files (descriptor, bytes) one behind the other, each at a multiple of `alignment`; copy on write.

        Nothing is mapped between the end of a file and the next multiple. Raises OSError.
        """
        pieces, end = [], 0
        for fd, num_bytes in files:
            if num_bytes:
                pieces.append(_Piece(end, num_bytes, fd, 0))
            end += -(-num_bytes // alignment) * alignment
        return cls(_map(pieces, end, MapFlag.PRIVATE), end)

    @property
    def view(self) -> memoryview:
        """All bytes, writable. Raises ValueError once closed."""
        if self._memory is None:
            raise ValueError("the mapping is closed")
        return memoryview(self._memory).cast("B")

    def on_unmap(self, callback: Callable[[], object]) -> None:
        """Call back when the last view has died, in whichever thread that happens: the callback must not take locks.

        The addresses are still mapped then. Raises ValueError once closed.
        """
        if self._memory is None:
            raise ValueError("the mapping is closed")
        self._end.callback(callback)

    def fill_page_tables(self, start: int, stop: int) -> None:
        """Let a part be read without page faults; what is not in memory is read from its file. Raises OSError.

        Before Linux 5.14 it does nothing, and pages are mapped when they are used.
        """
        try:
            advise(self.address + start, stop - start, Advice.POPULATE_READ)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def populate(self, start: int, stop: int) -> None:
        """Make pages and page tables of a part now, in huge pages if possible; takes no time where it was done before.

        What is in the pages stays. Raises OSError (EFAULT or ENOMEM when there is no memory for a page, where touching
        it would have killed the process). Before Linux 5.14 it does nothing, and pages are made when they are used.
        """
        address = self.address + start
        try:
            if not self._is_anonymous:
                self._make_huge(address, self.address + stop)
            advise(address, stop - start, Advice.POPULATE_WRITE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    @staticmethod
    def _make_huge(begin: int, end: int) -> None:
        """Make huge pages of shared memory; anonymous memory gets them without being asked again."""
        # One touched page is enough for the kernel to make the huge page around it, at four times the speed of
        # touching all (7 against 1.4 GB/s on tmpfs), even where the machine's setting for shared memory is `never`.
        first_huge = -(-begin // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        last_huge = end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        for page in range(first_huge, last_huge, HUGE_PAGE_BYTES):
            advise(page, PAGE_BYTES, Advice.POPULATE_WRITE)
        if first_huge < last_huge:
            with suppress(OSError):  # older kernel, no huge page free, or one in use by a device: small pages do
                advise(first_huge, last_huge - first_huge, Advice.COLLAPSE)

    def close(self) -> None:
        """Let go of the memory; it is unmapped when the last view has died."""
        self._memory = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE_BYTES) * PAGE_BYTES


def _reserve(num_bytes: int) -> int:
    """Reserve addresses that begin on a huge page's border, so that huge pages fit from the first byte on."""
    if num_bytes <= 0:
        raise ValueError(f"cannot map {num_bytes} bytes")
    length = _whole_pages(num_bytes)
    reserved = map_memory(
        length + HUGE_PAGE_BYTES,
        protection=Protection.NONE,
        flags=MapFlag.PRIVATE | MapFlag.ANONYMOUS | MapFlag.NORESERVE,
    )
    address = -(-reserved // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    if address > reserved:
        unmap_memory(reserved, address - reserved)
    unmap_memory(address + length, reserved + HUGE_PAGE_BYTES - address)
    return address


class _Piece(NamedTuple):
    """A part of the range: where it is in the range, how long, and where it comes from."""

    place: int
    num_bytes: int
    fd: int
    offset: int


def _map(pieces: list[_Piece], num_bytes: int, flags: MapFlag) -> int:
    """Map pieces into a range of so many bytes; returns its address."""
    address = _reserve(num_bytes)
    try:
        for piece in pieces:
            map_memory(
                _whole_pages(piece.num_bytes),
                protection=Protection.READ_WRITE,
                flags=flags | MapFlag.FIXED,
                address=address + piece.place,
                fd=piece.fd,
                offset=piece.offset,
            )
    except OSError:
        unmap_memory(address, _whole_pages(num_bytes))
        raise
    with suppress(OSError):  # kernels without huge pages refuse the advice
        advise(address, _whole_pages(num_bytes), Advice.HUGE_PAGES)
    return address


def _pieces(fd: int, offsets: Sequence[int], chunk_bytes: int) -> list[_Piece]:
    """One piece per run of chunks that are neighbours in the file too."""
    pieces: list[_Piece] = []
    for index, offset in enumerate(offsets):
        if pieces and pieces[-1].offset + pieces[-1].num_bytes == offset:
            pieces[-1] = pieces[-1]._replace(num_bytes=pieces[-1].num_bytes + chunk_bytes)
        else:
            pieces.append(_Piece(index * chunk_bytes, chunk_bytes, fd, offset))
    return pieces
