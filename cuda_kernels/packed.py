"""Packed bfloat16 on the CPU: compiled by numba where it is there, else NumPy. Specified in docs/format.md.

An exponent of bfloat16 takes 8 bits but few different ones occur: 4-bit codes stand for the 16 most frequent,
patches replace the others. What is packed is bits: NaN payloads, infinities, negative zero and subnormals come back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cuda_kernels import packed_reference
from cuda_kernels.jit import compile_for_cpu
from cuda_kernels.packed_layout import segment_parts

_NO_CODE = 16


def _count(values: NDArray[np.uint16], counts: NDArray[np.uint64]) -> int:
    for value in values:
        counts[(value >> 7) & 0xFF] += 1
    return 0


def _encode(
    values: NDArray[np.uint16],
    code_of: NDArray[np.uint8],
    plane: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    indices: NDArray[np.uint8],
    exponents: NDArray[np.uint8],
) -> int:
    """Fill the parts of a segment (zeros so far); return the number of patches, -1 if there is no room for them."""
    patches = 0
    for i in range(len(values)):
        value = values[i]
        plane[i] = ((value >> 8) & 0x80) | (value & 0x7F)
        exponent = (value >> 7) & 0xFF
        code = code_of[exponent]
        if code != _NO_CODE:
            codes[i >> 1] |= code << (4 * (i & 1))
            continue
        if patches == len(exponents):
            return -1
        for byte in range(4):
            indices[4 * patches + byte] = (i >> (8 * byte)) & 0xFF
        exponents[patches] = exponent
        patches += 1
    return patches


def _decode(
    plane: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    indices: NDArray[np.uint8],
    exponents: NDArray[np.uint8],
    codebook: NDArray[np.uint16],
    out: NDArray[np.uint16],
) -> int:
    """Unpack; the codebook holds exponents in their place. Return -1 for patches out of place, else 0."""
    for i in range(len(out) >> 1):
        pair = codes[i]
        low, high = np.uint16(plane[2 * i]), np.uint16(plane[2 * i + 1])
        out[2 * i] = ((low & 0x80) << 8) | codebook[pair & 0xF] | (low & 0x7F)
        out[2 * i + 1] = ((high & 0x80) << 8) | codebook[pair >> 4] | (high & 0x7F)
    if len(out) & 1:
        last = np.uint16(plane[len(out) - 1])
        out[len(out) - 1] = ((last & 0x80) << 8) | codebook[codes[len(out) >> 1] & 0xF] | (last & 0x7F)
    before = np.int64(-1)
    for patch in range(len(exponents)):
        index = np.int64(0)
        for byte in range(4):
            index |= np.int64(indices[4 * patch + byte]) << (8 * byte)
        if index <= before or index >= len(out):
            return -1
        out[index] = (out[index] & 0x807F) | (np.uint16(exponents[patch]) << 7)
        before = index
    return 0


_compiled_count = compile_for_cpu(_count, "int64", ["uint16[]", "uint64[]!"])
_compiled_encode = compile_for_cpu(
    _encode, "int64", ["uint16[]", "uint8[]", "uint8[]!", "uint8[]!", "uint8[]!", "uint8[]!"]
)
_compiled_decode = compile_for_cpu(
    _decode, "int64", ["uint8[]", "uint8[]", "uint8[]", "uint8[]", "uint16[]", "uint16[]!"]
)


def exponent_counts(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How often each of the 256 exponents occurs in the bits of bfloat16 numbers."""
    if _compiled_count is None:
        return packed_reference.exponent_counts(values)
    counts = np.zeros(256, dtype=np.uint64)
    _compiled_count(values, counts)
    return counts.astype(np.int64)


def encode_segment(
    values: NDArray[np.uint16], codebook: tuple[int, ...], num_patches: int, segment: NDArray[np.uint8]
) -> None:
    """Pack the bits of bfloat16 numbers into a buffer of the segment's size; raises ValueError if they do not fit.

    `num_patches` is what was counted before; other numbers than those counted do not fit.
    """
    if _compiled_encode is None:
        packed = packed_reference.encode(values, codebook)
        if len(packed) != len(segment):
            raise ValueError("the numbers need another count of patches")
        segment[:] = packed
        return
    parts = segment_parts(len(values), num_patches)
    segment[:] = 0
    code_of = np.full(256, _NO_CODE, dtype=np.uint8)
    code_of[list(codebook)] = np.arange(len(codebook), dtype=np.uint8)
    written = _compiled_encode(
        values,
        code_of,
        segment[: parts.codes],
        segment[parts.codes : parts.patch_indices],
        segment[parts.patch_indices : parts.patch_exponents],
        segment[parts.patch_exponents : parts.patch_exponents + num_patches],
    )
    if written != num_patches:
        raise ValueError("the numbers need another count of patches")


def decode_segment(
    segment: NDArray[np.uint8], num_patches: int, codebook: tuple[int, ...], out: NDArray[np.uint16]
) -> None:
    """Unpack a segment into as many bfloat16 numbers (their bits) as `out` has room for.

    Never reads or writes outside of the buffers; raises ValueError for patches out of place.
    """
    if _compiled_decode is None:
        out[:] = packed_reference.decode(segment, len(out), num_patches, codebook)
        return
    parts = segment_parts(len(out), num_patches)
    if len(segment) < parts.num_bytes:
        raise ValueError(f"a segment of {len(segment)} bytes, expected {parts.num_bytes}")
    failed = _compiled_decode(
        segment[: len(out)],
        segment[parts.codes : parts.codes + (len(out) + 1) // 2],
        segment[parts.patch_indices : parts.patch_indices + 4 * num_patches],
        segment[parts.patch_exponents : parts.patch_exponents + num_patches],
        np.array(codebook, dtype=np.uint16) << np.uint16(7),
        out,
    )
    if failed:
        raise ValueError("patches are not in ascending order within the segment")
