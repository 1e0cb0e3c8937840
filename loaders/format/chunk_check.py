"""Check one chunk of a partition: its digest, zeros wherever nothing lies, packed segments in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.digest import chunk_digest
from cuda_kernels.packed import decode_segment
from cuda_kernels.packed_layout import segment_parts
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.format.packing import Packing, Segment, segments
from loaders.format.tensor_index import TensorEntry


class ChunkCheck:
    """Knows where things lie in one partition; several threads may check chunks at once."""

    def __init__(self, where: str, entries: Sequence[TensorEntry], num_bytes: int) -> None:
        """Take the tensors of a partition, in the order of the index, and its size; `where` names it in errors."""
        self._where = where
        self._entries = entries
        self._gaps = list(_gaps(entries, num_bytes))
        self._packed = [
            (entry, entry.packing, segment)
            for entry in entries
            if entry.packing is not None
            for segment in segments(entry.offset, entry.num_elements, entry.packing.num_patches)
        ]

    def check(self, chunk: int, data: NDArray[np.uint8], expected: int) -> None:
        """Check bytes against their digest and the rules; raises CheckpointCorruptError, naming chunk and tensors."""
        begin = chunk * CHUNK_BYTES
        if (found := chunk_digest(data)) != expected:
            where = f"{self._where}: chunk {chunk}, bytes {begin} to {begin + len(data)}"
            tensors = self._tensors_in(begin, begin + len(data))
            raise CheckpointCorruptError(f"{where}, {tensors}: digest {found:016x}, expected {expected:016x}")
        self._check_gaps(begin, data)
        self._check_segments(begin, data)

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
                f"{self._where}: tensor {entry.name}, segment at byte {segment.begin}: {error}"
            ) from error

    def _check_zero(self, data: NDArray[np.uint8], position: int) -> None:
        found = np.flatnonzero(data)
        if len(found):
            raise CheckpointCorruptError(f"{self._where}: byte {position + int(found[0])} of padding is not zero")


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
