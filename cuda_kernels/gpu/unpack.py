"""Packed bfloat16 as two kernels: codes to exponents, then patches. Many segments in one launch. See docs/format.md."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from cuda_kernels.gpu.numba_cuda import (
    IS_SIMULATED,
    THREADS,
    Array,
    KernelSource,
    as_array,
    cuda,
    device_function,
    torch_stream,
)
from cuda_kernels.packed_layout import CODEBOOK_LENGTH
from cuda_kernels.segment_table import SegmentTable

#: Of a full segment each thread unpacks 8 times 8 elements.
_BLOCKS_PER_SEGMENT: Final = 2 if IS_SIMULATED else 16
#: Elements that a thread unpacks at once: 8 bytes of the plane, 4 of codes, 16 of output.
_GROUP: Final = 8

_CODE, _SIGN, _MANTISSA, _BYTE = np.uint64(0xF), np.uint64(0x80), np.uint64(0x7F), np.uint64(8)
_CODE_BITS, _PLANE_BITS, _ELEMENT_BITS = np.uint64(4), np.uint64(8), np.uint64(16)
_KEPT, _EXPONENT_SHIFT = np.uint16(0x807F), np.uint16(7)
_ZERO = np.uint64(0)


def _unpack(  # noqa: PLR0913, PLR0917 - a kernel has what it works on as arguments
    planes: Array,
    codes: Array,
    rows: Array,
    codebooks: Array,
    first_segment: int,
    blocks_per_segment: int,
    quadruples: Array,
    output: Array,
) -> None:
    """output[i] = sign(plane[i]) | codebook[code[i]] | mantissa(plane[i]), eight elements per thread and turn."""
    exponents = cuda.shared.array(CODEBOOK_LENGTH, np.uint64)
    segment = first_segment + cuda.blockIdx.x // blocks_per_segment
    if cuda.threadIdx.x < CODEBOOK_LENGTH:
        exponents[cuda.threadIdx.x] = np.uint64(codebooks[rows[segment, 7], cuda.threadIdx.x])
    cuda.syncthreads()
    plane_at, codes_at = rows[segment, 0] // 8, rows[segment, 1] // 4
    output_at, num_elements = rows[segment, 4], rows[segment, 5]
    group = (cuda.blockIdx.x % blocks_per_segment) * cuda.blockDim.x + cuda.threadIdx.x
    while group * _GROUP < num_elements:
        plane, code = planes[plane_at + group], np.uint64(codes[codes_at + group])
        low, high = _ZERO, _ZERO
        for step in range(4):
            low |= _element(plane, exponents[code & _CODE]) << (_ELEMENT_BITS * np.uint64(step))
            plane, code = plane >> _PLANE_BITS, code >> _CODE_BITS
        for step in range(4):
            high |= _element(plane, exponents[code & _CODE]) << (_ELEMENT_BITS * np.uint64(step))
            plane, code = plane >> _PLANE_BITS, code >> _CODE_BITS
        first = output_at + group * _GROUP
        if (group + 1) * _GROUP <= num_elements:
            quadruples[first // 4], quadruples[first // 4 + 1] = low, high
        else:
            for step in range(num_elements - group * _GROUP):
                four = low if step < 4 else high
                output[first + step] = np.uint16((four >> (_ELEMENT_BITS * np.uint64(step % 4))) & np.uint64(0xFFFF))
        group += blocks_per_segment * cuda.blockDim.x


@device_function
def _element(plane: np.uint64, exponent: np.uint64) -> np.uint64:
    """Bits of the element whose sign and mantissa are the lowest byte."""
    return ((plane & _SIGN) << _BYTE) | exponent | (plane & _MANTISSA)


def _patch(indices: Array, exponents: Array, rows: Array, first_segment: int, output: Array, failures: Array) -> None:
    """output[index[p]] gets its exponent; counts patches out of place, which change nothing. One block per segment."""
    segment = first_segment + cuda.blockIdx.x
    indices_at, exponents_at = rows[segment, 2] // 4, rows[segment, 3]
    output_at, num_elements, num_patches = rows[segment, 4], rows[segment, 5], rows[segment, 6]
    patch = cuda.threadIdx.x
    while patch < num_patches:
        index = np.int64(indices[indices_at + patch])
        before = np.int64(-1)
        if patch > 0:
            before = np.int64(indices[indices_at + patch - 1])
        if before < index < num_elements:
            exponent = np.uint16(np.uint16(exponents[exponents_at + patch]) << _EXPONENT_SHIFT)
            output[output_at + index] = np.uint16((output[output_at + index] & _KEPT) | exponent)
        else:
            cuda.atomic.add(failures, 0, 1)
        patch += cuda.blockDim.x


UNPACK: Final = KernelSource(
    _unpack,
    ("void(uint64[::1], uint32[::1], int64[:, ::1], uint16[:, ::1], int64, int64, uint64[::1], uint16[::1])",),
)
PATCH: Final = KernelSource(_patch, ("void(uint32[::1], uint8[::1], int64[:, ::1], int64, uint16[::1], int64[::1])",))


class UnpackKernels:
    """Both kernels, compiled."""

    def __init__(self) -> None:
        self._unpack = UNPACK.compile()
        self._patch = PATCH.compile()

    def launch(
        self, table: SegmentTable, which: range, memory: torch.Tensor, output: torch.Tensor, failures: torch.Tensor
    ) -> None:
        """Unpack segments; see `cuda_kernels.device_unpack` for what is given."""
        words = memory[: memory.numel() // 8 * 8]
        with torch_stream(memory.device) as stream:
            indices, rows = as_array(words, np.uint32), as_array(table.rows, np.int64)
            elements = as_array(output[: output.numel() // 2 * 2], np.uint16)
            quadruples = output[: output.numel() // 8 * 8]
            self._unpack[len(which) * _BLOCKS_PER_SEGMENT, THREADS, stream](
                as_array(words, np.uint64),
                indices,
                rows,
                as_array(table.codebooks, np.uint16),
                which.start,
                _BLOCKS_PER_SEGMENT,
                # An empty view has no address; nothing is written through what stands in for it.
                as_array(quadruples if len(quadruples) else failures, np.uint64),
                elements,
            )
            self._patch[len(which), THREADS, stream](
                indices, as_array(memory, np.uint8), rows, which.start, elements, as_array(failures, np.int64)
            )
