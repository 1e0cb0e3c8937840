"""Loads to a device: through the pool or a ring, into an arena. All but the stream is tried on a CPU as well."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loaders.devices.cuda import load_on_gpus
from loaders.devices.loaded import Loaded, LoadedFrom
from loaders.devices.parts import split_plan
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from loaders.reading.pipeline import LoadControl, ReadOptions
from loaders.source import open_source
from loaders.writer.convert import convert
from tests.support.checkpoints import small_state_dict
from tests.support.damage import flip_bit

_DEVICES = [
    "cpu",
    pytest.param(
        "cuda:0",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def many_chunks() -> dict[str, torch.Tensor]:
    """More chunks than the ring has places, packable and plain ones mixed, tied and empty ones among them."""
    generator = torch.Generator().manual_seed(0)
    large = {
        f"layers.{number}.weight": torch.randn(CHUNK_BYTES, generator=generator).to(torch.bfloat16)
        for number in range(10)
    }
    return {**small_state_dict(), **large}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return many_chunks()


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "packed"])
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor]
) -> Path:
    path = tmp_path_factory.mktemp("device") / "converted"
    convert(tensors, path, pack=request.param)
    return path


@pytest.fixture
def pool() -> Iterator[Pool]:
    folder = Path(tempfile.mkdtemp(prefix="sllm-test-", dir="/dev/shm"))
    with Pool.open(folder, 24 * CHUNK_BYTES) as pool:
        yield pool
    shutil.rmtree(folder)


def load(path: Path, device: str, pool: Pool | None) -> tuple[dict[str, torch.Tensor], Loaded]:
    tensors: dict[str, torch.Tensor] = {}
    with open_source(path) as source:
        parts = split_plan(source.plan, [torch.device(device)], by_partition=True)
        loaded = load_on_gpus(
            source.plan, parts, pool, ReadOptions(), LoadControl(), lambda made, _: tensors.update(made)
        )
    return tensors, loaded


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], device: str) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].device.type == torch.device(device).type
        assert torch.equal(found[name].cpu(), tensor), name


@pytest.mark.parametrize("device", _DEVICES)
def test_more_chunks_than_the_ring_has_places_arrive_whole(
    converted: Path, tensors: dict[str, torch.Tensor], device: str
) -> None:
    found, loaded = load(converted, device, None)
    assert loaded.loaded_from is LoadedFrom.DISK
    assert_equal(found, tensors, device)


@pytest.mark.parametrize("device", _DEVICES)
def test_what_passed_through_the_pool_stays_there_for_the_next_load(
    converted: Path, tensors: dict[str, torch.Tensor], pool: Pool, device: str
) -> None:
    first, _ = load(converted, device, pool)
    second, loaded = load(converted, device, pool)
    assert (loaded.loaded_from, loaded.read_bytes) == (LoadedFrom.POOL, 0)
    assert_equal(first, tensors, device)
    assert_equal(second, tensors, device)
    assert [content.num_leases for content in pool.contents()] == [0]


@pytest.mark.parametrize("device", _DEVICES)
def test_tensors_on_a_device_outlive_the_load_and_need_nothing_of_the_pool(
    converted: Path, tensors: dict[str, torch.Tensor], pool: Pool, device: str
) -> None:
    found, _ = load(converted, device, pool)
    pool.free(pool.contents()[0].key)
    gc.collect()
    assert_equal(found, tensors, device)


@pytest.mark.parametrize("device", _DEVICES)
def test_a_wrong_digest_ends_the_load_and_frees_the_ring(converted: Path, tmp_path: Path, device: str) -> None:
    damaged = shutil.copytree(converted, tmp_path / "damaged")
    flip_bit(damaged / "partition_00000.bin", CHUNK_BYTES + 5)
    with pytest.raises(CheckpointCorruptError, match="wrong digest"):
        load(damaged, device, None)
    load(converted, device, None)


@pytest.mark.parametrize("device", _DEVICES)
def test_what_reaches_a_device_changed_is_nobodys_any_more(tmp_path: Path, pool: Pool, device: str) -> None:
    expected = {"w": torch.randn(CHUNK_BYTES, generator=torch.Generator().manual_seed(1))}
    convert(expected, tmp_path / "c")
    load(tmp_path / "c", device, pool)
    with open_source(tmp_path / "c") as source:
        lease = pool.lease(ContentKey(source.plan.key), source.plan.image_bytes)
    assert lease is not None
    with lease:
        lease.chunk(1)[7] ^= 1
    with pytest.raises(CheckpointCorruptError, match="reached the device changed"):
        load(tmp_path / "c", device, pool)
    found, loaded = load(tmp_path / "c", device, pool)
    assert loaded.loaded_from is LoadedFrom.DISK
    assert_equal(found, expected, device)
