"""The chunk digest in torch, on any device. Specified in docs/format.md; the arithmetic is that of `gumbel`: signed."""

from __future__ import annotations

import torch

from cuda_kernels.digest_reference import FACTOR_1, FACTOR_2, KEY_STEP, digest_seed
from cuda_kernels.signed import shift_right, signed

#: Words at a time: 8 MiB for each of the three tensors that are alive at once.
_BLOCK_WORDS = 1 << 20


def add_digests(memory: torch.Tensor, chunk_bytes: int, digests: torch.Tensor) -> None:
    """Add the digest of every chunk to what `digests` holds, without waiting for the device."""
    longest = min(_BLOCK_WORDS, -(-min(chunk_bytes, memory.numel()) // 8))
    keys = torch.arange(longest, device=memory.device) * signed(KEY_STEP)
    for number, chunk in enumerate(memory.split(chunk_bytes)):
        seed = digest_seed(len(chunk))
        whole = len(chunk) // 8 * 8
        for first, block in enumerate(chunk[:whole].view(torch.int64).split(_BLOCK_WORDS) if whole else ()):
            digests[number] += _sum_words(block, keys, first * _BLOCK_WORDS, seed)
        if whole < len(chunk):
            padded = torch.zeros(8, dtype=torch.uint8, device=memory.device)
            padded[: len(chunk) - whole] = chunk[whole:]
            digests[number] += _sum_words(padded.view(torch.int64), keys, whole // 8, seed)


def _sum_words(words: torch.Tensor, keys: torch.Tensor, first: int, seed: int) -> torch.Tensor:
    """Sum of the mixed words, of which the first one has that number within its chunk."""
    mixed = keys[: len(words)] + signed((first * KEY_STEP + seed) % 2**64)
    mixed ^= words
    mixed *= signed(FACTOR_1)
    mixed ^= shift_right(mixed, 32)
    return mixed.sum() * signed(FACTOR_2)
