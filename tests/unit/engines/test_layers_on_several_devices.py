"""The step loop over several devices: each layer's keys and values are where it is, and jobs notice nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders import checkpoint
from loaders.checkpoint import LoadedCheckpoint
from scripts.demo_checkpoints import make_tiny
from sllm_tasks.engines.base import EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import SamplingParams
from tests.support.played_devices import PlayedDevices, played_device

_DEVICES = ("cpu:0", "cpu:1")
_LIMITS = EngineLimits(max_jobs=3, context=60, prefill_tokens_per_step=16)


@pytest.fixture(params=["llama", "gpt2"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_tiny(tmp_path / request.param, request.param)


@pytest.fixture
def played() -> Iterator[None]:
    with PlayedDevices():
        yield


def _load_here(path: Path, *, with_model: bool) -> LoadedCheckpoint:
    # The thread that would build the model beside the load does not play along.
    del with_model
    return checkpoint.load(path, _DEVICES)


def _run(engine: StepLoopEngine) -> dict[str, list[int]]:
    """Jobs of many lengths that join and leave, so that rows are moved."""
    for index, length in enumerate([1, 40, 3, 17, 30]):
        params = SamplingParams(
            max_tokens=4 + 4 * index, seed=index, temperature=0.9 * (index % 2), top_k=9, ignore_eos=True
        )
        ids = tuple(1 + (7 * index + place) % 250 for place in range(length))
        engine.submit(EngineRequest(job_id=str(index), token_ids=ids, params=params))
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for event in engine.poll():
            assert isinstance(event, EngineToken), event
            tokens.setdefault(event.job_id, []).append(event.token_id)
    return tokens


@pytest.mark.parametrize("kind", [StepLoopEngine, ExactEngine])
def test_jobs_get_the_tokens_that_one_device_gives(tiny: Path, kind: type[StepLoopEngine]) -> None:
    alone, engine = kind(), kind()
    alone.load(tiny, ("cpu",), _LIMITS)
    expected = _run(alone)
    with PlayedDevices():
        engine.load(tiny, _DEVICES, _LIMITS, _load_here)
        assert _run(engine) == expected
    assert engine.equality_class().exactness is alone.equality_class().exactness


def test_keys_and_values_are_on_the_devices_of_their_layers(tmp_path: Path, played: None) -> None:
    engine = StepLoopEngine()
    engine.load(make_tiny(tmp_path / "tiny"), _DEVICES, _LIMITS, _load_here)
    assert engine._loaded is not None
    buffers = [layer.buffers for layer in engine._loaded.model.batch._layers]
    assert [{str(played_device(buffer)) for buffer in pair} for pair in buffers] == [{"cpu:0"}, {"cpu:1"}]
