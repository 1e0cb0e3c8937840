"""Tensors in the memory of the CPU: views of the image itself, without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loaders.devices.realigned import Realigned
from loaders.devices.unpacking import Unpacking
from loaders.memory.mapping import Mapping
from loaders.reading.plan import LoadPlan
from loaders.tensors import view_tensors


class CpuImage:
    """The image of a checkpoint in this process's memory.

    `tensors` may be called at once; their values are right after `finish`. Each of them keeps the memory.
    """

    def __init__(self, plan: LoadPlan, mapping: Mapping) -> None:
        self._plan = plan
        self._view = mapping.view
        self._unpacking = Unpacking(plan)
        self._realigned = Realigned()

    def accept(self, index: int, memory: memoryview) -> None:
        """Unpack what a chunk has of packed tensors."""
        self._unpacking.accept(index, memory)

    def poll(self) -> None:
        """Nothing goes on that would have to be looked after."""

    def finish(self) -> None:
        """Wait until everything that was accepted is in its place."""
        self._unpacking.finish()
        self._realigned.finish()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Make every tensor."""
        unpacked = self._unpacking.storages
        return view_tensors(self._plan.tensors, self._storage_bytes, self._realigned.storage, unpacked)

    def side_by_side(self, names: Sequence[str]) -> torch.Tensor | None:
        """See `loaders.devices.loaded.SideBySide`."""
        place = self._plan.side_by_side(names)
        return None if place is None else self._storage_bytes(*place)

    def _storage_bytes(self, offset: int, num_bytes: int) -> torch.Tensor:
        if num_bytes == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._view, dtype=torch.uint8, count=num_bytes, offset=offset)
