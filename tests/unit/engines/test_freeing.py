"""What an engine holds comes back when it is unloaded, and does not wait for a garbage collection.

Models refer to themselves in circles; a collection stops all threads, and the next load would wait for it.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from loaders import checkpoint
from loaders.memory.pool import Pool
from loaders.reading.pipeline import ReadOptions
from loaders.templates import Templates
from loaders.writer.convert import convert
from scripts.architectures import write_tiny
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny
from sllm_tasks.engines.base import EngineLimits, EngineRequest
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.errors import ModelUnusableError
from sllm_tasks.jobs import SamplingParams
from tests.support.processes import wait_until

LIMITS = EngineLimits(max_jobs=4, context=96, prefill_tokens_per_step=16)
#: No more than tables that a class keeps for good.
SMALL_BYTES = 4096
ENGINES = pytest.mark.parametrize("engine_class", [StepLoopEngine, ExactEngine])


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    # pytest keeps what is logged, and with an error all that its traceback refers to.
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


def storages() -> set[int]:
    """Memory that any tensor of this process refers to, without what is small."""
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    dense = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided and not tensor.is_meta]
    return {storage._cdata for storage in dense if storage.nbytes() > SMALL_BYTES}


def use(engine: StepLoopEngine) -> None:
    """Leave a job that decodes, one that has ended, one that was given up and one whose prompt is half read."""
    params = SamplingParams(max_tokens=40, seed=0, ignore_eos=True)
    for job_id, length in (("runs", 5), ("ends", 7), ("stops", 40), ("arrives", 50)):
        few = SamplingParams(max_tokens=2, seed=0, ignore_eos=True)
        ids = tuple(range(1, length + 1))
        engine.submit(EngineRequest(job_id=job_id, token_ids=ids, params=few if job_id == "ends" else params))
    for _ in range(3):
        engine.poll()
    engine.abort("stops")
    engine.poll()
    assert set(engine.snapshot()) == {"runs", "arrives"}


@ENGINES
@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_unloading_frees_weights_keys_and_values_at_once(
    tmp_path: Path, architecture: str, engine_class: Callable[[], StepLoopEngine], no_collection: None
) -> None:
    path = make_tiny(tmp_path / "model", architecture)
    gc.collect()
    before = storages()
    engine = engine_class()
    engine.load(path, ("cpu",), LIMITS)
    use(engine)
    assert len(storages() - before) >= 2
    engine.unload()
    assert not storages() - before


@ENGINES
def test_keys_and_values_have_their_memory_at_each_load_and_not_at_the_first_job(
    tmp_path: Path, engine_class: Callable[[], StepLoopEngine], no_collection: None
) -> None:
    path = make_tiny(tmp_path / "model", "llama")
    for _ in range(2):
        engine = engine_class()
        engine.load(path, ("cpu",), LIMITS)
        loaded = storages()
        engine.submit(EngineRequest(job_id="a", token_ids=(5, 6), params=SamplingParams(max_tokens=8, seed=0)))
        engine.poll()
        assert not {storage for storage in storages() - loaded if storage}
        engine.unload()


@ENGINES
def test_unloading_gives_the_node_its_memory_back_at_once(
    tmp_path: Path, engine_class: Callable[[], StepLoopEngine], no_collection: None
) -> None:
    convert(make_tiny(tmp_path / "model", "llama"), tmp_path / "converted")
    templates = Templates()
    with Pool.open(tmp_path / "pool", 64 << 20) as pool:
        for _ in range(2):
            engine = engine_class()
            options = ReadOptions(page_cache=False)
            load = partial(checkpoint.load, pool=pool, templates=templates, options=options)
            engine.load(tmp_path / "converted", ("cpu",), LIMITS, load)
            use(engine)
            assert pool.usage.leased_bytes > 0
            engine.unload()
            wait_until(lambda: pool.usage.leased_bytes == 0, "leases go back", 5)


def test_what_was_made_for_decoding_exactly_is_freed_where_that_fails(tmp_path: Path, no_collection: None) -> None:
    write_tiny(tmp_path / "model", "gemma2")
    gc.collect()
    before = storages()
    engine = ExactEngine()
    engine.load(tmp_path / "model", ("cpu",), LIMITS)
    assert engine.equality_class().downgrade
    engine.unload()
    assert not storages() - before


@ENGINES
def test_a_load_that_fails_half_way_keeps_nothing_for_as_long_as_its_error_is_kept(
    tmp_path: Path, engine_class: Callable[[], StepLoopEngine], no_collection: None
) -> None:
    convert(make_tiny(tmp_path / "model", "llama"), tmp_path / "converted")
    (data,) = (tmp_path / "converted").glob("*.bin")
    with data.open("r+b") as file:
        file.seek(50_000)
        file.write(b"wrong")
    gc.collect()
    before = storages()
    load = partial(checkpoint.load, options=ReadOptions(page_cache=False))
    with pytest.raises(ModelUnusableError, match="wrong digest") as caught:
        engine_class().load(tmp_path / "converted", ("cpu",), LIMITS, load)
    assert caught.value.__traceback__ is not None
    assert not storages() - before


@ENGINES
def test_a_load_that_is_refused_keeps_nothing(
    tmp_path: Path, engine_class: Callable[[], StepLoopEngine], no_collection: None
) -> None:
    make_tiny(tmp_path)
    config = MambaConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    gc.collect()
    before = storages()
    with pytest.raises(ModelUnusableError, match="recurrent state") as caught:
        engine_class().load(tmp_path, ("cpu",), LIMITS)
    # Not even by the error, which whoever waits for the load keeps.
    assert caught.value.__traceback__ is not None
    assert not storages() - before
