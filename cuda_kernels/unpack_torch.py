"""Packed bfloat16 in torch, on any device, segment by segment. Specified in docs/format.md."""

from __future__ import annotations

import torch

from cuda_kernels.packed_layout import segment_parts
from cuda_kernels.segment_table import SegmentTable


def unpack(
    table: SegmentTable, which: range, memory: torch.Tensor, output: torch.Tensor, failures: torch.Tensor
) -> None:
    """Unpack segments; see `cuda_kernels.device_unpack` for what is given."""
    codebooks = dict(zip(dict.fromkeys(segment.codebook for segment in table.segments), table.codebooks, strict=True))
    for number in which:
        segment = table.segments[number]
        bits = _unpack_segment(
            memory[segment.begin : segment.end],
            segment.num_elements,
            segment.num_patches,
            codebooks[segment.codebook].int(),
            failures,
        )
        output[segment.output : segment.output_end] = bits.view(torch.uint8)


def _unpack_segment(
    stored: torch.Tensor, num_elements: int, num_patches: int, codebook: torch.Tensor, failures: torch.Tensor
) -> torch.Tensor:
    parts = segment_parts(num_elements, num_patches)
    halves = stored[parts.codes : parts.codes + (num_elements + 1) // 2].int()
    codes = torch.stack([halves & 0xF, halves >> 4], dim=1).flatten()[:num_elements]
    exponents = codebook[codes]
    if num_patches:
        indices = stored[parts.patch_indices : parts.patch_indices + 4 * num_patches].view(torch.int32)
        patches = stored[parts.patch_exponents : parts.patch_exponents + num_patches].int() << 7
        # From 2^31 on an index is negative here, and so not above the one before it.
        out_of_place = (torch.diff(indices, prepend=indices.new_full((1,), -1)) <= 0) | (indices >= num_elements)
        out_of_place |= indices < 0
        failures += out_of_place.sum()
        exponents[indices.clamp(0, num_elements - 1)] = patches
    plane = stored[:num_elements].int()
    return (((plane & 0x80) << 8) | exponents | (plane & 0x7F)).to(torch.int16)
