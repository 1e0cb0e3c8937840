"""What is told of a device by an error of torch's: no memory, or lost to the process. The devices are played."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.engines.base import DeviceLostError, EngineFailure, EngineLimits, EngineRequest
from sllm_tasks.engines.device_errors import is_out_of_memory, raise_if_lost
from sllm_tasks.engines.steploop import StepLoopEngine, _Loaded
from sllm_tasks.jobs import SamplingParams

_ILLEGAL = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


class Driver:
    """Answers `torch.cuda.synchronize`."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.asked: list[str] = []

    def synchronize(self, device: str) -> None:
        self.asked.append(device)
        if device in self.lost:
            raise _ILLEGAL


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "synchronize", driver.synchronize)
    return driver


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_lack_of_memory_is_known_whoever_reports_it(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not is_out_of_memory(_ILLEGAL)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_device_is_lost_when_it_answers_nothing_any_more(driver: Driver) -> None:
    raise_if_lost(_ILLEGAL, ("cuda:0", "cuda:1"))
    assert driver.asked == ["cuda:0", "cuda:1"]
    driver.lost = {"cuda:1"}
    with pytest.raises(DeviceLostError, match="cuda:1 is lost"):
        raise_if_lost(_ILLEGAL, ("cuda:0", "cuda:1"))


def test_no_device_is_asked_for_errors_that_are_not_a_devices(driver: Driver) -> None:
    raise_if_lost(RuntimeError("shape mismatch"), ("cuda:0",))
    raise_if_lost(_ILLEGAL, ("cpu",))
    assert driver.asked == []


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_prompt_that_takes_its_device_along_ends_more_than_its_job(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    engine = StepLoopEngine()
    engine.load(make_tiny(tmp_path), ("cpu",), EngineLimits(max_jobs=2, context=64))
    assert engine._loaded is not None
    engine._loaded = _Loaded(engine._loaded.model, engine._loaded.limits, ("cuda:0",))
    driver.lost = {"cuda:0"} if is_lost else set()

    def fail(*_: object) -> None:
        raise _ILLEGAL

    monkeypatch.setattr(engine._loaded.model, "prefill", fail)
    engine.submit(EngineRequest(job_id="job_1", token_ids=(1, 2), params=SamplingParams(max_tokens=2, seed=0)))
    if is_lost:
        with pytest.raises(DeviceLostError):
            engine.poll()
    else:
        (event,) = engine.poll()
        assert isinstance(event, EngineFailure)
