"""What the kernels of a device compute is what the references compute, whoever does it there.

On a CPU that is torch; in numba's simulator (`test_simulator.py` runs this file in it) and on a GPU it is the kernels.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuda_kernels import packed_reference, reference
from cuda_kernels.backend import Backend, warm_up
from cuda_kernels.device_digest import device_digests
from cuda_kernels.device_gumbel import draw_tokens
from cuda_kernels.device_unpack import unpack_segments
from cuda_kernels.digest import chunk_digest
from cuda_kernels.segment_table import PackedSegment, SegmentTable

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
# numba checks a scalar's overflow where it simulates, and wrapping around is what is meant.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
# The simulator runs one Python thread for each of a GPU's.
bounded = settings(max_examples=10 if SIMULATED else 60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda:0",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: its kernels were only simulated"),
            ],
        ),
    ],
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def test_what_is_tested_here_is_what_is_meant_to_be(device: torch.device) -> None:
    support = warm_up(device)
    expected = Backend.NUMBA_CUDA if device.type == "cuda" else Backend.SIMULATOR if SIMULATED else Backend.TORCH
    assert support.backend == expected, support.reason


# Digests


def _digests(data: NDArray[np.uint8], chunk_bytes: int, device: torch.device) -> list[int]:
    digests = device_digests(torch.from_numpy(data).to(device), chunk_bytes)
    return [digest % 2**64 for digest in digests.tolist()]


def _expected_digests(data: NDArray[np.uint8], chunk_bytes: int) -> list[int]:
    return [chunk_digest(data[begin : begin + chunk_bytes]) for begin in range(0, len(data), chunk_bytes)]


def _bytes(num_bytes: int) -> NDArray[np.uint8]:
    return np.random.default_rng(num_bytes).integers(0, 256, num_bytes, dtype=np.uint8)


@bounded
@given(num_bytes=st.integers(0, 2500), chunk_words=st.sampled_from([1, 8, 63, 64, 65, 256, 257, 1000]))
def test_digests_of_chunks_are_those_of_the_cpu(num_bytes: int, chunk_words: int, device: torch.device) -> None:
    data, chunk_bytes = _bytes(num_bytes), 8 * max(chunk_words, num_bytes // 32)
    assert _digests(data, chunk_bytes, device) == _expected_digests(data, chunk_bytes)


@pytest.mark.parametrize("num_bytes", [1, 7, 8, 9, 511, 512, 513, 2047, 2048, 2056, 4103])
def test_a_chunk_of_any_length_is_digested_whole(num_bytes: int, device: torch.device) -> None:
    data = _bytes(num_bytes)
    assert _digests(data, 1 << 24, device) == [chunk_digest(data)]


def test_memory_within_an_arena_is_digested_where_it_lies(device: torch.device) -> None:
    data = _bytes(1000)
    arena = torch.from_numpy(data).to(device)
    assert device_digests(arena[256:600], 1 << 24)[0].item() % 2**64 == chunk_digest(data[256:600])


@pytest.mark.parametrize("chunk_bytes", [0, -8, 12])
def test_chunks_are_whole_words(chunk_bytes: int, device: torch.device) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        device_digests(torch.zeros(64, dtype=torch.uint8, device=device), chunk_bytes)


def test_memory_out_of_line_is_refused(device: torch.device) -> None:
    memory = torch.zeros(64, dtype=torch.uint8, device=device)
    for wrong in (memory[4:], memory[::2], memory.view(8, 8), memory.view(torch.int64)):
        with pytest.raises(ValueError, match="contiguous bytes"):
            device_digests(wrong, 16)


# Packed bfloat16


def _weights(num_elements: int, seed: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(num_elements).astype(np.float32) * 0.02).view(np.uint32) >> 16
    rare = rng.random(num_elements) < 0.05
    return np.where(rare, rng.integers(0, 1 << 16, num_elements), values).astype(np.uint16)


def _pack(tensors: list[NDArray[np.uint16]]) -> tuple[list[PackedSegment], NDArray[np.uint8], int]:
    """Lay segments side by side, their elements 256 bytes apart, as a checkpoint does."""
    segments, stored, output = [], b"", 0
    for values in tensors:
        counts = packed_reference.exponent_counts(values)
        codebook = packed_reference.choose_codebook(counts)
        segments.append(
            PackedSegment(
                begin=len(stored),
                num_elements=len(values),
                num_patches=packed_reference.count_patches(counts, codebook),
                codebook=codebook,
                output=output,
            )
        )
        stored += packed_reference.encode(values, codebook).tobytes()
        output += -(-2 * len(values) // 256) * 256
    return segments, np.frombuffer(stored, dtype=np.uint8).copy(), output


def _unpack(
    segments: list[PackedSegment], stored: NDArray[np.uint8], num_bytes: int, device: torch.device, which: range
) -> tuple[NDArray[np.uint8], int]:
    output = torch.full((num_bytes,), 0xAA, dtype=torch.uint8, device=device)
    failures = torch.zeros(1, dtype=torch.int64, device=device)
    table = SegmentTable.build(segments, device)
    unpack_segments(table, which, torch.from_numpy(stored).to(device), output, failures)
    return output.cpu().numpy(), int(failures)


@bounded
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_segments_are_unpacked_to_the_bits_that_were_packed(sizes: list[int], seed: int, device: torch.device) -> None:
    tensors = [_weights(size, seed + number) for number, size in enumerate(sizes)]
    segments, stored, num_bytes = _pack(tensors)
    output, failures = _unpack(segments, stored, num_bytes, device, range(len(segments)))
    assert failures == 0
    for segment, values in zip(segments, tensors, strict=True):
        assert np.array_equal(output[segment.output : segment.output_end].view(np.uint16), values)
        # What lies between tensors belongs to nobody here.
        assert np.all(output[segment.output_end : -(-segment.output_end // 256) * 256] == 0xAA)


@pytest.mark.parametrize("num_elements", [1, 2, 7, 8, 9, 255, 256, 257, 511, 513, 520])
def test_nothing_is_written_behind_the_last_element(num_elements: int, device: torch.device) -> None:
    values = _weights(num_elements, 0)
    segments, stored, _ = _pack([values])
    output, failures = _unpack(segments, stored, 2 * num_elements, device, range(1))
    assert failures == 0
    assert np.array_equal(output.view(np.uint16), values)


def test_only_the_segments_that_are_asked_for_are_unpacked(device: torch.device) -> None:
    tensors = [_weights(size, size) for size in (20, 40, 60)]
    segments, stored, num_bytes = _pack(tensors)
    output, _ = _unpack(segments, stored, num_bytes, device, range(1, 2))
    assert np.array_equal(output[256 : 256 + 80].view(np.uint16), tensors[1])
    assert np.all(output[:256] == 0xAA)
    assert np.all(output[512:] == 0xAA)
    assert np.all(_unpack(segments, stored, num_bytes, device, range(0))[0] == 0xAA)


def test_the_65536_numbers_come_back(device: torch.device) -> None:
    # In the simulator every 61st: a prime, so that all exponents occur.
    step = 61 if SIMULATED else 1
    values = np.random.default_rng(0).permutation(np.arange(0, 65536, step, dtype=np.uint16))
    segments, stored, num_bytes = _pack([values])
    output, failures = _unpack(segments, stored, num_bytes, device, range(1))
    assert failures == 0
    assert np.array_equal(output[: values.nbytes].view(np.uint16), values)


@pytest.mark.parametrize("index", [2**31, 2**32 - 1, 1024, 0])
def test_patches_out_of_place_are_counted_and_stay_within_the_output(index: int, device: torch.device) -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16)
    segments, stored, _ = _pack([values])
    parts_at = packed_reference.segment_parts(len(values), segments[0].num_patches).patch_indices
    last = parts_at + 4 * segments[0].num_patches - 4
    stored[last : last + 4] = np.frombuffer(index.to_bytes(4, "little"), dtype=np.uint8)
    output, failures = _unpack(segments, stored, values.nbytes + 64, device, range(1))
    assert failures == 1
    assert np.all(output[values.nbytes :] == 0xAA)


def test_segments_beyond_their_memory_are_refused(device: torch.device) -> None:
    segments, stored, num_bytes = _pack([_weights(100, 0)])
    for memory, room in ((stored[:-16], num_bytes), (stored, 199)):
        with pytest.raises(ValueError, match="beyond"):
            _unpack(segments, memory, room, device, range(1))
    with pytest.raises(ValueError, match="not a run"):
        _unpack(segments, stored, num_bytes, device, range(2))


# Draws


def _expected_token(logits: NDArray[np.float64], temperature: float, seed: int, position: int) -> int:
    noise = reference.gumbel(seed, position, np.arange(len(logits)))
    return int(np.argmax(logits / temperature + noise))


@bounded
@given(
    vocab_size=st.sampled_from([1, 2, 31, 255, 256, 257, 600]),
    rows=st.lists(
        st.tuples(st.floats(0.05, 3.0), st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**31)),
        min_size=1,
        max_size=3,
    ),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
def test_draws_are_those_of_the_reference(
    vocab_size: int, rows: list[tuple[float, int, int]], dtype: torch.dtype, device: torch.device
) -> None:
    logits = torch.randn(len(rows), vocab_size, generator=torch.Generator().manual_seed(vocab_size)).mul(3).to(dtype)
    temperatures, seeds, positions = (list(column) for column in zip(*rows, strict=True))
    drawn = draw_tokens(logits.to(device), temperatures, seeds, positions)  # type: ignore[arg-type]
    expected = [
        _expected_token(row.double().numpy(), *parameters) for row, parameters in zip(logits, rows, strict=True)
    ]
    assert drawn.tolist() == expected


def test_what_may_not_be_drawn_never_is(device: torch.device) -> None:
    logits = torch.full((4, 300), -torch.inf)
    logits[:, 299] = -1000.0
    assert draw_tokens(logits.to(device), [1.0] * 4, [1, 2, 3, 4], [0] * 4).tolist() == [299] * 4


def test_of_equal_ones_the_lowest_id_is_drawn_and_what_is_no_number_is_above_all(device: torch.device) -> None:
    logits = torch.zeros(4, 600)
    logits[0] = -torch.inf
    logits[1, [5, 40, 299, 599]] = torch.inf
    logits[2, [270, 271, 599]] = torch.nan
    logits[3, [3, 599]] = torch.tensor([torch.inf, torch.nan])
    assert draw_tokens(logits.to(device), [1.0] * 4, [7] * 4, [0] * 4).tolist() == [0, 5, 270, 599]


def test_rows_that_do_not_lie_side_by_side_are_drawn_from_as_well(device: torch.device) -> None:
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).to(device)
    arguments = [0.5, 1.0, 2.0], [1, 2, 3], [0, 1, 2]
    assert torch.equal(draw_tokens(logits.T, *arguments), draw_tokens(logits.T.contiguous(), *arguments))


def test_no_rows_are_no_draws(device: torch.device) -> None:
    assert draw_tokens(torch.empty(0, 10, device=device), [], [], []).tolist() == []
