"""The hash of a partition: SHA-256 over the SHA-256 of its chunks, so that any number of threads can compute it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def chunk_sha256(chunk: NDArray[np.uint8]) -> bytes:
    """Hash one chunk; other threads run meanwhile."""
    return hashlib.sha256(chunk.data).digest()


def tree_sha256(chunks: Iterable[bytes]) -> str:
    """Put the hashes of all chunks together, in their order."""
    return hashlib.sha256(b"".join(chunks)).hexdigest()
