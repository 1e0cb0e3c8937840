"""Packed tensors on a device: chunks pass through one place and are unpacked, and never lie there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch

from cuda_kernels.device_unpack import unpack_segments
from cuda_kernels.segment_table import PackedSegment, SegmentTable
from loaders.devices.copies import Copies
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES, TENSOR_ALIGNMENT, align_up
from loaders.format.packing import segments
from loaders.reading.plan import LoadPlan, StoredTensor
from loaders.tensors import view_tensors


class UnpackingArena:
    """The storages of a checkpoint one behind the other, packed ones unpacked; the last tensor frees them."""

    def __init__(self, plan: LoadPlan, device: torch.device, on_copied: Callable[[int], None]) -> None:
        """Allocate; raises torch.OutOfMemoryError when the device has no room."""
        self._plan = plan
        #: Offset in the arena and size there, by offset and size in the image.
        self._places: dict[tuple[int, int], tuple[int, int]] = {}
        self._raw: list[StoredTensor] = []
        end = 0
        packed: dict[int, list[PackedSegment]] = defaultdict(list)
        for tensor in _storages(plan):
            num_bytes = 2 * prod(tensor.shape) if tensor.packing is not None else tensor.num_bytes
            self._places[tensor.offset, tensor.num_bytes] = (end, num_bytes)
            if tensor.packing is None:
                self._raw.append(tensor)
            else:
                for chunk, segment in _segments(tensor, end):
                    packed[chunk].append(segment)
            end = align_up(end + num_bytes, TENSOR_ALIGNMENT)
        self._bytes = torch.empty(end, dtype=torch.uint8, device=device)
        self._staging = torch.empty(CHUNK_BYTES, dtype=torch.uint8, device=device)
        self._failures = torch.zeros(1, dtype=torch.int64, device=device)
        self._runs: dict[int, range] = {}
        rows: list[PackedSegment] = []
        for chunk, found in packed.items():
            self._runs[chunk] = range(len(rows), len(rows) + len(found))
            rows += found
        self._table = SegmentTable.build(rows, device)
        self._copies = Copies(device, on_copied)

    def accept(self, index: int, memory: memoryview) -> None:
        """Begin to copy what a chunk has of plain storages, and to unpack the rest."""
        begin, num_bytes = index * CHUNK_BYTES, self._plan.chunks[index].num_bytes
        source = torch.frombuffer(memory, dtype=torch.uint8, count=num_bytes)
        with self._copies.ordered():
            for tensor in self._raw:
                first = max(tensor.offset, begin)
                last = min(tensor.offset + tensor.num_bytes, begin + num_bytes)
                if first < last:
                    place = self._places[tensor.offset, tensor.num_bytes][0] + first - tensor.offset
                    target = self._bytes[place : place + last - first]
                    target.copy_(source[first - begin : last - begin], non_blocking=True)
            if index in self._runs:
                # One place is enough: the stream unpacks a chunk before it copies the next one over it.
                self._staging[:num_bytes].copy_(source, non_blocking=True)
                unpack_segments(self._table, self._runs[index], self._staging, self._bytes, self._failures)
        self._copies.mark(index)
        self.poll()

    def poll(self) -> None:
        """Give back memory that was copied."""
        self._copies.poll()

    def abandon(self) -> None:
        """Wait for what is under way, whatever becomes of it."""
        self._copies.finish()

    def finish(self) -> None:
        """Wait for all of it; raises CheckpointCorruptError for segments that make no sense."""
        self._copies.finish()
        if wrong := int(self._failures.item()):
            raise CheckpointCorruptError(f"{self._plan.files[0].where}: {wrong} patches of packed tensors out of place")

    def tensors(self) -> dict[str, torch.Tensor]:
        """Make every tensor."""
        unpacked = {
            tensor.offset: self._storage(tensor.offset, tensor.num_bytes)
            for tensor in _storages(self._plan)
            if tensor.packing is not None
        }
        return view_tensors(self._plan.tensors, self._storage, _as_it_is, unpacked)

    def side_by_side(self, names: Sequence[str]) -> torch.Tensor | None:
        """See `loaders.devices.loaded.SideBySide`; packed or not, all of them lie here as they are used."""
        found = self._plan.side_by_side(names, lambda tensor: self._places[tensor.offset, tensor.num_bytes][0])
        return None if found is None else self._bytes[found[0] : found[0] + found[1]]

    def _storage(self, offset: int, num_bytes: int) -> torch.Tensor:
        place, length = self._places[offset, num_bytes]
        return self._bytes[place : place + length]


def _storages(plan: LoadPlan) -> list[StoredTensor]:
    """One tensor of each storage, in the order of the image; views of one storage share its place."""
    return list({(tensor.offset, tensor.num_bytes): tensor for tensor in plan.tensors.values()}.values())


def _as_it_is(storage: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Every place in the arena is aligned for every type."""
    del dtype
    return storage


def _segments(tensor: StoredTensor, output: int) -> Iterator[tuple[int, PackedSegment]]:
    """Find the chunk of each segment of a packed tensor, and where its elements go."""
    if tensor.packing is None:
        return
    for segment in segments(tensor.offset, prod(tensor.shape), tensor.packing.num_patches):
        chunk = segment.begin // CHUNK_BYTES
        yield (
            chunk,
            PackedSegment(
                begin=segment.begin - chunk * CHUNK_BYTES,
                num_elements=segment.num_elements,
                num_patches=segment.num_patches,
                codebook=tensor.packing.codebook,
                output=output + 2 * segment.first_element,
            ),
        )
