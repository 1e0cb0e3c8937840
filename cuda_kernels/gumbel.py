"""Seeded Gumbel noise in torch: a draw depends on seed, position and token id, and on nothing else.

Adding it to scaled logits and taking the largest is a draw from their softmax. Specified bit by bit in
docs/sampling.md; `reference` holds the NumPy version.
"""

from __future__ import annotations

import torch

from cuda_kernels.reference import MIX_FACTOR_1, MIX_FACTOR_2, SEED_FACTOR, gumbel_key
from cuda_kernels.signed import shift_right, signed


def _mix64(values: torch.Tensor) -> torch.Tensor:
    values = (values ^ shift_right(values, 30)) * signed(MIX_FACTOR_1)
    values = (values ^ shift_right(values, 27)) * signed(MIX_FACTOR_2)
    return values ^ shift_right(values, 31)


def uniform_noise(seeds: list[int], positions: list[int], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Numbers strictly between 0 and 1, of shape (rows, vocab_size) and type float64."""
    keys = [signed(gumbel_key(seed, position)) for seed, position in zip(seeds, positions, strict=True)]
    return _uniform(torch.tensor(keys, dtype=torch.int64, device=device), vocab_size)


def gumbel_noise(seeds: list[int], positions: list[int], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Standard Gumbel noise of shape (rows, vocab_size) and type float64; one seed and position per row."""
    return _gumbel(uniform_noise(seeds, positions, vocab_size, device))


def gumbel_argmax(logits: torch.Tensor, temperatures: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Token of every row with the largest logit / temperature + noise; keys of `reference.gumbel_key`, as int64."""
    scores = logits.double() / temperatures.unsqueeze(1)
    return (scores + _gumbel(_uniform(keys, logits.shape[1]))).argmax(dim=-1)


def _uniform(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    tokens = torch.arange(vocab_size, device=keys.device) * signed(SEED_FACTOR)
    mixed = _mix64(tokens ^ keys.unsqueeze(1))
    return (shift_right(mixed, 12).double() + 0.5) / 2**52


def _gumbel(uniform: torch.Tensor) -> torch.Tensor:
    return -torch.log(-torch.log(uniform))
