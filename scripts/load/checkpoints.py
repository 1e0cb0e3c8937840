"""The checkpoints that bench_load makes for itself, in every form that a contestant wants."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    OPTConfig,
    OPTForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from loaders.writer.convert import convert
from scripts.load.contestants import Files

#: As a trained model's weights, roughly; what is in them matters to packing alone.
_DEVIATION = 0.02


def opt_1_3b(folder: Path) -> Path:
    """2.6 GB in 388 tensors: the shapes of OPT-1.3B in bfloat16, random weights."""
    config = OPTConfig(
        hidden_size=2048,
        ffn_dim=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        word_embed_proj_dim=2048,
        max_position_embeddings=2048,
        dtype="bfloat16",
    )
    return _model(folder, OPTForCausalLM, config)


def experts(folder: Path) -> Path:
    """1.9 GB in 2,415 tensors: a small Qwen3-MoE in bfloat16, whose class joins the 64 experts of each layer."""
    config = Qwen3MoeConfig(
        hidden_size=1024,
        intermediate_size=2048,
        moe_intermediate_size=384,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=128,  # type: ignore[call-arg] # its models ask for it
        num_experts=64,
        vocab_size=4096,
        dtype="bfloat16",
    )
    return _model(folder, Qwen3MoeForCausalLM, config)


def many_small(folder: Path) -> Path:
    """0.5 GB in 20,000 tensors."""
    generator = torch.Generator().manual_seed(0)
    base = torch.empty(13_000).normal_(0, _DEVIATION, generator=generator).to(torch.bfloat16)
    return _tensors(folder, {f"layers.{index}.weight": base.clone() for index in range(20_000)})


def lora(folder: Path) -> Path:
    """20 MB in 192 tensors, as an adapter of rank 16 has them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (16, 2048), "lora_B": (2048, 16)}
    return _tensors(
        folder,
        {
            f"layers.{index}.{name}.{side}.weight": torch.empty(shape)
            .normal_(0, _DEVIATION, generator=generator)
            .to(torch.bfloat16)
            for index in range(24)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj")
            for side, shape in shapes.items()
        },
    )


CHECKPOINTS = {"opt-1.3b": opt_1_3b, "experts": experts, "many-small": many_small, "lora": lora}


def make(name: str, folder: Path, *, peers: bool, pool_bytes: int, device: str) -> Files:
    """Make a checkpoint in all forms; what is there from an earlier run is used again."""
    files = Files(
        directory=folder / name / "safetensors",
        converted=folder / name / "converted",
        packed=folder / name / "packed",
        pickled=folder / name / "tensors.pt",
        tensorized=folder / name / "tensors.tensorizer",
        pool=Path("/dev/shm") / f"sllm-bench-{name}",
        pool_bytes=pool_bytes,
        device=device,
    )
    if not files.safetensors.is_file():
        partial = folder / name / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        CHECKPOINTS[name](partial).rename(files.directory)
    for path, pack in ((files.converted, False), (files.packed, True)):
        if not path.is_dir():
            convert(files.directory, path, pack=pack)
    if not files.pickled.is_file():
        partial = files.pickled.with_suffix(".partial")
        torch.save(_read(files), partial)
        partial.rename(files.pickled)
    if peers and not files.tensorized.is_file():
        _tensorize(files)
    return files


def _model(folder: Path, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> Path:
    with torch.device("meta"):
        model = model_class(config).bfloat16()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(torch.empty(parameter.shape).normal_(0, _DEVIATION, generator=generator))
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="1TB")
    return folder


def _tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _read(files: Files) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415 - only when files are made

    return load_file(files.safetensors)


def _tensorize(files: Files) -> None:
    partial = files.tensorized.with_suffix(".partial")
    try:
        from tensorizer import TensorSerializer  # noqa: PLC0415 - an optional peer

        serializer = TensorSerializer(str(partial))
        serializer.write_state_dict(_read(files))
        serializer.close()
    except (ImportError, RuntimeError) as error:
        print(f"tensorizer is left out: it does not write {files.directory.parent.name}: {error}", file=sys.stderr)
        partial.unlink(missing_ok=True)
    else:
        partial.rename(files.tensorized)
