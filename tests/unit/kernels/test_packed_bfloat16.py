"""Packing is lossless for every bit pattern, and numba and NumPy write the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuda_kernels import packed_reference
from cuda_kernels.packed import decode_segment, encode_segment, exponent_counts
from cuda_kernels.packed_layout import CODEBOOK_LENGTH, segment_parts
from cuda_kernels.packed_reference import choose_codebook, count_patches

_SIZES = [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 1000, 4097]
_BITS = st.lists(st.integers(0, 0xFFFF), max_size=70).map(lambda bits: np.array(bits, dtype=np.uint16))


def _weights(num_elements: int, seed: int = 0) -> NDArray[np.uint16]:
    values = np.random.default_rng(seed).standard_normal(num_elements).astype(np.float32) * 0.02
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _pack(values: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], int, tuple[int, ...]]:
    counts = exponent_counts(values)
    codebook = choose_codebook(counts)
    num_patches = count_patches(counts, codebook)
    segment = np.full(segment_parts(len(values), num_patches).num_bytes, 0xAA, dtype=np.uint8)
    encode_segment(values, codebook, num_patches, segment)
    return segment, num_patches, codebook


@given(_BITS)
def test_any_bits_come_back(values: NDArray[np.uint16]) -> None:
    segment, num_patches, codebook = _pack(values)
    out = np.empty_like(values)
    decode_segment(segment, num_patches, codebook, out)
    assert np.array_equal(out, values)
    assert np.array_equal(packed_reference.decode(segment, len(values), num_patches, codebook), values)


def test_every_one_of_the_65536_numbers_comes_back() -> None:
    values = np.random.default_rng(0).permutation(np.arange(65536, dtype=np.uint16))
    segment, num_patches, codebook = _pack(values)
    assert num_patches == (256 - CODEBOOK_LENGTH) * 256
    out = np.empty_like(values)
    decode_segment(segment, num_patches, codebook, out)
    assert np.array_equal(out, values)


@pytest.mark.parametrize("num_elements", _SIZES)
def test_numba_and_numpy_write_the_same_bytes(num_elements: int) -> None:
    values = _weights(num_elements)
    segment, _, codebook = _pack(values)
    assert np.array_equal(segment, packed_reference.encode(values, codebook))
    assert np.array_equal(exponent_counts(values), packed_reference.exponent_counts(values))


def test_weights_take_three_quarters() -> None:
    values = _weights(1 << 17)
    segment, _, _ = _pack(values)
    assert len(segment) < 0.755 * values.nbytes


def test_the_codebook_has_the_most_frequent_exponents_and_the_smaller_of_two_equal_ones() -> None:
    counts = np.zeros(256, dtype=np.int64)
    counts[200], counts[100] = 5, 7
    assert choose_codebook(counts) == (*range(14), 100, 200)


def test_numbers_that_do_not_fit_the_count_of_patches_are_refused() -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16)
    counts = exponent_counts(values)
    codebook = choose_codebook(counts)
    num_patches = count_patches(counts, codebook)
    for wrong in (num_patches - 1, num_patches + 40):
        segment = np.empty(segment_parts(len(values), wrong).num_bytes, dtype=np.uint8)
        with pytest.raises(ValueError, match="patches"):
            encode_segment(values, codebook, wrong, segment)


@pytest.mark.parametrize("index", [-1, 4, 1000, 2**31])
def test_a_patch_outside_of_the_segment_is_refused(index: int) -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16)
    segment, num_patches, codebook = _pack(values)
    at = segment_parts(len(values), num_patches).patch_indices
    # The last one: out of range, or not above the one before it.
    segment[at + 4 * num_patches - 4 : at + 4 * num_patches] = np.frombuffer(
        (index % 2**32).to_bytes(4, "little"), dtype=np.uint8
    )
    for decode in (
        lambda: decode_segment(segment, num_patches, codebook, np.empty_like(values)),
        lambda: packed_reference.decode(segment, len(values), num_patches, codebook),
    ):
        with pytest.raises(ValueError, match="order"):
            decode()


def test_a_segment_that_is_cut_off_is_refused() -> None:
    values = _weights(1000)
    segment, num_patches, codebook = _pack(values)
    with pytest.raises(ValueError, match="bytes"):
        decode_segment(segment[:-16], num_patches, codebook, np.empty_like(values))
