"""Copies from the host's memory to a device, on a stream of their own, in order, and when each of them is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch


class Copies:
    """The one stream of a load. On a CPU, which has no streams, everything is over when it returns."""

    def __init__(self, device: torch.device, on_copied: Callable[[int], None]) -> None:
        """`on_copied` is called, by whoever calls us, when the memory of a chunk may be used again."""
        self._on_copied = on_copied
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            # Memory that was just allocated may still be in use by what its last owner has left on the other stream.
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._under_way: deque[tuple[int, torch.cuda.Event]] = deque()

    def ordered(self) -> AbstractContextManager[object]:
        """What is begun inside goes to the stream, behind what was begun before."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def mark(self, index: int) -> None:
        """Say that all copies out of a chunk's memory have been begun."""
        if self._stream is None:
            self._on_copied(index)
            return
        event = torch.cuda.Event()
        event.record(self._stream)
        self._under_way.append((index, event))

    def poll(self) -> None:
        """Give back the memory of chunks that have been copied; copies end in the order they began."""
        while self._under_way and self._under_way[0][1].query():
            self._on_copied(self._under_way.popleft()[0])

    def finish(self) -> None:
        """Wait for all of it."""
        if self._stream is not None:
            self._stream.synchronize()
        self.poll()
