"""Random Llamas of any size, to be timed."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from scripts.demo_checkpoints import make_tiny


def make_llama_to_time(
    path: Path, *, hidden_size: int, num_layers: int, vocab_size: int, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a random Llama large enough that its matrices and not Python take the time."""
    make_tiny(path)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(path)
    return path
