"""Page-locking, with a runtime of CUDA that is played: it keeps the rules of the real one, and no GPU is needed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cuda_kernels import backend
from cuda_kernels.backend import Backend, Support
from loaders.devices.pinning import pin_pool, pinned_ring
from loaders.devices.readiness import make_ready
from loaders.errors import LoaderError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool

_DEVICE = "cuda:0"
_INVALID_VALUE, _ALREADY_REGISTERED, _NOT_REGISTERED = 1, 712, 713


class PlayedRuntime:
    """Remembers the last error, and what is registered, by address: also where nothing is mapped any more."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}
        self.refuses = False
        self.last_error = 0
        #: What was unregistered too late, or twice.
        self.wrong: list[int] = []

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:  # noqa: N802 - CUDA's name
        assert flags == 0
        ranges = self.registered.items()
        if any(begin < address + num_bytes and address < begin + length for begin, length in ranges):
            self.last_error = _ALREADY_REGISTERED
        elif self.refuses:
            self.last_error = _INVALID_VALUE
        else:
            self.registered[address] = num_bytes
            return 0
        return self.last_error

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - CUDA's name
        if self.registered.pop(address, None) is None or not _is_mapped(address):
            self.wrong.append(address)
            self.last_error = _NOT_REGISTERED
            return self.last_error
        return 0

    def launch(self, *_: object, **__: object) -> None:
        """Launch a kernel as torch does: it looks at the last error behind that, and clears it."""
        error, self.last_error = self.last_error, 0
        if error:
            raise RuntimeError(f"CUDA error {error}")


def _is_mapped(address: int) -> bool:
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = ([int(part, 16) for part in line.split()[0].split("-")] for line in lines)
    return any(begin <= address < end for begin, end in ranges)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> PlayedRuntime:
    runtime = PlayedRuntime()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch, "ones", runtime.launch)
    return runtime


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sllm-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def ring() -> Iterator[None]:
    """A ring of this test's own."""
    pinned_ring.cache_clear()
    yield
    pinned_ring.cache_clear()


def test_a_pool_is_page_locked_as_a_whole_and_no_more_when_it_is_unmapped(folder: Path, runtime: PlayedRuntime) -> None:
    with Pool.open(folder, 20 * CHUNK_BYTES) as pool:
        pin_pool(pool, _DEVICE)
        assert sum(runtime.registered.values()) == pool.capacity_bytes
        assert min(runtime.registered) == pool.address
        view = pool.view[:1]
    assert runtime.registered, "a view keeps the memory as it is"
    del view
    assert (runtime.registered, runtime.wrong) == ({}, [])


def test_a_pool_that_is_mapped_where_another_was_can_be_page_locked(folder: Path, runtime: PlayedRuntime) -> None:
    for _ in range(2):
        with Pool.open(folder, 20 * CHUNK_BYTES) as pool:
            pin_pool(pool, _DEVICE)
    assert runtime.last_error == 0


def test_a_fork_that_lets_go_of_a_pool_tells_the_driver_nothing(
    folder: Path, runtime: PlayedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pool.open(folder, 2 * CHUNK_BYTES) as pool:
        pin_pool(pool, _DEVICE)
        # What a process that was forked from this one finds.
        monkeypatch.setattr(os, "getpid", lambda: -1)
    assert runtime.registered
    assert not runtime.wrong


def test_a_refusal_is_told_and_is_not_blamed_on_the_next_kernel(folder: Path, runtime: PlayedRuntime) -> None:
    runtime.refuses = True
    with Pool.open(folder, 2 * CHUNK_BYTES) as pool, pytest.raises(LoaderError, match="CUDA error 1"):
        pin_pool(pool, _DEVICE)
    runtime.launch()


def test_a_driver_that_makes_no_context_refuses_as_well(
    folder: Path, runtime: PlayedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.last_error = 2
    monkeypatch.setattr(torch.cuda, "cudart", runtime.launch)
    with Pool.open(folder, 2 * CHUNK_BYTES) as pool, pytest.raises(LoaderError, match="bytes failed: CUDA error 2"):
        pin_pool(pool, _DEVICE)


@pytest.mark.usefixtures("ring")
def test_a_ring_that_cannot_be_page_locked_is_used_as_it_is(runtime: PlayedRuntime) -> None:
    runtime.refuses = True
    assert pinned_ring(_DEVICE).num_bytes % CHUNK_BYTES == 0
    runtime.launch()


def test_a_device_is_ready_with_its_kernels_also_where_the_pool_cannot_be_page_locked(
    folder: Path, runtime: PlayedRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = Support(backend=Backend.NUMBA_CUDA)
    monkeypatch.setattr(torch, "zeros", runtime.launch)
    monkeypatch.setattr(backend, "_find", lambda device: SimpleNamespace(support=compiled, device=device))
    runtime.refuses = True
    with Pool.open(folder, 2 * CHUNK_BYTES) as pool:
        assert make_ready(_DEVICE, pool) is compiled
    assert "slower than it could be" in caplog.text
