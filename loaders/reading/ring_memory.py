"""A few chunks of memory used again and again, for content that only passes through on its way to a device."""

from __future__ import annotations

from loaders.memory.mapping import Mapping
from loaders.reading.chunk_memory import OwnChunks


class RingMemory(OwnChunks):
    """Memory of one load. A filled chunk keeps its place until `release`; until then fewer can be claimed."""

    def __init__(self, mapping: Mapping, chunk_bytes: int, num_chunks: int) -> None:
        """Use a mapping of some whole chunks for a content of `num_chunks`."""
        super().__init__(num_chunks)
        self._view = mapping.view
        self._chunk_bytes = chunk_bytes
        # The last one first, because places are popped from the end.
        self._free_slots = list(reversed(range(mapping.num_bytes // chunk_bytes)))
        self._slots: dict[int, int] = {}

    def chunk(self, index: int) -> memoryview:
        """Memory of a chunk that was claimed and not released."""
        begin = self._slots[index] * self._chunk_bytes
        return self._view[begin : begin + self._chunk_bytes]

    def claim(self, limit: int = 1) -> range:
        """Take the next chunk; empty while there is no place for it, or none left."""
        with self._changed:
            claimed = super().claim(limit) if self._free_slots else range(0)
            for index in claimed:
                self._slots[index] = self._free_slots.pop()
            return claimed

    def give_back(self, index: int) -> None:
        """Take a chunk later."""
        with self._changed:
            self._free_slots.append(self._slots.pop(index))
            self._unclaimed.append(index)

    def release(self, index: int) -> None:
        """Let the place of a filled chunk be used for another one."""
        with self._changed:
            self._free_slots.append(self._slots.pop(index))
