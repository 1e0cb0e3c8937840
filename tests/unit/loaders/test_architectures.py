"""Every kind of causal language model loads to the same logits as by transformers itself, converted or not.

These are the most used and the oddest; `scripts/try_architectures` tries all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.architectures import differences, write_tiny

_MODEL_TYPES = [
    *("llama", "opt", "gpt2", "qwen2", "qwen3", "mistral", "mixtral", "gemma", "gemma2", "phi", "phi3", "cohere"),
    *("bloom", "gpt_neox", "gptj", "stablelm", "olmo2", "starcoder2", "mpt", "mamba", "qwen3_moe"),
]


@pytest.mark.parametrize("model_type", _MODEL_TYPES)
def test_logits_are_bit_equal_to_those_of_from_pretrained(tmp_path: Path, model_type: str) -> None:
    write_tiny(tmp_path / "plain", model_type)
    assert differences(tmp_path / "plain", tmp_path / "converted") == []
