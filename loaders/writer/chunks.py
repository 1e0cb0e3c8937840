"""Put chunks together from the bytes of a source."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.packed import encode_segment
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.format.packing import Packing, Segment
from loaders.writer.layout import Layout, PartitionLayout, PlacedStorage
from loaders.writer.sources import Source


class ChunkAssembler:
    """Fills buffers with what belongs into a chunk; several threads may do so at once."""

    def __init__(self, layout: Layout, source: Source) -> None:
        self._partitions = layout.partitions
        self._source = source
        self._ends = [[place.end for place in partition.storages] for partition in layout.partitions]

    def fill(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill the beginning of a buffer of one chunk's size; return the part that belongs to the chunk."""
        partition = self._partitions[rank]
        begin = chunk * CHUNK_BYTES
        filled = buffer[: min(CHUNK_BYTES, partition.num_bytes - begin)]
        end = begin + len(filled)
        position = begin
        for place in self._places(partition, self._ends[rank], begin, end):
            first, last = max(place.offset, begin), min(place.end, end)
            filled[position - begin : first - begin] = 0
            if place.packing is None:
                self._source.read(place.storage, first - place.offset, filled[first - begin : last - begin].data)
            else:
                self._pack(place, place.packing, filled, begin, end)
            position = last
        filled[position - begin :] = 0
        return filled

    @staticmethod
    def _places(partition: PartitionLayout, ends: list[int], begin: int, end: int) -> list[PlacedStorage]:
        """Storages with bytes in a range."""
        places = []
        for place in partition.storages[bisect_right(ends, begin) :]:
            if place.offset >= end:
                break
            if place.num_bytes:
                places.append(place)
        return places

    def _pack(self, place: PlacedStorage, packing: Packing, filled: NDArray[np.uint8], begin: int, end: int) -> None:
        first, last = max(place.offset, begin), min(place.end, end)
        # Between segments is room where one would have crossed the chunk's border.
        filled[first - begin : last - begin] = 0
        for segment in place.segments:
            if begin <= segment.begin < end:
                self._pack_segment(place, packing, segment, filled[segment.begin - begin : segment.end - begin])

    def _pack_segment(self, place: PlacedStorage, packing: Packing, segment: Segment, part: NDArray[np.uint8]) -> None:
        values = np.empty(segment.num_elements, dtype=np.uint16)
        self._source.read(place.storage, 2 * segment.first_element, values.data.cast("B"))
        try:
            encode_segment(values, packing.codebook, segment.num_patches, part)
        except ValueError as error:
            raise CheckpointCorruptError(f"{self._source.description}: changed while it was being read") from error
