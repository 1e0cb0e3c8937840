"""The chunk digest in NumPy: what every other version is compared with. Specified in docs/format.md."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.reference import mix64

#: Odd, so that multiplying by them loses nothing: 2^64 / golden ratio, and two multipliers of known 64-bit mixers.
KEY_STEP: Final = 0x9E3779B97F4A7C15
FACTOR_1: Final = 0xBF58476D1CE4E5B9
FACTOR_2: Final = 0x94D049BB133111EB

_BLOCK_WORDS = 1 << 15


def digest_seed(num_bytes: int) -> int:
    """First key of a chunk of that length; the length is part of the digest by it."""
    return mix64(num_bytes ^ KEY_STEP)


def digest_words(words: NDArray[np.uint64], seed: int) -> int:
    """Sum of the mixed words of a chunk, modulo 2^64."""
    total = 0
    for first in range(0, len(words), _BLOCK_WORDS):
        block = words[first : first + _BLOCK_WORDS]
        keys = np.arange(first, first + len(block), dtype=np.uint64)
        keys *= np.uint64(KEY_STEP)
        keys += np.uint64(seed)
        keys ^= block
        keys *= np.uint64(FACTOR_1)
        keys ^= keys >> np.uint64(32)
        total += int(keys.sum(dtype=np.uint64))
    return total * FACTOR_2 & ((1 << 64) - 1)
