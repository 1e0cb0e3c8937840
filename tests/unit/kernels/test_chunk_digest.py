"""The chunk digest is what docs/format.md says, in numba and in NumPy."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_kernels import digest_reference
from cuda_kernels.digest import chunk_digest

_DOCUMENT = Path(__file__).parents[3] / "docs" / "format.md"
_MASK = (1 << 64) - 1


def _by_the_document(data: bytes) -> int:
    """The formula in Python's integers."""
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    seed = len(data) ^ 0x9E3779B97F4A7C15
    seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & _MASK
    seed ^= seed >> 31
    total = 0
    for i, word in enumerate(words):
        mixed = ((word ^ ((i * 0x9E3779B97F4A7C15 + seed) & _MASK)) * 0xBF58476D1CE4E5B9) & _MASK
        total += (mixed ^ (mixed >> 32)) * 0x94D049BB133111EB
    return total & _MASK


@given(st.binary(max_size=300))
def test_numba_agrees_with_the_formula(data: bytes) -> None:
    assert chunk_digest(data) == _by_the_document(data)


@pytest.mark.parametrize("num_words", [0, 1, 2, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 100_003])
def test_numpy_agrees_with_numba(num_words: int) -> None:
    words = np.random.default_rng(num_words).integers(0, 1 << 64, num_words, dtype=np.uint64)
    seed = digest_reference.digest_seed(words.nbytes)
    assert digest_reference.digest_words(words, seed) == chunk_digest(words.view(np.uint8))


def test_the_examples_of_the_document_hold() -> None:
    rows = re.findall(r"^\| `(.*)` \| `([0-9a-f]{16})` \|$", _DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) >= 4
    for expression, digest in rows:
        name, _, count = expression.split(" ")
        data = bytes.fromhex(name) * int(count)
        assert f"{chunk_digest(data):016x}" == digest, expression


@given(data=st.binary(min_size=16, max_size=200), where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_one_bit_changes_it(data: bytes, where: int, bit: int) -> None:
    changed = bytearray(data)
    changed[where % len(data)] ^= 1 << bit
    assert chunk_digest(changed) != chunk_digest(data)


def test_two_top_bits_do_not_cancel() -> None:
    data = bytearray(32)
    data[7] ^= 0x80
    data[15] ^= 0x80
    assert chunk_digest(data) != chunk_digest(bytes(32))


def test_order_and_length_matter() -> None:
    words = np.arange(4, dtype=np.uint64)
    assert chunk_digest(words.view(np.uint8)) != chunk_digest(words[::-1].copy().view(np.uint8))
    assert len({chunk_digest(bytes(num_bytes)) for num_bytes in range(64)}) == 64


def test_any_contiguous_buffer_will_do_aligned_or_not_writable_or_not() -> None:
    data = bytes(range(200))
    expected = chunk_digest(data[3:])
    assert chunk_digest(memoryview(data)[3:]) == expected
    assert chunk_digest(bytearray(data[3:])) == expected
    assert chunk_digest(np.frombuffer(data, dtype=np.uint8)[3:]) == expected


def test_other_threads_run_during_a_digest() -> None:
    data = np.zeros(16 << 20, dtype=np.uint8)
    chunk_digest(data[:8])
    started, done = threading.Event(), threading.Event()

    def digest() -> None:
        started.set()
        for _ in range(100):
            chunk_digest(data)
        done.set()

    before = sys.getswitchinterval()
    # Nobody is made to give the GIL away: this thread can only go on if a digest does so by itself.
    sys.setswitchinterval(1e6)
    try:
        thread = threading.Thread(target=digest)
        thread.start()
        started.wait()
        was_done = done.is_set()
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not was_done


_WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import numpy as np
from cuda_kernels import packed
from cuda_kernels.digest import chunk_digest
from cuda_kernels.packed_reference import choose_codebook, count_patches
from cuda_kernels.packed_layout import segment_parts
values = np.arange(0, 65536, 7, dtype=np.uint16)
counts = packed.exponent_counts(values)
codebook = choose_codebook(counts)
patches = count_patches(counts, codebook)
segment = np.empty(segment_parts(len(values), patches).num_bytes, dtype=np.uint8)
packed.encode_segment(values, codebook, patches, segment)
out = np.empty_like(values)
packed.decode_segment(segment, patches, codebook, out)
assert (out == values).all()
print(chunk_digest(bytes(range(100))), chunk_digest(segment))
"""


def test_without_numba_numpy_does_the_same() -> None:
    root = Path(__file__).parents[3]
    with_numba = _WITHOUT_NUMBA.replace('sys.modules["numba"] = None', "")
    outputs = {
        subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True).stdout
        for program in (_WITHOUT_NUMBA, with_numba)
    }
    assert len(outputs) == 1
