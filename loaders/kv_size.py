"""How much a model keeps of each token: found out by running it without memory, else taken from its config."""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from loaders.architecture import text_config

_NUM_TOKENS = 2


def kv_bytes_per_token(model: PreTrainedModel, config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token of one job takes in all layers together; the model has no memory."""
    return _measured(model) or _expected(config, dtype)


def _measured(model: PreTrainedModel) -> int | None:
    """None for a model that wants to look into its tensors, or keeps something else."""
    cache = DynamicCache()
    input_ids = torch.zeros((1, _NUM_TOKENS), dtype=torch.long, device="meta")
    try:
        with torch.inference_mode():
            model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        kept = [_kept(getattr(layer, name)) for layer in cache.layers for name in ("keys", "values")]
    except Exception:  # noqa: BLE001 - whatever the code of a model raises where it has no weights
        return None
    return sum(kept) // _NUM_TOKENS


def _kept(states: object) -> int:
    """Bytes of the keys or the values of one layer; raises ValueError unless every token has some."""
    if not isinstance(states, torch.Tensor) or states.shape[-2] != _NUM_TOKENS:
        raise ValueError("a layer keeps something else than keys and values of every token")
    return states.nbytes


def _expected(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """What most classes keep, by what most configs call it."""
    text = text_config(config)
    num_heads = text.num_attention_heads
    num_kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    return int(text.num_hidden_layers * 2 * num_kv_heads * head_dim * dtype.itemsize)
