"""Draw a token per row by the seeded Gumbel noise, on the logits' device. Specified in docs/sampling.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cuda_kernels.backend import kernels_for
from cuda_kernels.gumbel import draw_keys, gumbel_argmax


def draw_tokens(
    logits: torch.Tensor, temperatures: Sequence[float], seeds: Sequence[int], positions: Sequence[int]
) -> torch.Tensor:
    """Draw one token id for each row of logits (rows, vocabulary); int64, on their device.

    Temperatures are positive. Logits that are not to be drawn are -inf. Kernel and torch choose the same token unless
    two of them are as near to a tie as the last bit of a logarithm.
    """
    keys = draw_keys(seeds, positions, logits.device)
    divisors = torch.tensor(temperatures, dtype=torch.float64, device=logits.device)
    kernels = kernels_for(logits.device)
    if kernels is None or logits.numel() == 0:
        return gumbel_argmax(logits, divisors, keys)
    # Narrower types fit into float32 exactly.
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return kernels.gumbel.launch(exact.contiguous(), divisors, keys)
