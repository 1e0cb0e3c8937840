"""Processes that load the same checkpoint at once share its bytes, whatever becomes of one of them."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loaders.format.geometry import CHUNK_BYTES
from loaders.writer.convert import convert
from tests.support import load_children as children

_TIMEOUT_S = 60
#: Three chunks, each claimed, looked up and filled, with a step before and one after; later ones find it all done.
_NUM_STEPS = 17


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = ((3 * CHUNK_BYTES - CHUNK_BYTES // 2) // 5 // 4,)
    return {f"layers.{index}.weight": torch.randn(shape, generator=generator) for index in range(5)}


@pytest.fixture(scope="module")
def total(tensors: dict[str, torch.Tensor]) -> int:
    return children.sum_of_bits(tensors)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("loading") / "converted"
    convert(tensors, path)
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sllm-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_each_byte_is_read_once(converted: Path, folder: Path, total: int) -> None:
    answers = children.answer_queue()
    with children.open_pool(folder) as pool:
        both = [children.start(children.load_and_tell, converted, folder, answers) for _ in range(2)]
        found = [answers.get(timeout=_TIMEOUT_S) for _ in both]
        for child in both:
            child.join(_TIMEOUT_S)
        assert sum(read_bytes for read_bytes, _ in found) == (converted / "partition_00000.bin").stat().st_size
        assert [found_total for _, found_total in found] == [total] * 2
        pool.check()
        assert pool.usage.leased_bytes == 0


def test_kill_9_at_any_chunk_leaves_the_other_correct_and_the_pool_sound(
    converted: Path, folder: Path, total: int
) -> None:
    answers = children.answer_queue()
    num_killed = 0
    with children.open_pool(folder) as pool:
        for step in range(_NUM_STEPS):
            victim = children.start(children.load_and_die, converted, folder, step)
            other = children.start(children.load_and_tell, converted, folder, answers)
            assert answers.get(timeout=_TIMEOUT_S)[1] == total
            for child in (victim, other):
                child.join(_TIMEOUT_S)
            assert other.exitcode == 0
            # It may have been left nothing to do before it came to that step.
            assert victim.exitcode in {0, -signal.SIGKILL}
            num_killed += victim.exitcode != 0
            pool.check()
            (content,) = pool.contents()
            assert (content.filled_bytes, content.num_leases) == (content.num_bytes, 0)
            pool.free(content.key)
    assert num_killed > _NUM_STEPS // 2
