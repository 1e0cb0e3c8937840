"""Packed bfloat16 in NumPy: what every other version is compared with. Specified in docs/format.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.packed_layout import CODEBOOK_LENGTH, segment_parts


def exponent_counts(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How often each of the 256 exponents occurs."""
    return np.bincount((values >> 7) & 0xFF, minlength=256).astype(np.int64, copy=False)


def choose_codebook(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """Take the 16 most frequent exponents (the smaller one of two that are equally frequent), ascending."""
    order = np.argsort(-counts, kind="stable")[:CODEBOOK_LENGTH]
    return tuple(sorted(int(exponent) for exponent in order))


def count_patches(counts: NDArray[np.int64], codebook: tuple[int, ...]) -> int:
    """How many elements have an exponent that no code stands for."""
    return int(counts.sum() - counts[list(codebook)].sum())


def encode(values: NDArray[np.uint16], codebook: tuple[int, ...]) -> NDArray[np.uint8]:
    """Pack the bits of bfloat16 numbers into a segment."""
    exponents = ((values >> 7) & 0xFF).astype(np.uint8)
    codes = np.searchsorted(np.array(codebook), exponents)
    codes[codes == CODEBOOK_LENGTH] = 0
    patched = np.flatnonzero(np.array(codebook)[codes] != exponents)
    codes[patched] = 0
    parts = segment_parts(len(values), len(patched))
    segment = np.zeros(parts.num_bytes, dtype=np.uint8)
    segment[: len(values)] = ((values >> 8) & 0x80) | (values & 0x7F)
    even, odd = codes[0::2], codes[1::2]
    segment[parts.codes : parts.codes + len(even)] = even
    segment[parts.codes : parts.codes + len(odd)] |= (odd << 4).astype(np.uint8)
    indices = patched.astype("<u4").view(np.uint8)
    segment[parts.patch_indices : parts.patch_indices + len(indices)] = indices
    segment[parts.patch_exponents : parts.patch_exponents + len(patched)] = exponents[patched]
    return segment


def decode(
    segment: NDArray[np.uint8], num_elements: int, num_patches: int, codebook: tuple[int, ...]
) -> NDArray[np.uint16]:
    """Unpack a segment; raises ValueError for patches out of place."""
    parts = segment_parts(num_elements, num_patches)
    halves = segment[parts.codes : parts.codes + (num_elements + 1) // 2]
    codes = np.stack([halves & 0xF, halves >> 4], axis=1).reshape(-1)[:num_elements]
    exponents = np.array(codebook, dtype=np.uint16)[codes]
    indices = segment[parts.patch_indices : parts.patch_indices + 4 * num_patches].view("<u4").astype(np.int64)
    if num_patches and (indices[-1] >= num_elements or np.any(np.diff(indices) <= 0)):
        raise ValueError("patches are not in ascending order within the segment")
    exponents[indices] = segment[parts.patch_exponents : parts.patch_exponents + num_patches]
    plane = segment[:num_elements].astype(np.uint16)
    return (((plane & 0x80) << 8) | (exponents << 7) | (plane & 0x7F)).astype(np.uint16, copy=False)
