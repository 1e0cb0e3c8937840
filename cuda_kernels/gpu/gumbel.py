"""The seeded draw as a kernel: noise, sum and maximum in one pass over the logits. Specified in docs/sampling.md.

Float64 throughout, as it is specified: two logarithms of 64 rows of 128,256 logits are 1e9 operations, which a GPU for
servers does in a tenth of a millisecond; a step of decoding takes some.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch

from cuda_kernels.gpu.numba_cuda import (
    MAX_THREADS,
    THREADS,
    Array,
    KernelSource,
    as_array,
    cuda,
    device_function,
    torch_stream,
)
from cuda_kernels.reference import MIX_FACTOR_1, MIX_FACTOR_2, SEED_FACTOR

#: Enough for all of a GPU to work on one row, few enough that the last step, in torch, is small.
_TOKENS_PER_THREAD: Final = 8

_SEED_FACTOR, _MIX_1, _MIX_2 = np.uint64(SEED_FACTOR), np.uint64(MIX_FACTOR_1), np.uint64(MIX_FACTOR_2)
_SHIFT_1, _SHIFT_2, _SHIFT_3, _DROPPED = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)


def _best_of_blocks(
    logits: Array, temperatures: Array, keys: Array, blocks_per_row: int, best_scores: Array, best_tokens: Array
) -> None:
    """best[row, block] = max of logit / temperature - log(-log(u)) over a block's tokens; of equal ones the lowest."""
    scores = cuda.shared.array(MAX_THREADS, np.float64)
    tokens = cuda.shared.array(MAX_THREADS, np.int64)
    thread = cuda.threadIdx.x
    row, block = cuda.blockIdx.x // blocks_per_row, cuda.blockIdx.x % blocks_per_row
    begin = block * cuda.blockDim.x * _TOKENS_PER_THREAD
    end = min(begin + cuda.blockDim.x * _TOKENS_PER_THREAD, logits.shape[1])
    key, temperature = keys[row], temperatures[row]
    best, best_token = -math.inf, logits.shape[1]
    for token in range(begin + thread, end, cuda.blockDim.x):
        score = np.float64(logits[row, token]) / temperature + _noise(key, np.uint64(token))
        if _is_better(score, token, best, best_token):
            best, best_token = score, token
    scores[thread], tokens[thread] = best, best_token
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if thread < half and _is_better(scores[thread + half], tokens[thread + half], scores[thread], tokens[thread]):
            scores[thread], tokens[thread] = scores[thread + half], tokens[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        best_scores[row, block], best_tokens[row, block] = scores[0], tokens[0]


@device_function
def _noise(key: np.uint64, token: np.uint64) -> float:
    """Return -log(-log(u)), where u is made of the upper 52 bits of mix64(token * SEED_FACTOR ^ key)."""
    mixed = (token * _SEED_FACTOR) ^ key
    mixed = (mixed ^ (mixed >> _SHIFT_1)) * _MIX_1
    mixed = (mixed ^ (mixed >> _SHIFT_2)) * _MIX_2
    mixed ^= mixed >> _SHIFT_3
    return -math.log(-math.log((np.float64(mixed >> _DROPPED) + 0.5) * 2.0**-52))


@device_function
def _is_better(score: float, token: int, best: float, best_token: int) -> bool:
    """Order as torch.argmax does: what is no number is above all, of equal ones the first wins."""
    if math.isnan(score) or math.isnan(best):
        return math.isnan(score) and (token < best_token or not math.isnan(best))
    return score > best or (score == best and token < best_token)


_SIGNATURE = "void({0}[:, ::1], float64[::1], uint64[::1], int64, float64[:, ::1], int64[:, ::1])"
BEST_OF_BLOCKS: Final = KernelSource(_best_of_blocks, (_SIGNATURE.format("float32"), _SIGNATURE.format("float64")))


class GumbelKernel:
    """The compiled kernel."""

    def __init__(self) -> None:
        self._compiled = BEST_OF_BLOCKS.compile()

    def launch(self, logits: torch.Tensor, temperatures: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Choose a token per row of contiguous logits, float32 or float64; float64 temperatures, int64 keys."""
        num_rows, vocab_size = logits.shape
        blocks = -(-vocab_size // (THREADS * _TOKENS_PER_THREAD))
        scores = torch.empty((num_rows, blocks), dtype=torch.float64, device=logits.device)
        tokens = torch.empty((num_rows, blocks), dtype=torch.int64, device=logits.device)
        with torch_stream(logits.device) as stream:
            self._compiled[num_rows * blocks, THREADS, stream](
                as_array(logits, np.float32 if logits.dtype == torch.float32 else np.float64),
                as_array(temperatures, np.float64),
                as_array(keys, np.uint64),
                blocks,
                as_array(scores, np.float64),
                as_array(tokens, np.int64),
            )
        # Blocks are in the order of their tokens, so the first of equal ones has the lowest.
        return tokens.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)
