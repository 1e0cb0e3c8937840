"""What the kernel's page cache holds of a file."""

from __future__ import annotations

import errno
import os

#: Looked at, evenly over the file; each costs a system call of a microsecond.
_NUM_SAMPLES = 512


def cached_fraction(descriptor: int) -> float:
    """Estimate the part of a file that needs no disk to be read, 0 to 1.

    By reads of one byte that fail rather than wait. `mincore` is no substitute: it tells whoever does not own the file
    that all of it is there. A file system that lives in memory counts as cached.
    """
    num_bytes = os.fstat(descriptor).st_size
    num_samples = min(_NUM_SAMPLES, num_bytes)
    if num_samples == 0:
        return 1.0
    offsets = [index * num_bytes // num_samples for index in range(num_samples)]
    return sum(_is_cached(descriptor, offset) for offset in offsets) / num_samples


def _is_cached(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError as error:
        # EOPNOTSUPP: a file system without this kind of read has no disk behind it that we would have to avoid.
        return error.errno == errno.EOPNOTSUPP
