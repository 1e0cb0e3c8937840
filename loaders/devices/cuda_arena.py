"""Tensors in the memory of a GPU: one arena per checkpoint, filled chunk by chunk while others are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from loaders.format.geometry import CHUNK_BYTES
from loaders.reading.plan import LoadPlan
from loaders.tensors import view_tensors


class CudaArena:
    """The image of a checkpoint on a GPU. Chunks are copied on a stream of their own, one event for each.

    Raises torch.OutOfMemoryError when it is made and the device has no room.
    """

    def __init__(self, plan: LoadPlan, device: torch.device, on_copied: Callable[[int], None]) -> None:
        """`on_copied` is called, from the thread that calls us, when the memory of a chunk may be used again."""
        self._plan = plan
        self._on_copied = on_copied
        self._bytes = torch.empty(max(plan.image_bytes, 1), dtype=torch.uint8, device=device)
        self._stream = torch.cuda.Stream(device)
        self._copying: deque[tuple[int, torch.cuda.Event]] = deque()

    def accept(self, index: int, memory: memoryview) -> None:
        """Begin to copy a chunk; in page-locked memory that goes on while the caller does."""
        num_bytes, begin = self._plan.chunks[index].num_bytes, index * CHUNK_BYTES
        source = torch.frombuffer(memory, dtype=torch.uint8, count=num_bytes)
        with torch.cuda.stream(self._stream):
            self._bytes[begin : begin + num_bytes].copy_(source, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        self._copying.append((index, event))
        self.poll()

    def poll(self) -> None:
        """Give back the memory of chunks that are on the device by now; copies end in the order they began."""
        while self._copying and self._copying[0][1].query():
            self._on_copied(self._copying.popleft()[0])

    def finish(self) -> None:
        """Wait for all copies."""
        self._stream.synchronize()
        self.poll()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Make every tensor."""
        return view_tensors(self._plan.tensors, lambda offset, count: self._bytes[offset : offset + count], {})
