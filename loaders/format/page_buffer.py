"""Memory that direct I/O can use."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray


def page_buffer(num_bytes: int) -> NDArray[np.uint8]:
    """Make a buffer of zeros that begins at a page."""
    return np.frombuffer(mmap.mmap(-1, num_bytes), dtype=np.uint8)
