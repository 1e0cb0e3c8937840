"""A job's tokens have the same positions beside longer jobs as alone, or the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    FalconConfig,
    MarianConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RoFormerConfig,
    WhisperConfig,
)

from loaders.decodable import check_decodable
from loaders.errors import CheckpointUnsupportedError
from scripts.architectures import write_tiny
from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.forward import ForwardModel
from sllm_tasks.engines.loading import LoadedModel
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.errors import ErrorCode, ModelUnusableError

LIMITS = EngineLimits(max_jobs=2, context=64)
SHORT = [5, 9, 12, 30, 7]
LONG = [(index * 37 + 11) % 100 for index in range(40)]
#: Those without positions, and one of each other way to know them.
DECODED = ["bloom", "mpt", "falcon", "opt", "gpt2", "xglm", "biogpt", "ctrl", "llama"]

_DECODER: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 1, "is_decoder": True,
}  # fmt: skip
_BART: dict[str, Any] = {
    "vocab_size": 128, "d_model": 64, "decoder_layers": 2, "encoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96, "max_position_embeddings": 128, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
REFUSED = [
    RoFormerConfig(**_DECODER),
    RobertaConfig(**_DECODER),
    BartConfig(**_BART),
    MarianConfig(**_BART, decoder_start_token_id=1),
    WhisperConfig(**_BART, max_target_positions=128, begin_suppress_tokens=None),
]


def tiny(tmp_path: Path, model_type: str) -> PreTrainedModel:
    if model_type == "falcon":
        config = FalconConfig(vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, alibi=True)
        return made(config)
    write_tiny(tmp_path, model_type)
    return made(AutoModelForCausalLM.from_pretrained(tmp_path).config)


def made(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model


def next_logits(model: PreTrainedModel, *prompts: list[int]) -> torch.Tensor:
    """Of the last row, after one token more."""
    forward = ForwardModel(LoadedModel(model=model, eos_token_ids=frozenset(), content_key=""), LIMITS)
    for prompt in prompts:
        prefill = forward.begin()
        forward.prefill(prefill, prompt)
        forward.join(prefill)
    return forward.decode([3] * len(prompts))[-1]


@pytest.mark.parametrize("model_type", DECODED)
def test_a_model_that_is_not_refused_decodes_a_job_beside_a_longer_one_as_alone(
    tmp_path: Path, model_type: str
) -> None:
    model = tiny(tmp_path, model_type)
    check_decodable(model)
    alone = next_logits(model, SHORT)
    torch.testing.assert_close(next_logits(model, LONG, SHORT), alone, atol=1e-3, rtol=1e-3)
    with torch.inference_mode():
        torch.testing.assert_close(alone, model(torch.tensor([[*SHORT, 3]])).logits[0, -1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", REFUSED, ids=lambda config: config.model_type)
def test_a_model_whose_rows_would_have_other_positions_is_refused(config: PreTrainedConfig) -> None:
    model = made(config)
    reference = model(torch.tensor([[*SHORT, 3]])).logits[0, -1]
    assert not torch.allclose(next_logits(model, LONG, SHORT), reference, atol=0.1)
    with pytest.raises(CheckpointUnsupportedError, match="cannot be decoded token by token in a batch"):
        check_decodable(model)


@pytest.mark.parametrize("model_type", ["trocr", "roformer"])
def test_such_a_checkpoint_is_refused_when_it_is_loaded(tmp_path: Path, model_type: str) -> None:
    write_tiny(tmp_path, model_type)
    with pytest.raises(ModelUnusableError, match="longest job") as caught:
        StepLoopEngine().load(tmp_path, ("cpu",), LIMITS)
    assert caught.value.code is ErrorCode.CHECKPOINT_UNSUPPORTED
