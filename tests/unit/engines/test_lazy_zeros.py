"""Zeros take no memory until they are written, and are as good as those of torch."""

from __future__ import annotations

import gc
import mmap
import resource
from pathlib import Path

import pytest
import torch

from sllm_tasks.engines.lazy_zeros import lazy_zeros

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_they_are_zeros_that_can_be_written(dtype: torch.dtype) -> None:
    zeros = lazy_zeros((2, 3, 5), dtype, CPU)
    assert torch.equal(zeros, torch.zeros(2, 3, 5, dtype=dtype))
    zeros[1, 2] = 7
    assert zeros.sum() == 35
    assert zeros.data_ptr() % mmap.PAGESIZE == 0


def test_nothing_may_be_asked_for() -> None:
    assert lazy_zeros((0, 4), torch.float32, CPU).shape == (0, 4)


def test_they_take_memory_when_they_are_written_and_give_it_back_when_nobody_refers_to_them() -> None:
    gc.disable()
    try:
        before = resident_bytes()
        zeros = lazy_zeros((64, MIB), torch.uint8, CPU)
        assert resident_bytes() - before < 16 * MIB
        zeros += 1
        assert resident_bytes() - before > 48 * MIB
        part = zeros[:1]
        del zeros
        assert resident_bytes() - before > 48 * MIB
        del part
        assert resident_bytes() - before < 16 * MIB
    finally:
        gc.enable()


@pytest.mark.parametrize("num_bytes", [1 << 60, 1 << 62])
def test_more_than_there_can_be_is_refused_as_torch_does_it(num_bytes: int) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        lazy_zeros((num_bytes,), torch.uint8, CPU)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
