"""Tensors on a device: one arena per checkpoint, which lies there as it lies in the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch

from cuda_kernels.device_digest import device_digests
from loaders.devices.copies import Copies
from loaders.devices.realigned import Realigned
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.reading.plan import Chunk, LoadPlan
from loaders.tensors import view_tensors


class ImageArena:
    """The image of a checkpoint on a device. The allocator of torch owns it; the last tensor frees it."""

    def __init__(self, plan: LoadPlan, device: torch.device, on_copied: Callable[[int], None], *, verify: bool) -> None:
        """Allocate; raises torch.OutOfMemoryError when the device has no room."""
        self._plan = plan
        self._bytes = torch.empty(plan.image_bytes, dtype=torch.uint8, device=device)
        self._copies = Copies(device, on_copied)
        self._verify = verify
        self._realigned = Realigned()

    def accept(self, index: int, memory: memoryview) -> None:
        """Begin to copy a chunk; out of page-locked memory that goes on while the caller does."""
        num_bytes, begin = self._plan.chunks[index].num_bytes, index * CHUNK_BYTES
        with self._copies.ordered():
            source = torch.frombuffer(memory, dtype=torch.uint8, count=num_bytes)
            self._bytes[begin : begin + num_bytes].copy_(source, non_blocking=True)
        self._copies.mark(index)
        self.poll()

    def poll(self) -> None:
        """Give back memory that was copied."""
        self._copies.poll()

    def abandon(self) -> None:
        """Wait for what is under way, whatever becomes of it."""
        self._copies.finish()

    def finish(self) -> None:
        """Wait for all copies, and compare what arrived with its digests: the way from file to device ends here."""
        with self._copies.ordered():
            found = [self._digests(chunks) for chunks in self._digested_files()]
        self._copies.finish()
        for chunks, digests in zip(self._digested_files(), found, strict=True):
            for (_, chunk), digest in zip(chunks, digests.tolist(), strict=True):
                if digest & (2**64 - 1) != chunk.digest:
                    where = self._plan.files[chunk.file].where
                    raise CheckpointCorruptError(f"{where}: the bytes at {chunk.offset} reached the device changed")
        self._realigned.finish()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Make every tensor."""
        return view_tensors(self._plan.tensors, self._storage_bytes, self._realigned.storage, {})

    def side_by_side(self, names: Sequence[str]) -> torch.Tensor | None:
        """See `loaders.devices.loaded.SideBySide`."""
        place = self._plan.side_by_side(names)
        return None if place is None else self._storage_bytes(*place)

    def _storage_bytes(self, offset: int, num_bytes: int) -> torch.Tensor:
        return self._bytes[offset : offset + num_bytes]

    def _digested_files(self) -> list[list[tuple[int, Chunk]]]:
        """Chunks with digests, file by file: only the last of a file may be short, as one launch demands."""
        if not self._verify:
            return []
        chunks = [(index, chunk) for index, chunk in enumerate(self._plan.chunks) if chunk.digest is not None]
        return [list(group) for _, group in groupby(chunks, key=lambda entry: entry[1].file)]

    def _digests(self, chunks: list[tuple[int, Chunk]]) -> torch.Tensor:
        first, last = chunks[0][0], chunks[-1]
        end = last[0] * CHUNK_BYTES + last[1].num_bytes
        return device_digests(self._bytes[first * CHUNK_BYTES : end], CHUNK_BYTES)
