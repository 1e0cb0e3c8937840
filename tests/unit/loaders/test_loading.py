"""Loads end with the right tensors or with a named error, and share what they read."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loaders.checkpoint import LoadedCheckpoint, load
from loaders.devices.cpu import load_on_cpu
from loaders.devices.loaded import LoadedFrom, SideBySide
from loaders.errors import CheckpointCorruptError, CheckpointMissingError, LoadCanceledError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.mapping import Mapping
from loaders.memory.pool import Pool
from loaders.reading.pipeline import LoadControl, Progress, ReadOptions
from loaders.source import open_source
from loaders.writer.convert import convert
from tests.support.checkpoints import small_state_dict
from tests.support.damage import flip_bit
from tests.support.processes import wait_until

#: From the disk, however much of it the page cache holds.
_DISK = ReadOptions(page_cache=False)
_NUM_CHUNKS = 3


def large_state_dict() -> dict[str, torch.Tensor]:
    """Three chunks, with a tensor across each border."""
    generator = torch.Generator().manual_seed(0)
    shape = ((_NUM_CHUNKS * CHUNK_BYTES - CHUNK_BYTES // 2) // 5 // 4,)
    return {f"layers.{index}.weight": torch.randn(shape, generator=generator) for index in range(5)}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return large_state_dict()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("loading") / "converted"
    convert(tensors, path)
    return path


@pytest.fixture
def pool_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sllm-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pool(pool_folder: Path) -> Iterator[Pool]:
    with Pool.open(pool_folder, 4 * CHUNK_BYTES) as pool:
        yield pool


def assert_equal(loaded: LoadedCheckpoint, expected: dict[str, torch.Tensor]) -> None:
    assert loaded.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded.tensors[name], tensor), name


def num_leases(pool: Pool) -> int:
    return sum(content.num_leases for content in pool.contents())


@pytest.mark.parametrize("pack", [False, True], ids=["raw", "packed"])
@pytest.mark.parametrize("page_cache", [False, True], ids=["read", "mapped"])
@pytest.mark.parametrize("pooled", [False, True], ids=["private", "pooled"])
def test_what_was_converted_is_loaded_bit_for_bit(
    tmp_path: Path, pool: Pool, pack: bool, page_cache: bool, pooled: bool
) -> None:
    expected = {**small_state_dict(), "packable.weight": torch.randn(1 << 17).to(torch.bfloat16)}
    convert(expected, tmp_path / "c", pack=pack)
    options = ReadOptions(page_cache=page_cache)
    cache(tmp_path / "c")
    with load(tmp_path / "c", pool=pool if pooled else None, options=options) as loaded:
        assert loaded.report.loaded_from is (LoadedFrom.PAGE_CACHE if page_cache else LoadedFrom.DISK)
        assert_equal(loaded, expected)
        assert loaded.tensors["lm_head.weight"] is loaded.tensors["model.embed_tokens.weight"]
        views = [loaded.tensors[f"model.layers.{number}.view"] for number in (0, 1)]
        assert views[0].untyped_storage().data_ptr() == views[1].untyped_storage().data_ptr()


def test_the_second_load_takes_everything_from_the_pool(
    converted: Path, pool: Pool, tensors: dict[str, torch.Tensor]
) -> None:
    with load(converted, pool=pool, options=_DISK) as first, load(converted, pool=pool, options=_DISK) as second:
        assert_equal(second, tensors)
        assert (first.report.read_bytes, second.report.read_bytes) == (first.report.num_bytes, 0)
        assert second.report.loaded_from is LoadedFrom.POOL


def test_a_load_takes_a_place_among_those_of_the_disk_only_if_it_has_to_read(converted: Path, pool: Pool) -> None:
    queued: list[int] = []

    def note(_: Progress) -> None:
        queued.append(len(pool.load_queue.loads()))

    with load(converted, pool=pool, options=_DISK, on_progress=note):
        assert set(queued) == {1}
    queued.clear()
    with load(converted, pool=pool, options=_DISK, on_progress=note):
        assert set(queued) == {0}


def test_a_tensor_keeps_its_place_in_the_pool_and_the_last_one_gives_it_back(converted: Path, pool: Pool) -> None:
    with load(converted, pool=pool, options=_DISK) as loaded:
        kept = loaded.tensors["layers.4.weight"][7:]
    del loaded
    gc.collect()
    assert num_leases(pool) == 1
    del kept
    gc.collect()
    wait_until(lambda: num_leases(pool) == 0, "the lease is given back", 10)


def test_who_writes_to_a_tensor_changes_nobody_elses(
    converted: Path, pool: Pool, tensors: dict[str, torch.Tensor]
) -> None:
    with load(converted, pool=pool, options=_DISK) as first, load(converted, pool=pool, options=_DISK) as second:
        first.tensors["layers.0.weight"].zero_()
        assert_equal(second, tensors)
    cache(converted)
    with load(converted) as mapped:
        assert mapped.report.loaded_from is LoadedFrom.PAGE_CACHE
        mapped.tensors["layers.0.weight"].zero_()
    with load(converted, options=_DISK) as read:
        assert_equal(read, tensors)


def test_a_checkpoint_that_the_pool_has_no_room_for_is_loaded_beside_it(
    converted: Path, pool_folder: Path, tensors: dict[str, torch.Tensor]
) -> None:
    with (
        Pool.open(pool_folder, CHUNK_BYTES) as small,
        load(converted, pool=small, options=_DISK) as loaded,
    ):
        assert_equal(loaded, tensors)
        assert small.contents() == ()


def test_ordinary_safetensors_are_read_through_the_same_pipeline_and_not_mapped_while_somebody_may_write_them(
    tmp_path: Path, pool: Pool, tensors: dict[str, torch.Tensor]
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with load(tmp_path / "model.safetensors", pool=pool) as loaded:
        assert loaded.report.loaded_from is LoadedFrom.DISK
        assert_equal(loaded, tensors)
    with pytest.raises(CheckpointMissingError, match="without a model"):
        _ = loaded.model_files


@pytest.mark.parametrize("pooled", [False, True], ids=["private", "pooled"])
def test_a_wrong_digest_names_file_place_and_tensor_and_nobody_gets_the_bytes(
    converted: Path, tmp_path: Path, pool: Pool, pooled: bool
) -> None:
    damaged = shutil.copytree(converted, tmp_path / "damaged")
    flip_bit(damaged / "partition_00000.bin", CHUNK_BYTES + 5)
    with pytest.raises(CheckpointCorruptError, match=rf"partition_00000\.bin.* at {CHUNK_BYTES} .*layers\.2\.weight"):
        load(damaged, pool=pool if pooled else None, options=_DISK)
    assert pool.contents() == ()
    assert pool.usage.free_bytes == pool.capacity_bytes
    assert pool.load_queue.loads() == ()


def test_a_wrong_digest_is_found_in_the_page_cache_as_well(converted: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(converted, tmp_path / "damaged")
    flip_bit(damaged / "partition_00000.bin", 5)
    cache(damaged)
    with pytest.raises(CheckpointCorruptError, match="wrong digest"):
        load(damaged)


def test_a_file_that_was_cut_is_refused_before_anything_is_read(converted: Path, tmp_path: Path, pool: Pool) -> None:
    damaged = shutil.copytree(converted, tmp_path / "damaged")
    os.truncate(damaged / "partition_00000.bin", CHUNK_BYTES)
    with pytest.raises(CheckpointCorruptError, match=r"partition_00000\.bin"):
        load(damaged, pool=pool, options=_DISK)
    assert pool.contents() == ()


def test_a_file_that_is_cut_before_it_is_mapped_is_refused(converted: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(converted, tmp_path / "damaged")
    with open_source(damaged) as source:
        os.truncate(damaged / "partition_00000.bin", CHUNK_BYTES)
        cache(damaged)
        with pytest.raises(CheckpointCorruptError, match="changed"):
            load_on_cpu(source.plan, None, ReadOptions(), LoadControl(), lambda *_: None)


def on_first_progress(act: Callable[[], None]) -> Callable[[Progress], None]:
    """Act once, while a load is under way or ends."""
    acts = [act]

    def note(_: Progress) -> None:
        if acts:
            acts.pop()()

    return note


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, pool: Pool, tensors: dict[str, torch.Tensor]
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")

    def change() -> None:
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")

    with pytest.raises(CheckpointCorruptError, match="changed"):
        load(tmp_path / "model.safetensors", pool=pool, on_progress=on_first_progress(change))
    assert pool.contents() == ()


def test_a_file_that_is_replaced_while_it_is_read_does_not_matter(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "other").write_bytes(b"something else")
    replace = on_first_progress(lambda: (tmp_path / "other").rename(tmp_path / "model.safetensors"))
    with load(tmp_path / "model.safetensors", on_progress=replace) as loaded:
        assert_equal(loaded, tensors)


def test_a_file_whose_chunks_have_the_right_digests_need_not_be_the_same_one_in_the_end(
    converted: Path, tmp_path: Path, pool: Pool, tensors: dict[str, torch.Tensor]
) -> None:
    copy = shutil.copytree(converted, tmp_path / "copy")
    touch = on_first_progress(lambda: os.utime(copy / "partition_00000.bin"))
    with load(copy, pool=pool, options=_DISK, on_progress=touch) as loaded:
        assert_equal(loaded, tensors)


def test_a_partition_without_bytes_is_mapped_with_the_others(tmp_path: Path) -> None:
    expected = {"layers.0.weight": torch.arange(9.0)}
    convert(expected, tmp_path / "c", num_partitions=2)
    cache(tmp_path / "c")
    with load(tmp_path / "c") as loaded:
        assert loaded.report.loaded_from is LoadedFrom.PAGE_CACHE
        assert_equal(loaded, expected)


def test_threads_that_read_are_nicer_than_their_process_however_nice_that_is() -> None:
    script = (
        "import os, sys; os.setpriority(os.PRIO_PROCESS, 0, 12); os.setuid(65534) if os.getuid() == 0 else None\n"
        "import threading; from loaders.reading.pipeline import _step_back as step_back\n"
        "step_back(); print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"from loaders.reading import pipeline\n{script}"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == "17"


def test_no_memory_for_a_load_is_said_as_such(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> Mapping:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(Mapping, "anonymous", refuse)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for"):
        load(converted, options=_DISK)


def test_what_fails_while_chunks_are_read_ends_the_load_and_gives_everything_back(converted: Path, pool: Pool) -> None:
    def fail(_tensors: dict[str, torch.Tensor], _side_by_side: SideBySide) -> None:
        raise RuntimeError("no model can be made of these")

    with open_source(converted) as source, pytest.raises(RuntimeError, match="no model"):
        load_on_cpu(source.plan, pool, _DISK, LoadControl(), fail)
    assert num_leases(pool) == 0
    with load(converted, pool=pool, options=_DISK) as loaded:
        assert loaded.report.num_bytes == source.plan.num_bytes


def test_a_canceled_load_gives_everything_back(converted: Path, pool: Pool) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(LoadCanceledError):
        load(converted, pool=pool, options=_DISK, cancel=cancel)
    assert num_leases(pool) == 0
    assert pool.load_queue.loads() == ()


@pytest.mark.parametrize("pooled", [False, True], ids=["private", "pooled"])
def test_a_checkpoint_without_a_byte_is_one(tmp_path: Path, pool: Pool, pooled: bool) -> None:
    convert({"empty": torch.zeros(0, 4)}, tmp_path / "c")
    with load(tmp_path / "c", pool=pool if pooled else None) as loaded:
        assert loaded.tensors["empty"].shape == (0, 4)


@pytest.mark.parametrize("page_cache", [False, True], ids=["read", "mapped"])
def test_progress_ends_with_all_bytes_done(converted: Path, page_cache: bool) -> None:
    seen: list[Progress] = []
    cache(converted)
    with load(converted, options=ReadOptions(page_cache=page_cache), on_progress=seen.append) as loaded:
        assert seen[-1].done_bytes == seen[-1].total_bytes == loaded.report.num_bytes
        assert seen[-1].remaining_s == 0


def cache(path: Path) -> None:
    """Bring the data file into the page cache, which the writer goes past."""
    (path / "partition_00000.bin").read_bytes()
