"""Tensors are right wherever they lie: in files of others also at places where their type cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from loaders.checkpoint import load
from loaders.devices.cuda import load_on_gpus
from loaders.devices.parts import split_plan
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.reading.pipeline import LoadControl, ReadOptions
from loaders.source import open_source
from loaders.templates import Templates
from loaders.writer.convert import convert


@pytest.fixture
def pool() -> Iterator[Pool]:
    with (
        TemporaryDirectory(prefix="sllm-test-", dir="/dev/shm") as folder,
        Pool.open(Path(folder), 4 * CHUNK_BYTES) as pool,
    ):
        yield pool


@pytest.fixture
def misaligned(tmp_path: Path) -> Path:
    """A small model whose header is three bytes longer than it would have to be."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=40
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    file.write_bytes((end - 8 + 3).to_bytes(8, "little") + content[8:end] + b"   " + content[end:])
    return tmp_path


@pytest.mark.parametrize("pooled", [False, True], ids=["private", "pooled"])
@pytest.mark.parametrize("page_cache", [False, True], ids=["read", "mapped"])
def test_tensors_that_are_not_aligned_have_their_values(
    misaligned: Path, pool: Pool, pooled: bool, page_cache: bool
) -> None:
    file = misaligned / "model.safetensors"
    expected = load_file(file)
    if page_cache:
        file.chmod(0o444)
    options = ReadOptions(page_cache=page_cache)
    with load(misaligned, pool=pool if pooled else None, options=options, with_model=True) as loaded:
        model, tensors = loaded.model(), loaded.tensors
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
        assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in tensors.values())
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())


def test_a_template_is_filled_with_the_values_of_tensors_that_are_not_aligned(misaligned: Path) -> None:
    expected, templates = load_file(misaligned / "model.safetensors"), Templates()
    for _ in range(2):
        with load(misaligned, with_model=True, templates=templates) as loaded:
            state = loaded.model().state_dict()
            assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_tensors_that_are_not_aligned_reach_a_device_whole(misaligned: Path) -> None:
    expected, found = load_file(misaligned / "model.safetensors"), dict[str, torch.Tensor]()
    with open_source(misaligned) as source:
        parts = split_plan(source.plan, [torch.device("cpu")], by_partition=False)
        load_on_gpus(source.plan, parts, None, ReadOptions(), LoadControl(), lambda made, _: found.update(made))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_empty_tensor_may_begin_anywhere(tmp_path: Path) -> None:
    save_file({"byte": torch.ones(1, dtype=torch.uint8), "none": torch.zeros(0, 3)}, tmp_path / "t.safetensors")
    with load(tmp_path / "t.safetensors") as loaded:
        assert (loaded.tensors["none"].shape, loaded.tensors["none"].dtype) == ((0, 3), torch.float32)


def test_a_storage_that_ends_within_an_element_of_one_of_its_tensors_is_loaded(tmp_path: Path) -> None:
    whole = torch.arange(1001, dtype=torch.int64).to(torch.uint8)
    part = whole[:1000].view(torch.bfloat16)
    convert({"whole": whole, "part": part}, tmp_path / "c")
    with load(tmp_path / "c") as loaded:
        assert torch.equal(loaded.tensors["whole"], whole)
        assert torch.equal(loaded.tensors["part"].view(torch.uint8), part.view(torch.uint8))
        assert loaded.tensors["part"].untyped_storage().data_ptr() == loaded.tensors["whole"].data_ptr()
