"""A checkpoint that cannot be served is refused when it is deployed, and the refusal says why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.inspection import inspect_apart


def change_config(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **values}))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def truncate_weights(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def make_fifo(path: Path) -> None:
    (path / "generation_config.json").unlink(missing_ok=True)
    os.mkfifo(path / "generation_config.json")


BROKEN: dict[str, tuple[Callable[[Path], None], ErrorCode, str]] = {
    "no config": (remove("config.json"), ErrorCode.CHECKPOINT_CORRUPT, "config.json"),
    "a FIFO": (make_fifo, ErrorCode.CHECKPOINT_CORRUPT, "generation_config.json: not a regular file"),
    "no weights": (remove("model.safetensors"), ErrorCode.CHECKPOINT_CORRUPT, "safetensors"),
    "no tokenizer": (remove("tokenizer.json"), ErrorCode.TOKENIZER_MISSING, "tokenizer.json"),
    "truncated weights": (truncate_weights, ErrorCode.CHECKPOINT_CORRUPT, "model.safetensors"),
    "wrong shapes": (change_config(intermediate_size=97), ErrorCode.CHECKPOINT_CORRUPT, "mlp"),
    "missing tensors": (change_config(num_hidden_layers=3), ErrorCode.CHECKPOINT_CORRUPT, "layers.2"),
    "unknown architecture": (
        change_config(model_type="quantum", architectures=["QuantumForCausalLM"]),
        ErrorCode.CHECKPOINT_UNSUPPORTED,
        "quantum",
    ),
    "remote code": (
        change_config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        ErrorCode.CHECKPOINT_UNSUPPORTED,
        "auto_map",
    ),
}


def test_a_sound_checkpoint_is_described(tmp_path: Path) -> None:
    summary = inspect_apart(make_tiny(tmp_path / "tiny"))
    assert summary["architecture"] == "LlamaForCausalLM"
    assert summary["weights_bytes"] > 0
    assert json.loads(summary["files"]["tokenizer"])


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    breaking, code, named = BROKEN[case]
    path = make_tiny(tmp_path / "tiny")
    breaking(path)
    with pytest.raises(ModelUnusableError) as caught:
        inspect_apart(path)
    assert (caught.value.code, named in str(caught.value)) == (code, True), str(caught.value)
