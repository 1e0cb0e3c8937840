"""What models keep of a token is found out once for each kind of model, and with another kind anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from loaders.checkpoint import load
from loaders.source import open_source
from loaders.templates import Templates
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny
from sllm_tasks.engines.base import EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.kinds import kind_of
from sllm_tasks.engines.known_shapes import known_shapes, rehearse_shapes
from sllm_tasks.engines.layer_shapes import filled_shapes, shapes_of
from sllm_tasks.engines.memo import Memo
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.errors import ModelUnusableError
from sllm_tasks.jobs import SamplingParams
from tests.support.forwards import noted_forwards

LIMITS = EngineLimits(max_jobs=2, context=64)
CONFIG = LlamaConfig(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def model(seed: int = 0, *, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(**{**CONFIG.to_dict(), **changes})
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config).to(dtype)
    return made.eval()


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have loaded models of the same kinds."""
    monkeypatch.setattr("sllm_tasks.engines.known_shapes._known", Memo(8))


def start(path: Path) -> tuple[int, list[int]]:
    """Load and decode; returns how often the load ran the model, and the tokens."""
    engine = StepLoopEngine()
    with noted_forwards() as forwards:
        engine.load(path, ("cpu",), LIMITS)
    params = SamplingParams(max_tokens=6, seed=0, ignore_eos=True)
    engine.submit(EngineRequest(job_id="a", token_ids=(5, 6, 7), params=params))
    tokens = []
    while engine.has_work:
        tokens += [event.token_id for event in engine.poll() if isinstance(event, EngineToken)]
    engine.unload()
    return len(forwards), tokens


def rehearse(path: Path) -> None:
    """What a worker does beforehand."""
    with open_source(path) as source:
        template = Templates().find(source)
    assert template is not None
    rehearse_shapes(template.without_memory(), torch.device("cpu"))


def test_a_model_is_run_at_the_load_of_the_first_of_its_kind_alone(tmp_path: Path) -> None:
    first, second = (make_tiny(tmp_path / str(seed), "llama", seed=seed) for seed in (1, 2))
    counts, tokens = zip(*(start(path) for path in (first, second, first)), strict=True)
    assert counts == (1, 0, 0)
    assert tokens[0] == tokens[2] != tokens[1]


@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_a_kind_that_was_rehearsed_without_weights_is_run_at_no_load(tmp_path: Path, architecture: str) -> None:
    # Torch multiplies experts without memory in this type alone.
    path = make_tiny(tmp_path, architecture, dtype=torch.bfloat16)
    expected = start(path)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sllm_tasks.engines.known_shapes._known", Memo(8))
        rehearse(path)
        assert start(path) == (0, expected)


def test_what_is_known_without_weights_is_what_the_model_keeps_with_them(tmp_path: Path) -> None:
    path = make_tiny(tmp_path, "mixtral", dtype=torch.bfloat16)
    rehearse(path)
    with load(path, with_model=True) as checkpoint:
        real = checkpoint.model()
        with noted_forwards() as forwards:
            known = known_shapes(real)
        assert not forwards
        assert known == shapes_of(real)


def test_a_model_that_looks_into_its_tensors_is_not_known_before_its_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny(tmp_path, "llama")
    forward = LlamaForCausalLM.forward

    @wraps(forward)
    def looks(model: LlamaForCausalLM, *args: Any, **options: Any) -> Any:
        assert next(model.parameters()).sum().item() is not None
        return forward(model, *args, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", looks)
    with pytest.raises((RuntimeError, ModelUnusableError)):
        rehearse(path)
    assert start(path)[0] == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda: model(num_key_value_heads=4),
        lambda: model(head_dim=16),
        lambda: model(num_hidden_layers=3),
        lambda: model(rms_norm_eps=1e-3),
        lambda: model(dtype=torch.bfloat16),
        lambda: model().to("meta"),
    ],
    ids=["heads", "head size", "layers", "config alone", "dtype", "device"],
)
def test_models_of_other_shapes_types_places_or_settings_are_other_kinds(other: Callable[[], PreTrainedModel]) -> None:
    assert kind_of(model(0)) == kind_of(model(1))
    assert kind_of(other()) != kind_of(model(0))


def test_shapes_are_those_of_keys_and_of_values_in_each_layer() -> None:
    cache = DynamicCache()
    for layer, heads in enumerate((2, 4)):
        cache.update(torch.zeros(1, heads, 3, 8), torch.zeros(1, heads, 3, 6), layer)
    found = filled_shapes(cache, 3)
    assert [(each.keys.num_heads, each.keys.head_dim, each.values.head_dim) for each in found] == [(2, 8, 6), (4, 8, 6)]
    assert found[0].values == replace(found[0].keys, head_dim=6)


def test_a_cache_that_lacks_tokens_or_keys_or_layers_has_no_shapes() -> None:
    cache = DynamicCache()
    with pytest.raises(ValueError, match="every token"):
        filled_shapes(cache, 2)
    cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), 0)
    with pytest.raises(ValueError, match="every token"):
        filled_shapes(cache, 2)
    cache.layers[0].keys = None
    with pytest.raises(ValueError, match="no keys and values"):
        filled_shapes(cache, 3)
