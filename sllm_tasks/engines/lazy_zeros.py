"""Zeros that cost their time when they are first used, and not when a model is loaded."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch


def lazy_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make zeros; on a CPU their pages come when they are touched. Raises RuntimeError, as torch does without memory.

    Of a cache of keys and values most is never written. Torch writes 64 MiB of zeros in 2 ms, or in 20 where the
    process has given that memory back before (AMD EPYC; `torch.zeros` in an engine that loads again and again).
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or not num_bytes:
        return torch.zeros(*shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise RuntimeError(f"can't allocate memory: {num_bytes} bytes of zeros") from error
    return torch.frombuffer(memory, dtype=dtype).view(*shape).to(device)
