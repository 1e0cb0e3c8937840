"""Calls of libc on memory that Python's `mmap` cannot make: fixed addresses and the newer kinds of advice.

Each releases the GIL while it runs and raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from enum import IntEnum, IntFlag

PAGE_BYTES = mmap.PAGESIZE
#: The size of one entry of the next level of page tables, on x86-64 and on arm64 with 4 KiB pages.
HUGE_PAGE_BYTES = 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


class Protection(IntFlag):
    """What may be done to mapped memory."""

    NONE = 0
    READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class MapFlag(IntFlag):
    """How memory is mapped; numbers of Linux, which Python names only in part."""

    SHARED = mmap.MAP_SHARED
    PRIVATE = mmap.MAP_PRIVATE
    ANONYMOUS = mmap.MAP_ANONYMOUS
    FIXED = 0x10
    NORESERVE = 0x4000


class Advice(IntEnum):
    """Advice to the kernel; numbers of Linux."""

    HUGE_PAGES = 14
    #: Fill the page tables for reading. Since Linux 5.14.
    POPULATE_READ = 22
    #: Fill the page tables for writing; pages that are not there are made. Since Linux 5.14.
    POPULATE_WRITE = 23
    #: Put small pages together to huge ones now, whatever the settings of the machine say. Since Linux 6.1.
    COLLAPSE = 25


def map_memory(
    num_bytes: int, *, protection: Protection, flags: MapFlag, address: int | None = None, fd: int = -1, offset: int = 0
) -> int:
    """Map memory; returns its address."""
    mapped = _libc.mmap(address, num_bytes, protection, flags, fd, offset)
    if mapped == _MAP_FAILED:
        raise _error("mmap")
    return int(mapped)


def unmap_memory(address: int, num_bytes: int) -> None:
    """Give a range of addresses back."""
    if _libc.munmap(address, num_bytes) != 0:
        raise _error("munmap")


def advise(address: int, num_bytes: int, advice: Advice) -> None:
    """Advise the kernel about a range; goes on when a signal or a busy page interrupts."""
    while _libc.madvise(address, num_bytes, advice) != 0:
        if advice is not Advice.POPULATE_WRITE or ctypes.get_errno() not in {errno.EINTR, errno.EAGAIN}:
            raise _error(f"madvise({advice.name})")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
