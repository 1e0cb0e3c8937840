"""The chunk digest as a kernel: the digests of any number of chunks in one launch. Specified in docs/format.md."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from cuda_kernels.digest_reference import FACTOR_1, FACTOR_2, KEY_STEP, digest_seed
from cuda_kernels.gpu.numba_cuda import (
    IS_SIMULATED,
    MAX_THREADS,
    THREADS,
    Array,
    KernelSource,
    as_array,
    cuda,
    device_function,
    torch_stream,
)

#: Of a chunk of 16 MiB each thread has 128 words: enough blocks for one chunk to occupy half of an H200.
_BLOCKS_PER_CHUNK: Final = 2 if IS_SIMULATED else 64

_STEP, _FACTOR_1, _FACTOR_2 = np.uint64(KEY_STEP), np.uint64(FACTOR_1), np.uint64(FACTOR_2)
_HALF = np.uint64(32)
_BYTE = np.uint64(8)
_ZERO = np.uint64(0)


@device_function
def _mix(word: np.uint64, index: int, seed: np.uint64) -> np.uint64:
    """fold((word ^ (index * STEP + seed)) * FACTOR_1), where fold(x) = x ^ (x >> 32)."""
    mixed = (word ^ (np.uint64(index) * _STEP + seed)) * _FACTOR_1
    return mixed ^ (mixed >> _HALF)


def _digest(  # noqa: PLR0913, PLR0917 - a kernel has what it works on as arguments
    words: Array,
    memory: Array,
    num_bytes: int,
    chunk_bytes: int,
    seed: np.uint64,
    last_seed: np.uint64,
    blocks_per_chunk: int,
    digests: Array,
) -> None:
    """digests[chunk] += sum of the mixed words of the chunk * FACTOR_2."""
    chunk = cuda.blockIdx.x // blocks_per_chunk
    begin = chunk * chunk_bytes
    length = min(chunk_bytes, num_bytes - begin)
    chunk_seed = last_seed if begin + chunk_bytes >= num_bytes else seed
    first, count = begin // 8, length // 8
    index = (cuda.blockIdx.x % blocks_per_chunk) * cuda.blockDim.x + cuda.threadIdx.x
    stride = blocks_per_chunk * cuda.blockDim.x
    total = _ZERO
    # Four at a time: independent reads that the memory can answer together.
    while index + 3 * stride < count:
        word_0 = words[first + index]
        word_1 = words[first + index + stride]
        word_2 = words[first + index + 2 * stride]
        word_3 = words[first + index + 3 * stride]
        total += _mix(word_0, index, chunk_seed) + _mix(word_1, index + stride, chunk_seed)
        total += _mix(word_2, index + 2 * stride, chunk_seed) + _mix(word_3, index + 3 * stride, chunk_seed)
        index += 4 * stride
    while index < count:
        total += _mix(words[first + index], index, chunk_seed)
        index += stride
    if index == count and length % 8 != 0:
        # Whose turn it would be takes the last bytes.
        total += _mix(_tail_word(memory, begin + 8 * count, length % 8), count, chunk_seed)
    total = _sum_of_block(total)
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(digests, chunk, total * _FACTOR_2)


@device_function
def _tail_word(memory: Array, begin: int, num_bytes: int) -> np.uint64:
    """Fill up a chunk's last bytes with zeros."""
    word = _ZERO
    for byte in range(num_bytes):
        word |= np.uint64(memory[begin + byte]) << (_BYTE * np.uint64(byte))
    return word


@device_function
def _sum_of_block(value: np.uint64) -> np.uint64:
    """Add up one value of each thread; the sum is in the first one's hands."""
    sums = cuda.shared.array(MAX_THREADS, np.uint64)
    thread = cuda.threadIdx.x
    sums[thread] = value
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if thread < half:
            sums[thread] += sums[thread + half]
        cuda.syncthreads()
        half //= 2
    total: np.uint64 = sums[0]
    return total


DIGEST: Final = KernelSource(
    _digest, ("void(uint64[::1], uint8[::1], int64, int64, uint64, uint64, int64, uint64[::1])",)
)


class DigestKernel:
    """The compiled kernel."""

    def __init__(self) -> None:
        self._compiled = DIGEST.compile()

    def launch(self, memory: torch.Tensor, chunk_bytes: int, digests: torch.Tensor) -> None:
        """Add the digests to what `digests` holds; see `cuda_kernels.device_digest` for what is given."""
        num_bytes = memory.numel()
        whole = num_bytes // 8 * 8
        with torch_stream(memory.device) as stream:
            sums = as_array(digests, np.uint64)
            self._compiled[len(digests) * _BLOCKS_PER_CHUNK, THREADS, stream](
                # An empty view has no address; nothing is read through what stands in for it.
                as_array(memory[:whole], np.uint64) if whole else sums,
                as_array(memory, np.uint8),
                num_bytes,
                chunk_bytes,
                np.uint64(digest_seed(chunk_bytes)),
                np.uint64(digest_seed(num_bytes - (len(digests) - 1) * chunk_bytes)),
                _BLOCKS_PER_CHUNK,
                sums,
            )
