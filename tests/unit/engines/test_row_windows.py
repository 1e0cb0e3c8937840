"""Level `exact` is promised only for layers that look back as far as rows do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    StableLmConfig,
)
from transformers import Qwen2MoeConfig as MoeConfig

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.memo import Memo
from sllm_tasks.jobs import Exactness

_WINDOW = 70
_SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "sliding_window": _WINDOW,
}  # fmt: skip
_TELL = {
    "all layers": MistralConfig(**_SIZES),
    "some layers": Qwen2Config(**_SIZES, use_sliding_window=True, max_window_layers=1),
    "by kind": Gemma3TextConfig(**_SIZES, head_dim=16),
}
_HIDE = MoeConfig(
    **_SIZES, use_sliding_window=True, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm_tasks.engines.exact._trials", Memo(8))


def _level(path: Path, config: PreTrainedConfig, context: int) -> tuple[Exactness, str]:
    make_tiny(path)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    engine = ExactEngine()
    engine.load(path, ("cpu",), EngineLimits(max_jobs=2, context=context))
    found = engine.equality_class()
    engine.unload()
    return found.exactness, found.downgrade


@pytest.mark.parametrize("config", _TELL.values(), ids=_TELL.keys())
def test_a_window_that_attention_is_told_of_is_kept(tmp_path: Path, config: PreTrainedConfig) -> None:
    assert _level(tmp_path, config, _WINDOW + 50) == (Exactness.EXACT, "")


def test_a_window_that_a_mask_alone_makes_is_no_level_exact_beyond_it(tmp_path: Path) -> None:
    level, why = _level(tmp_path, _HIDE, _WINDOW + 50)
    assert (level, why) == (Exactness.TOKEN, f"layer 0 hides what is {_WINDOW} tokens back by a mask")


def test_layers_that_keep_things_from_their_attention_are_no_level_exact_and_it_is_said_in_words(
    tmp_path: Path,
) -> None:
    level, why = _level(tmp_path, StableLmConfig(**_SIZES), _WINDOW)
    assert (level, why) == (Exactness.TOKEN, "its layers do not hand on what its attention is to be told")


def test_within_a_window_nothing_is_hidden(tmp_path: Path) -> None:
    assert _level(tmp_path, _HIDE, _WINDOW) == (Exactness.EXACT, "")
