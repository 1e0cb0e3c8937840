"""Where the segments of a packed tensor lie; their insides are the matter of `cuda_kernels.packed_layout`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cuda_kernels.packed_layout import segment_bytes
from loaders.format.geometry import CHUNK_BYTES, align_up

#: Elements of every segment but a tensor's last. Small enough that the room lost where a segment would cross a chunk's
#: border (half a segment on average) is 1.2 % of a chunk, large enough that the index of a large model can list them.
SEGMENT_ELEMENTS = 1 << 18
#: Of a tensor: 1.7e10 elements, more than the largest matrices of known models (1.3e9) by far.
MAX_SEGMENTS = 1 << 16
#: Of a checkpoint: 1.4e11 elements; what is beyond stays raw.
MAX_TOTAL_SEGMENTS = 1 << 19


@dataclass(frozen=True, slots=True)
class Packing:
    """How a bfloat16 tensor was packed."""

    #: The exponent that each 4-bit code stands for, ascending.
    codebook: tuple[int, ...]
    #: Number of patches of each segment.
    num_patches: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a packed tensor that lies within one chunk and can be unpacked by itself."""

    #: Bytes from the beginning of the partition.
    begin: int
    first_element: int
    num_elements: int
    num_patches: int

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.begin + segment_bytes(self.num_elements, self.num_patches)


def num_segments(num_elements: int) -> int:
    """How many segments a tensor is cut into."""
    return -(-num_elements // SEGMENT_ELEMENTS)


def segments(offset: int, num_elements: int, num_patches: tuple[int, ...]) -> Iterator[Segment]:
    """Lay out the segments of a tensor that begins at `offset`: one after another, none across a chunk's border."""
    first = 0
    for patches in num_patches:
        length = min(SEGMENT_ELEMENTS, num_elements - first)
        begin = _begin(offset, segment_bytes(length, patches))
        yield Segment(begin=begin, first_element=first, num_elements=length, num_patches=patches)
        offset = begin + segment_bytes(length, patches)
        first += length


def end_of_segments(offset: int, num_elements: int, num_patches: tuple[int, ...]) -> int:
    """Where the last of `segments` ends, found without making any."""
    for patches in num_patches:
        num_bytes = segment_bytes(min(SEGMENT_ELEMENTS, num_elements), patches)
        offset = _begin(offset, num_bytes) + num_bytes
        num_elements -= SEGMENT_ELEMENTS
    return offset


def _begin(offset: int, num_bytes: int) -> int:
    crosses = offset // CHUNK_BYTES != (offset + num_bytes - 1) // CHUNK_BYTES
    return align_up(offset, CHUNK_BYTES) if crosses else offset
