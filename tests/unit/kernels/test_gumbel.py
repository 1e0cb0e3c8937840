"""The seeded noise is what docs/sampling.md says, in NumPy and in torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_kernels import reference
from cuda_kernels.gumbel import draw_keys, gumbel_noise, uniform_noise

CPU = torch.device("cpu")
DOCUMENT = Path(__file__).parents[3] / "docs" / "sampling.md"
SEEDS = st.integers(-(2**63), 2**64 - 1)
POSITIONS = st.integers(0, 2**31)


@given(seed=SEEDS, position=POSITIONS, vocab_size=st.sampled_from([0, 1, 2, 257]))
def test_torch_and_numpy_agree_bit_for_bit_on_the_uniform_numbers(seed: int, position: int, vocab_size: int) -> None:
    expected = reference.uniform(seed, position, np.arange(vocab_size))
    assert np.array_equal(uniform_noise(draw_keys([seed], [position], CPU), vocab_size)[0].numpy(), expected)


@given(seed=SEEDS, position=POSITIONS)
def test_torch_and_numpy_agree_on_the_noise_up_to_the_last_bits_of_the_logarithm(seed: int, position: int) -> None:
    expected = reference.gumbel(seed, position, np.arange(64))
    np.testing.assert_allclose(
        gumbel_noise(draw_keys([seed], [position], CPU), 64)[0], expected, rtol=1e-13, atol=1e-13
    )


def test_the_worked_example_of_the_document_holds() -> None:
    rows = re.findall(r"^\| (\d+) \| 0x([0-9A-F]{16}) \| (\S+) \| (\S+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == 4
    key = reference.gumbel_key(7, 3)
    for token_id, mixed, uniform, noise in rows:
        ids = np.array([int(token_id)])
        product = int(token_id) * reference.SEED_FACTOR % 2**64
        assert reference.mix64(product ^ key) == int(mixed, 16)
        assert f"{reference.uniform(7, 3, ids)[0]:.15f}" == uniform
        assert f"{reference.gumbel(7, 3, ids)[0]:.12f}" == noise


def test_each_row_has_noise_of_its_own_seed_and_position() -> None:
    together = gumbel_noise(draw_keys([1, 2, 1], [5, 5, 6], CPU), 100)
    assert torch.equal(together[1], gumbel_noise(draw_keys([2], [5], CPU), 100)[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], together[2])


def test_extreme_bits_give_finite_noise() -> None:
    smallest, largest = 0.5 / 2**52, (2**52 - 0.5) / 2**52
    assert 0 < smallest < largest < 1
    assert np.isfinite(-np.log(-np.log([smallest, largest]))).all()


def test_the_noise_has_the_mean_and_deviation_of_a_gumbel_distribution() -> None:
    noise = gumbel_noise(draw_keys(range(200), [0] * 200, CPU), 1000)
    assert noise.mean().item() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.std().item() == pytest.approx(np.pi / 6**0.5, abs=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_the_same_uniform_numbers() -> None:
    seeds, positions = [0, -1, 2**63, 12345], [0, 1, 2**31, 77]
    on_gpu = uniform_noise(draw_keys(seeds, positions, torch.device("cuda:0")), 5000)
    assert torch.equal(on_gpu.cpu(), uniform_noise(draw_keys(seeds, positions, CPU), 5000))


def test_the_kernels_need_neither_numba_nor_a_gpu() -> None:
    program = (
        "import sys; sys.modules['numba'] = None; import cuda_kernels.gumbel, cuda_kernels.reference, torch;"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
