"""The arenas of a load, one on each of its devices: every chunk goes to those that need it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch

from loaders.devices.arena import ImageArena
from loaders.devices.parts import Part
from loaders.devices.unpacking_arena import UnpackingArena


class Arenas:
    """Copies to all devices go on at once, each on a stream of its own."""

    def __init__(self, parts: Sequence[Part], on_copied: Callable[[int], None], *, verify: bool) -> None:
        """Allocate; raises torch.OutOfMemoryError when a device has no room.

        `on_copied` is called, by whoever calls us, when no device needs the memory of a chunk any more.
        """
        self._on_copied = on_copied
        # How many devices still copy a chunk.
        self._num_copying: dict[int, int] = {}
        self._takers: dict[int, list[tuple[ImageArena | UnpackingArena, int]]] = defaultdict(list)
        self._arenas: list[ImageArena | UnpackingArena] = []
        for part in parts:
            arena = _arena(part, partial(self._copied, part.chunks), verify=verify)
            self._arenas.append(arena)
            for number, index in enumerate(part.chunks):
                self._takers[index].append((arena, number))

    def accept(self, index: int, memory: memoryview) -> None:
        """Begin to copy a chunk to wherever it is needed."""
        takers = self._takers[index]
        if not takers:
            self._on_copied(index)
        self._num_copying[index] = len(takers)
        for arena, number in takers:
            arena.accept(number, memory)

    def poll(self) -> None:
        """Give back memory that was copied."""
        for arena in self._arenas:
            arena.poll()

    def abandon(self) -> None:
        """Wait for what is under way, whatever becomes of it."""
        for arena in self._arenas:
            arena.abandon()

    def finish(self) -> None:
        """Wait for all of it; raises CheckpointCorruptError for what did not arrive as it should."""
        for arena in self._arenas:
            arena.finish()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Make every tensor."""
        return {name: tensor for arena in self._arenas for name, tensor in arena.tensors().items()}

    def side_by_side(self, names: Sequence[str]) -> torch.Tensor | None:
        """See `loaders.devices.loaded.SideBySide`; of one device, since joined tensors are of one layer."""
        found = (arena.side_by_side(names) for arena in self._arenas)
        return next((tensor for tensor in found if tensor is not None), None)

    def _copied(self, chunks: Sequence[int], number: int) -> None:
        index = chunks[number]
        self._num_copying[index] -= 1
        if not self._num_copying[index]:
            self._on_copied(index)


def _arena(part: Part, on_copied: Callable[[int], None], *, verify: bool) -> ImageArena | UnpackingArena:
    if any(tensor.packing is not None for tensor in part.plan.tensors.values()):
        return UnpackingArena(part.plan, part.device, on_copied)
    return ImageArena(part.plan, part.device, on_copied, verify=verify)
