"""Tiny checkpoints of every kind of causal language model that transformers knows, and whether they load right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from loaders.checkpoint import load
from loaders.rehearsal import Rehearsal
from loaders.templates import Templates
from loaders.writer.convert import convert

_TOKEN_IDS = torch.arange(12)[None] % 100
_MAX_PARAMETERS = 30_000_000

#: What nearly all configurations call their sizes.
_COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
#: What some call them; the others take no notice.
_OTHER: dict[str, Any] = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "n_inner": 96,
    "d_model": 64,
    "n_layers": 2,
    "n_heads": 4,
    "num_layers": 2,
    "ffn_dim": 96,
    "ffn_hidden_size": 96,
    "word_embed_proj_dim": 64,
    "attention_hidden_size": 64,
    "rotary_dim": 8,
    "d_state": 8,
    "state_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}


class UnbuildableError(Exception):
    """These sizes make no model of that kind: nothing is learnt of how it loads."""


def model_types() -> list[str]:
    """Names of all kinds of causal language model."""
    return sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING})


def write_tiny(path: Path, model_type: str) -> None:
    """Write a checkpoint with random weights, the same each time; raises UnbuildableError."""
    try:
        config = _config(model_type)
        with torch.device("meta"):
            num_parameters = AutoModelForCausalLM.from_config(config).num_parameters()
        if num_parameters > _MAX_PARAMETERS:
            raise UnbuildableError(f"{num_parameters} parameters")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        _logits(model)
        model.save_pretrained(path)
    except UnbuildableError:
        raise
    except Exception as error:  # whatever a model's own code raises for sizes that do not fit
        raise UnbuildableError(f"{type(error).__name__}: {error}") from error


def differences(path: Path, converted: Path) -> list[str]:
    """Which ways of loading a checkpoint give other logits than from_pretrained, by a bit or more; none is right.

    `converted` is where the checkpoint in our own format goes.
    """
    try:
        expected = _logits(AutoModelForCausalLM.from_pretrained(path).eval())
    except Exception as error:  # transformers cannot read what it wrote
        raise UnbuildableError(f"from_pretrained: {type(error).__name__}: {error}") from error
    convert(path, converted)
    found = []
    for form, directory in (("safetensors", path), ("converted", converted)):
        loaded, rehearsed = Templates(), Templates()
        Rehearsal(rehearsed).look([directory])
        ways = {
            "built afterwards": partial(load, directory),
            "made while the bytes came": partial(load, directory, with_model=True, templates=loaded),
            "filled in after that": partial(load, directory, with_model=True, templates=loaded),
            "filled in after a rehearsal": partial(load, directory, with_model=True, templates=rehearsed),
        }
        for way, load_once in ways.items():
            with load_once() as checkpoint:
                logits = _logits(checkpoint.model())
            if not torch.equal(logits, expected):
                found.append(f"{form}, {way}: off by {(logits - expected).abs().max():.1e}")
    return found


def _config(model_type: str) -> PreTrainedConfig:
    kind = CONFIG_MAPPING[model_type]
    try:
        return kind(**_COMMON, **_OTHER)
    except Exception:  # noqa: BLE001 - one of the other names means something else there
        return kind(**_COMMON)


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(_TOKEN_IDS).logits
    return logits
