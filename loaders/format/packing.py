"""Where the segments of a packed tensor lie; their insides are the matter of `cuda_kernels.packed_layout`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cuda_kernels.packed_layout import segment_parts
from loaders.format.geometry import CHUNK_BYTES, align_up

#: Elements of every segment but a tensor's last. Small enough that the room lost where a segment would cross a chunk's
#: border (half a segment on average) is 0.6 % of a chunk.
SEGMENT_ELEMENTS = 1 << 17
#: 8.6e9 elements: more than the largest matrices of known models (1.3e9) by far.
MAX_SEGMENTS = 1 << 16


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


def segment_bytes(num_elements: int, num_patches: int) -> int:
    """Size of a segment."""
    return segment_parts(num_elements, num_patches).num_bytes


def num_segments(num_elements: int) -> int:
    """How many segments a tensor is cut into."""
    return -(-num_elements // SEGMENT_ELEMENTS)


def segments(offset: int, num_elements: int, num_patches: tuple[int, ...]) -> Iterator[Segment]:
    """Lay out the segments of a tensor that begins at `offset`: one after another, none across a chunk's border."""
    for number, patches in enumerate(num_patches):
        first = number * SEGMENT_ELEMENTS
        length = min(SEGMENT_ELEMENTS, num_elements - first)
        num_bytes = segment_bytes(length, patches)
        if offset // CHUNK_BYTES != (offset + num_bytes - 1) // CHUNK_BYTES:
            offset = align_up(offset, CHUNK_BYTES)
        yield Segment(begin=offset, first_element=first, num_elements=length, num_patches=patches)
        offset += num_bytes
