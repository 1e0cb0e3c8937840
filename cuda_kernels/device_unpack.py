"""Packed bfloat16 where it is to be used: from memory on a GPU (or any other device) to the same, without waiting."""

from __future__ import annotations

import torch

from cuda_kernels import unpack_torch
from cuda_kernels.backend import kernels_for
from cuda_kernels.segment_table import OUTPUT_ALIGNMENT, SegmentTable


def unpack_segments(
    table: SegmentTable, which: range, memory: torch.Tensor, output: torch.Tensor, failures: torch.Tensor
) -> None:
    """Unpack a run of the table's segments on the current stream of their device.

    `memory` holds what the segments' `begin` counts from, `output` is the memory of the elements: both are contiguous
    bytes that begin at a multiple of 8. To `failures`, one int64, the number of patches out of place is added; unless
    that stays 0 the elements are worthless. It can be looked at when the stream is done, together with the digests.
    """
    if which.step != 1 or not 0 <= which.start <= which.stop <= len(table.segments):
        raise ValueError(f"{which} is not a run of {len(table.segments)} segments")
    for tensor in (memory, output):
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or not tensor.is_contiguous():
            raise ValueError("segments are unpacked from contiguous bytes to contiguous bytes")
        if tensor.data_ptr() % OUTPUT_ALIGNMENT:
            raise ValueError(f"memory that does not begin at a multiple of {OUTPUT_ALIGNMENT}")
    segments = table.segments[which.start : which.stop]
    if any(segment.end > len(memory) or segment.output_end > len(output) for segment in segments):
        raise ValueError("a segment lies beyond the memory, or its elements beyond the output")
    kernels = kernels_for(memory.device)
    if not segments:
        return
    if kernels is None:
        unpack_torch.unpack(table, which, memory, output, failures)
    else:
        kernels.unpack.launch(table, which, memory, output, failures)
