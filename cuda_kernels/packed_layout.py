"""Where the parts of a packed segment lie. Specified in docs/format.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

#: What a GPU reads in one load.
PART_ALIGNMENT = 16
#: Exponents that a 4-bit code stands for.
CODEBOOK_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentParts:
    """Offsets of the parts within a segment, and its size; behind each part are zeros up to the next.

    At 0 lie sign and mantissa, one byte per element.
    """

    #: Half a byte per element, the even ones low.
    codes: int
    #: Four bytes per patch, little-endian, ascending.
    patch_indices: int
    #: One byte per patch.
    patch_exponents: int
    num_bytes: int


def segment_parts(num_elements: int, num_patches: int) -> SegmentParts:
    """Find the parts of a segment."""
    codes = _align(num_elements)
    patch_indices = codes + _align((num_elements + 1) // 2)
    patch_exponents = patch_indices + _align(4 * num_patches)
    return SegmentParts(
        codes=codes,
        patch_indices=patch_indices,
        patch_exponents=patch_exponents,
        num_bytes=patch_exponents + _align(num_patches),
    )


@lru_cache(maxsize=4096)
def segment_bytes(num_elements: int, num_patches: int) -> int:
    """Size of a segment: `segment_parts(…).num_bytes`, remembered because an index has hundreds of thousands."""
    return segment_parts(num_elements, num_patches).num_bytes


def _align(num_bytes: int) -> int:
    return (num_bytes + PART_ALIGNMENT - 1) & -PART_ALIGNMENT
