"""How long a GPU takes to digest bytes that it holds, beside a copy of the same bytes within its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cuda_kernels.backend import Backend, warm_up
from cuda_kernels.device_digest import device_digests
from loaders.format.geometry import CHUNK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestTimes:
    """One number per round, in seconds."""

    backend: Backend
    num_bytes: int
    digest_s: tuple[float, ...]
    copy_s: tuple[float, ...]


def digest_times(device: torch.device, num_bytes: int, num_rounds: int = 5) -> DigestTimes:
    """Time the digests of all chunks of as many bytes on a GPU; what a copy moves is twice as much."""
    backend = warm_up(device).backend
    memory = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, device=device)
    other = torch.empty_like(memory)
    digest_s, copy_s = [], []
    for _ in range(num_rounds):
        digest_s.append(_seconds(lambda: device_digests(memory, CHUNK_BYTES), device))
        copy_s.append(_seconds(lambda: other.copy_(memory), device))
    return DigestTimes(backend=backend, num_bytes=num_bytes, digest_s=tuple(digest_s), copy_s=tuple(copy_s))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    with torch.cuda.device(device):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000
