"""Read all of a checkpoint and compare it with its digests; also look that padding hides nothing."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.digest import chunk_digest
from cuda_kernels.packed import decode_segment
from cuda_kernels.packed_layout import segment_parts
from loaders.errors import CheckpointCorruptError
from loaders.format.files import OpenFile
from loaders.format.geometry import CHUNK_BYTES, MANIFEST, MODEL_DIRECTORY, TENSOR_INDEX, partition_name
from loaders.format.manifest import Manifest, PartitionRecord
from loaders.format.packing import Packing, Segment, segments
from loaders.format.tensor_index import TensorEntry
from loaders.format.validate import OpenCheckpoint, open_checkpoint


def verify(path: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Check every byte of a checkpoint; raises what `open_checkpoint` raises, naming tensors and chunk.

    `on_progress` is called with bytes done and bytes in all.
    """
    with open_checkpoint(path) as checkpoint:
        _check_listing(checkpoint)
        done = 0
        buffer = np.empty(CHUNK_BYTES, dtype=np.uint8)
        for rank, record in enumerate(checkpoint.manifest.content.partitions):
            for num_bytes in _PartitionCheck(checkpoint, rank, record, buffer).chunks():
                done += num_bytes
                if on_progress is not None:
                    on_progress(done, checkpoint.manifest.num_bytes)
        checkpoint.check_unchanged()
        return checkpoint.manifest


def _check_listing(checkpoint: OpenCheckpoint) -> None:
    """Refuse files that nothing refers to."""
    expected = {MANIFEST, TENSOR_INDEX, *map(partition_name, range(len(checkpoint.partitions)))}
    expected |= {MODEL_DIRECTORY} if checkpoint.model_file_names else set()
    with os.scandir(checkpoint.path) as entries:
        for entry in entries:
            if entry.name not in expected:
                raise CheckpointCorruptError(f"{checkpoint.path / entry.name}: is no part of a checkpoint")


class _PartitionCheck:
    """One partition, chunk by chunk in order."""

    def __init__(
        self, checkpoint: OpenCheckpoint, rank: int, record: PartitionRecord, buffer: NDArray[np.uint8]
    ) -> None:
        self._file: OpenFile = checkpoint.partitions[rank]
        self._record = record
        self._buffer = buffer
        self._entries = [entry for entry in checkpoint.index.tensors.values() if entry.partition == rank]
        self._gaps = list(_gaps(self._entries, record.num_bytes))
        self._packed = [
            (entry, entry.packing, segment)
            for entry in self._entries
            if entry.packing is not None
            for segment in segments(entry.offset, entry.num_elements, entry.packing.num_patches)
        ]

    def chunks(self) -> Iterator[int]:
        """Check each chunk; yields its size."""
        whole = hashlib.sha256()
        for chunk, expected in enumerate(self._record.chunk_digests):
            begin = chunk * CHUNK_BYTES
            data = self._buffer[: min(CHUNK_BYTES, self._record.num_bytes - begin)]
            self._file.read_into(data.data, begin)
            if (found := chunk_digest(data)) != expected:
                where = f"{self._file.where}: chunk {chunk}, bytes {begin} to {begin + len(data)}"
                raise CheckpointCorruptError(
                    f"{where}, {self._tensors_in(begin, begin + len(data))}: digest {found:016x}, "
                    f"expected {expected:016x}"
                )
            self._check_gaps(begin, data)
            self._check_segments(begin, data)
            whole.update(data.data)
            yield len(data)
        if (sha256 := whole.hexdigest()) != self._record.sha256:
            raise CheckpointCorruptError(f"{self._file.where}: SHA-256 {sha256}, expected {self._record.sha256}")

    def _tensors_in(self, begin: int, end: int) -> str:
        names = [entry.name for entry in self._entries if entry.offset < end and entry.offset + entry.num_bytes > begin]
        if not names:
            return "padding"
        return f"tensor {names[0]}" if len(names) == 1 else f"tensors {names[0]} to {names[-1]}"

    def _check_gaps(self, begin: int, data: NDArray[np.uint8]) -> None:
        end = begin + len(data)
        for gap_begin, gap_end in self._gaps[bisect_right(self._gaps, begin, key=itemgetter(1)) :]:
            if gap_begin >= end:
                break
            first, last = max(gap_begin, begin), min(gap_end, end)
            self._check_zero(data[first - begin : last - begin], first)

    def _check_segments(self, begin: int, data: NDArray[np.uint8]) -> None:
        for entry, packing, segment in self._packed[bisect_left(self._packed, begin, key=lambda item: item[2].begin) :]:
            if segment.begin >= begin + len(data):
                break
            self._check_segment(entry, packing, segment, data[segment.begin - begin : segment.end - begin])

    def _check_segment(self, entry: TensorEntry, packing: Packing, segment: Segment, data: NDArray[np.uint8]) -> None:
        parts = segment_parts(segment.num_elements, segment.num_patches)
        for end, begin in (
            (segment.num_elements, parts.codes),
            (parts.codes + (segment.num_elements + 1) // 2, parts.patch_indices),
            (parts.patch_indices + 4 * segment.num_patches, parts.patch_exponents),
            (parts.patch_exponents + segment.num_patches, parts.num_bytes),
        ):
            self._check_zero(data[end:begin], segment.begin + end)
        try:
            decode_segment(data, segment.num_patches, packing.codebook, np.empty(segment.num_elements, dtype=np.uint16))
        except ValueError as error:
            raise CheckpointCorruptError(
                f"{self._file.where}: tensor {entry.name}, segment at byte {segment.begin}: {error}"
            ) from error

    def _check_zero(self, data: NDArray[np.uint8], position: int) -> None:
        found = np.flatnonzero(data)
        if len(found):
            raise CheckpointCorruptError(f"{self._file.where}: byte {position + int(found[0])} of padding is not zero")


def _gaps(entries: Sequence[TensorEntry], num_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of a partition in which nothing lies."""
    taken = [(0, 0)]
    for entry in entries:
        if entry.packing is None:
            taken.append((entry.offset, entry.offset + entry.num_bytes))
        else:
            pieces = segments(entry.offset, entry.num_elements, entry.packing.num_patches)
            taken.extend((segment.begin, segment.end) for segment in pieces)
    taken.append((num_bytes, num_bytes))
    for (_, end), (begin, _) in pairwise(sorted(set(taken))):
        if end < begin:
            yield end, begin
