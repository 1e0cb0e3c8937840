"""The kernels in NumPy: slow, short, and what every other version is compared with. Specified in docs/sampling.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
#: Odd constants with well-mixed bits: 2^64 / golden ratio, and the multiplier of L'Ecuyer's 64-bit LCG.
SEED_FACTOR = 0x9E3779B97F4A7C15
POSITION_FACTOR = 0xD1342543DE82EF95
#: The finaliser of splitmix64.
MIX_FACTOR_1 = 0xBF58476D1CE4E5B9
MIX_FACTOR_2 = 0x94D049BB133111EB


def mix64(value: int) -> int:
    """Spread every bit of a 64-bit number over all of them; one to one."""
    value = ((value ^ (value >> 30)) * MIX_FACTOR_1) & _MASK
    value = ((value ^ (value >> 27)) * MIX_FACTOR_2) & _MASK
    return value ^ (value >> 31)


def gumbel_key(seed: int, position: int) -> int:
    """Key of all draws of one token; `position` counts the tokens before it, prompt included."""
    return mix64((seed * SEED_FACTOR + position * POSITION_FACTOR) & _MASK)


def uniform(seed: int, position: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers strictly between 0 and 1, one for each token id: multiples of 2^-53 with an odd factor."""
    mixed = [mix64(((int(token_id) * SEED_FACTOR) & _MASK) ^ gumbel_key(seed, position)) for token_id in token_ids]
    return np.array([((value >> 12) + 0.5) / 2**52 for value in mixed], dtype=np.float64)


def gumbel(seed: int, position: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise, one for each token id."""
    return np.asarray(-np.log(-np.log(uniform(seed, position, token_ids))), dtype=np.float64)
