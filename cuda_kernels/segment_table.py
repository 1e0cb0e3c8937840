"""Packed segments as a device sees them: a table that is put there once, before the bytes it speaks of arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from cuda_kernels.packed_layout import CODEBOOK_LENGTH, PART_ALIGNMENT, segment_parts

#: Numbers of a row, in this order: where the plane, the codes, the patches' indices and exponents begin (bytes from the
#: beginning of the memory), where the output begins (elements), elements, patches, the codebook's number.
ROW_LENGTH: Final = 8
#: A kernel writes four elements at once.
OUTPUT_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSegment:
    """A segment, where it will lie, and where its elements go."""

    #: Bytes from the beginning of the memory that it is unpacked from: a chunk, or a whole image.
    begin: int
    num_elements: int
    num_patches: int
    #: The exponent that each code stands for.
    codebook: tuple[int, ...]
    #: Bytes from the beginning of the output.
    output: int

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.begin + segment_parts(self.num_elements, self.num_patches).num_bytes

    @property
    def output_end(self) -> int:
        """First byte behind its elements."""
        return self.output + 2 * self.num_elements


@dataclass(frozen=True, slots=True, eq=False)
class SegmentTable:
    """Segments, on the host and on a device."""

    segments: tuple[PackedSegment, ...]
    #: One row per segment, int64.
    rows: torch.Tensor
    #: One row per codebook, int16: exponents in their place within a bfloat16 number.
    codebooks: torch.Tensor

    @classmethod
    def build(cls, segments: Sequence[PackedSegment], device: torch.device) -> SegmentTable:
        """Put a table on a device; the copy is ordered by the current stream.

        Raises ValueError for segments that do not begin at a multiple of 16, or go to no multiple of 8.
        """
        numbers: dict[tuple[int, ...], int] = {}
        rows = [_row(segment, numbers.setdefault(segment.codebook, len(numbers))) for segment in segments]
        exponents = [[exponent << 7 for exponent in codebook] for codebook in numbers]
        return cls(
            segments=tuple(segments),
            rows=torch.tensor(rows, dtype=torch.int64).reshape(-1, ROW_LENGTH).to(device),
            codebooks=torch.tensor(exponents, dtype=torch.int16).reshape(-1, CODEBOOK_LENGTH).to(device),
        )


def _row(segment: PackedSegment, codebook: int) -> tuple[int, ...]:
    if segment.begin % PART_ALIGNMENT or segment.output % OUTPUT_ALIGNMENT:
        raise ValueError(f"a segment at byte {segment.begin}, for byte {segment.output} of the output, is out of line")
    parts = segment_parts(segment.num_elements, segment.num_patches)
    return (
        segment.begin,
        segment.begin + parts.codes,
        segment.begin + parts.patch_indices,
        segment.begin + parts.patch_exponents,
        segment.output // 2,
        segment.num_elements,
        segment.num_patches,
        codebook,
    )
