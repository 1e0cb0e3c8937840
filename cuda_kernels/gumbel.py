"""Seeded Gumbel noise in torch: a draw depends on seed, position and token id, and on nothing else.

Adding it to scaled logits and taking the largest is a draw from their softmax. Specified bit by bit in
docs/sampling.md; `reference` holds the NumPy version.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cuda_kernels.reference import MIX_FACTOR_1, MIX_FACTOR_2, SEED_FACTOR, gumbel_key
from cuda_kernels.signed import shift_right, signed


def _mix64(values: torch.Tensor) -> torch.Tensor:
    values = (values ^ shift_right(values, 30)) * signed(MIX_FACTOR_1)
    values = (values ^ shift_right(values, 27)) * signed(MIX_FACTOR_2)
    return values ^ shift_right(values, 31)


def draw_keys(seeds: Sequence[int], positions: Sequence[int], device: torch.device) -> torch.Tensor:
    """Keys of the draws of one row each, as int64: the same 64 bits as in `reference`."""
    keys = [signed(gumbel_key(seed, position)) for seed, position in zip(seeds, positions, strict=True)]
    return torch.tensor(keys, dtype=torch.int64, device=device)


def uniform_noise(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Numbers strictly between 0 and 1, of shape (rows, vocab_size) and type float64."""
    tokens = torch.arange(vocab_size, device=keys.device) * signed(SEED_FACTOR)
    mixed = _mix64(tokens ^ keys.unsqueeze(1))
    return (shift_right(mixed, 12).double() + 0.5) / 2**52


def gumbel_noise(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise of shape (rows, vocab_size) and type float64."""
    return -torch.log(-torch.log(uniform_noise(keys, vocab_size)))


def gumbel_argmax(logits: torch.Tensor, temperatures: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Token of every row with the largest logit / temperature + noise; of equal ones the lowest id."""
    # torch.argmax gives the first of equal values.
    return (logits.double() / temperatures.unsqueeze(1) + gumbel_noise(keys, logits.shape[1])).argmax(dim=-1)
