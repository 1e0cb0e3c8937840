"""Tensors of other people's files that lie where their type cannot be read: each gets memory of its own."""

from __future__ import annotations

import torch


class Realigned:
    """Makes those tensors while their bytes are on their way, and copies the bytes when they are there."""

    def __init__(self) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def storage(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the bytes of a tensor to be read as `dtype`: as they are stored, or memory for a copy of them."""
        if stored.data_ptr() % dtype.itemsize == 0:
            return stored
        copy = torch.empty_like(stored)
        self._copies.append((copy, stored))
        return copy

    def finish(self) -> None:
        """Copy, now that all bytes are there."""
        for copy, stored in self._copies:
            copy.copy_(stored)
            if copy.is_cuda:
                # Whoever uses it next may do so on another stream.
                torch.cuda.current_stream(copy.device).synchronize()
        self._copies.clear()
