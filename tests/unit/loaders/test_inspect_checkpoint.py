"""Inspection describes good checkpoints and refuses bad ones, naming what is wrong, before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    FalconConfig,
    MambaConfig,
    PreTrainedConfig,
    RoFormerConfig,
)

from loaders.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    CheckpointUnsupportedError,
    LoaderError,
    TokenizerMissingError,
)
from loaders.inspect import inspect
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny


@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_a_summary_agrees_with_the_model_itself(tmp_path: Path, architecture: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path, architecture))
    summary = inspect(tmp_path)
    assert summary.architecture == type(model).__name__
    assert summary.dtype == "float32"
    assert summary.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert summary.weights_bytes == 4 * summary.num_parameters
    assert summary.max_context == 512
    assert summary.vocab_size == 300
    assert summary.eos_token_ids == (0,)
    layers = model(torch.tensor([[1]]), use_cache=True).past_key_values.layers
    assert summary.kv_bytes_per_token == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert summary.num_layers == len(layers)


_FALCON = FalconConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_hidden_size=96)
_DEEPSEEK = DeepseekV3Config(
    vocab_size=300, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
    kv_lora_rank=24, q_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=20,
)  # fmt: skip


@pytest.mark.parametrize("config", [_FALCON, _DEEPSEEK], ids=["falcon", "deepseek"])
def test_what_a_model_keeps_of_a_token_is_not_guessed_from_its_config(tmp_path: Path, config: PreTrainedConfig) -> None:
    make_tiny(tmp_path)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    layers = model(torch.tensor([[1]]), use_cache=True).past_key_values.layers
    assert inspect(tmp_path).kv_bytes_per_token == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4), "recurrent state"),
        (RoFormerConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=48, is_decoder=True), "longest job"),
    ],
    ids=["mamba", "roformer"],
)  # fmt: skip
def test_a_model_that_cannot_be_decoded_in_a_batch_is_refused(
    tmp_path: Path, config: PreTrainedConfig, why: str
) -> None:
    make_tiny(tmp_path)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointUnsupportedError, match=why):
        inspect(tmp_path)


def test_a_summary_carries_the_texts_that_the_web_process_needs(tmp_path: Path) -> None:
    files = inspect(make_tiny(tmp_path)).files
    assert files.config == (tmp_path / "config.json").read_text()
    assert files.tokenizer == (tmp_path / "tokenizer.json").read_text()
    assert files.generation_config is not None
    assert files.chat_template is None
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    files = inspect(tmp_path).files
    assert files.generation_config is None
    assert files.chat_template == "{{ x }}"
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert inspect(tmp_path).files.chat_template == "own file"


def test_end_ids_come_from_the_generation_config_first(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 4]}')
    assert inspect(tmp_path).eos_token_ids == (4, 9)
    (tmp_path / "generation_config.json").unlink()
    assert inspect(tmp_path).eos_token_ids == (0,)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).write_text(text)

    return damage


def _set_in_config(**values: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **values}))

    return damage


def _change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors")

    return damage


def _truncate(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _break_header(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])


def _lose_shard(path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(path)
    (path / "model.safetensors").unlink()
    model.save_pretrained(path, max_shard_size="100KB")
    sorted(path.glob("model-*.safetensors"))[1].unlink()


def _shard_outside(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')


NORM = "model.norm.weight"
BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], type[LoaderError], str]] = {
    "no config": (_remove("config.json"), CheckpointMissingError, r"config\.json"),
    "no weights": (_remove("model.safetensors"), CheckpointMissingError, "neither model.safetensors"),
    "no tokenizer": (_remove("tokenizer.json"), TokenizerMissingError, r"tokenizer\.json: no such file"),
    "malformed tokenizer": (_write("tokenizer.json", '{"model": 1}'), TokenizerMissingError, r"tokenizer\.json"),
    "malformed config": (_write("config.json", '{"model_type": '), CheckpointCorruptError, r"config\.json: not JSON"),
    "config twice": (_write("config.json", '{"a": 1, "a": 2}'), CheckpointCorruptError, "a key appears twice"),
    "config is a list": (_write("config.json", "[]"), CheckpointCorruptError, "list, expected an object"),
    "deep config": (_write("config.json", "[" * 100_000), CheckpointCorruptError, r"config\.json: not JSON"),
    "malformed generation config": (_write("generation_config.json", "{"), CheckpointCorruptError, "generation_config"),
    "unknown architecture": (_set_in_config(model_type="warp"), CheckpointUnsupportedError, "'warp'"),
    "not a language model": (_set_in_config(model_type="vit"), CheckpointUnsupportedError, "no causal .* 'vit'"),
    "foreign code": (_set_in_config(auto_map={"AutoModel": "x.Y"}), CheckpointUnsupportedError, "auto_map"),
    "quantized": (
        _set_in_config(quantization_config={"quant_method": "gptq"}),
        CheckpointUnsupportedError,
        "quantization_config",
    ),
    "a config that contradicts itself": (
        _set_in_config(model_type="opt", hidden_size=65),
        CheckpointCorruptError,
        r"config\.json: no OPTForCausalLM can be made from it",
    ),
    "a template with U+0000": (
        _write("chat_template.jinja", "a\0b"),
        CheckpointCorruptError,
        r"chat_template: U\+0000 at character 1",
    ),
    "a template with half a character": (
        _write("tokenizer_config.json", r'{"chat_template": "a\ud83d"}'),
        CheckpointCorruptError,
        r"chat_template: U\+D83D",
    ),
    "a tokenizer config with U+0000": (
        lambda path: (_write("tokenizer_config.json", "\0")(path), _write("chat_template.jinja", "own")(path)),
        CheckpointCorruptError,
        "tokenizer_config: U",
    ),
    "truncated weights": (_truncate, CheckpointCorruptError, r"model\.safetensors"),
    "broken header": (_break_header, CheckpointCorruptError, r"model\.safetensors"),
    "missing tensor": (_change_tensors(lambda tensors: tensors.pop(NORM)), CheckpointMissingError, NORM),
    "wrong shape": (
        _change_tensors(lambda tensors: tensors.update({NORM: torch.ones(3)})),
        CheckpointCorruptError,
        rf"{NORM} has shape \(3,\), expected \(64,\)",
    ),
    "foreign type": (
        _change_tensors(lambda tensors: tensors.update({NORM: torch.ones(64).to(torch.float8_e4m3fn)})),
        CheckpointUnsupportedError,
        "float8_e4m3fn",
    ),
    "lost shard": (_lose_shard, CheckpointMissingError, r"model-00002-of-\d+\.safetensors"),
    "shard outside": (_shard_outside, CheckpointCorruptError, r"\.\./b\.safetensors"),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    damage, error, message = BAD_CHECKPOINTS[case]
    make_tiny(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=message):
        inspect(tmp_path)


def test_a_wrong_expert_is_named(tmp_path: Path) -> None:
    make_tiny(tmp_path, "mixtral")
    tensors = load_file(tmp_path / "model.safetensors")
    expert = next(name for name in tensors if "experts.2" in name)
    save_file({**tensors, expert: torch.ones(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointCorruptError, match=expert):
        inspect(tmp_path)


def test_inspection_of_a_huge_checkpoint_allocates_nothing_of_its_size(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    # 8 TB of parameters: the check would fail at once if it allocated what the checkpoint lacks.
    _set_in_config(intermediate_size=10**10)(tmp_path)
    with pytest.raises(CheckpointCorruptError, match="10000000000"):
        inspect(tmp_path)
