"""The chunk digest where the chunks are: of memory on a GPU (or any other device), without waiting for it."""

from __future__ import annotations

import torch

from cuda_kernels import digest_torch
from cuda_kernels.backend import kernels_for


def device_digests(memory: torch.Tensor, chunk_bytes: int) -> torch.Tensor:
    """Digests of consecutive chunks, the last of which may be shorter: int64, the same 64 bits as the unsigned number.

    `memory` is one-dimensional, contiguous, of type uint8, and begins at a multiple of 8, as does each chunk. The
    work is put on the current stream of its device; nothing waits, nothing is copied between host and device.
    """
    if memory.dtype != torch.uint8 or memory.ndim != 1 or not memory.is_contiguous() or memory.data_ptr() % 8:
        raise ValueError("digests are taken of contiguous bytes that begin at a multiple of 8")
    if chunk_bytes <= 0 or chunk_bytes % 8:
        raise ValueError(f"chunks of {chunk_bytes} bytes: not a positive multiple of 8")
    digests = torch.zeros(-(-memory.numel() // chunk_bytes), dtype=torch.int64, device=memory.device)
    kernels = kernels_for(memory.device)
    if len(digests) == 0:
        return digests
    if kernels is None:
        digest_torch.add_digests(memory, chunk_bytes, digests)
    else:
        kernels.digest.launch(memory, chunk_bytes, digests)
    return digests
