"""Packed tensors become plain ones, segment by segment, as the chunks arrive."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from cuda_kernels.packed import decode_segment
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.format.packing import Packing, Segment, segments
from loaders.reading.plan import LoadPlan, StoredTensor

#: Decoding takes 0.6 s of a core per GB: what the readers leave of two.
_NUM_THREADS = 2


class Unpacking:
    """Does nothing, and starts nothing, for a checkpoint without packed tensors."""

    def __init__(self, plan: LoadPlan) -> None:
        #: Storages of packed tensors as bytes, by their offset in the image.
        self.storages: dict[int, torch.Tensor] = {}
        self._work: dict[int, list[tuple[Segment, Packing, NDArray[np.uint16]]]] = defaultdict(list)
        for tensor in plan.tensors.values():
            if tensor.packing is not None and tensor.offset not in self.storages:
                self._add(tensor, tensor.packing)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "unpack") if self.storages else None
        self._pending: list[Future[None]] = []

    def accept(self, index: int, memory: memoryview) -> None:
        """Begin to unpack a chunk, which stays as it is until `finish` returns."""
        if self._threads is not None:
            self._pending.append(self._threads.submit(self._unpack, index, memory))

    def finish(self) -> None:
        """Wait for all of it; raises CheckpointCorruptError for segments that make no sense."""
        if self._threads is None:
            return
        self._threads.shutdown()
        for done in self._pending:
            done.result()

    def _add(self, tensor: StoredTensor, packing: Packing) -> None:
        storage = torch.empty(2 * prod(tensor.shape), dtype=torch.uint8)
        bits = storage.numpy().view(np.uint16)
        for segment in segments(tensor.offset, len(bits), packing.num_patches):
            self._work[segment.begin // CHUNK_BYTES].append((segment, packing, bits))
        self.storages[tensor.offset] = storage

    def _unpack(self, index: int, memory: memoryview) -> None:
        stored = np.frombuffer(memory, dtype=np.uint8)
        for segment, packing, bits in self._work[index]:
            begin = segment.begin - index * CHUNK_BYTES
            out = bits[segment.first_element : segment.first_element + segment.num_elements]
            try:
                decode_segment(
                    stored[begin : begin + segment.end - segment.begin], segment.num_patches, packing.codebook, out
                )
            except ValueError as error:
                raise CheckpointCorruptError(f"chunk {index}: a packed segment at byte {begin}: {error}") from error
