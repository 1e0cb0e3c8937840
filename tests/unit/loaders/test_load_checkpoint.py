"""A loaded checkpoint computes exactly what transformers itself would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from loaders.checkpoint import load
from loaders.errors import CheckpointMissingError, LoaderError
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny

TOKEN_IDS = torch.arange(24)[None] * 7 % 300


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_logits_are_bit_equal_to_those_of_from_pretrained(
    tmp_path: Path, architecture: str, dtype: torch.dtype, with_model: bool
) -> None:
    make_tiny(tmp_path, architecture, dtype=dtype)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    with load(tmp_path, with_model=with_model) as checkpoint, torch.inference_mode():
        model = checkpoint.model()
        assert model.dtype is dtype
        assert torch.equal(model(TOKEN_IDS).logits, expected(TOKEN_IDS).logits)


def test_a_model_is_ready_to_run_and_outlives_its_checkpoint(tmp_path: Path) -> None:
    with load(make_tiny(tmp_path)) as checkpoint:
        model = checkpoint.model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())
    assert model(TOKEN_IDS).logits.isfinite().all()


def test_a_model_takes_the_tensors_as_they_are(tmp_path: Path) -> None:
    checkpoint = load(make_tiny(tmp_path))
    stored = {tensor.data_ptr() for tensor in checkpoint.tensors.values()}
    assert {parameter.data_ptr() for parameter in checkpoint.model().parameters()} == stored


def test_tied_weights_are_stored_and_held_once(tmp_path: Path) -> None:
    checkpoint = load(make_tiny(tmp_path, "llama"))
    model = checkpoint.model()
    assert "lm_head.weight" not in checkpoint.tensors
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_checkpoint_in_several_shards_is_one_checkpoint(tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "one", "opt"))
    whole.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    checkpoint = load(tmp_path / "many")
    assert checkpoint.num_bytes == sum(parameter.nbytes for parameter in whole.parameters())
    assert torch.equal(checkpoint.model()(TOKEN_IDS).logits, whole(TOKEN_IDS).logits)


def test_the_stored_type_wins_over_what_the_config_says(tmp_path: Path) -> None:
    make_tiny(tmp_path, dtype=torch.bfloat16)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("bfloat16", "float32"))
    assert load(tmp_path).model().dtype is torch.bfloat16


def test_a_closed_checkpoint_has_no_tensors(tmp_path: Path) -> None:
    checkpoint = load(make_tiny(tmp_path))
    checkpoint.close()
    checkpoint.close()
    assert checkpoint.num_bytes == 0
    with pytest.raises(LoaderError, match="closed"):
        checkpoint.model()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissingError, match="nothing-here"):
        load(tmp_path / "nothing-here")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_has_all_its_tensors_there(tmp_path: Path) -> None:
    checkpoint = load(make_tiny(tmp_path), "cuda:0")
    model = checkpoint.model()
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cuda"}
    assert {tensor.data_ptr() for tensor in checkpoint.tensors.values()} == {
        parameter.data_ptr() for parameter in model.parameters()
    }
