"""Checkpoints over several devices, which are played on the CPU: the same numbers, and nothing crosses unasked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, MixtralConfig, OPTConfig, PreTrainedModel

from loaders import checkpoint
from loaders.devices.cuda import load_on_gpus
from loaders.devices.parts import Part, split_plan
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.reading.pipeline import LoadControl, ReadOptions
from loaders.restore import settle
from loaders.source import open_source
from loaders.templates import make_template
from loaders.writer.convert import convert
from loaders.writer.layers import group_of
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny
from tests.support.checkpoints import small_state_dict
from tests.support.damage import flip_bit
from tests.support.played_devices import PlayedDevices, played_device

DEVICES = ("cpu:0", "cpu:1")
_ARCHITECTURES = ["llama", "opt", "gpt2", "qwen3", "mixtral", "gemma"]
_PROMPT = [[5, 7, 9, 11], [3, 3, 3, 3]]


def logits(model: PreTrainedModel) -> list[torch.Tensor]:
    """Of a prompt, and of one more token behind it."""
    home, cache = model.device, DynamicCache()
    with torch.inference_mode():
        first = model(input_ids=torch.tensor(_PROMPT, device=home), past_key_values=cache, use_cache=True)
        second = model(input_ids=torch.tensor([[1], [2]], device=home), past_key_values=cache, use_cache=True)
    return [first.logits.cpu(), second.logits.cpu()]


def expected_logits(path: Path) -> list[torch.Tensor]:
    with checkpoint.load(path) as loaded:
        return logits(loaded.model())


def assert_runs_over(path: Path, devices: Sequence[str]) -> None:
    expected = expected_logits(path)
    with PlayedDevices(), checkpoint.load(path, devices) as loaded:
        model = loaded.model()
        used = {str(played_device(tensor)) for tensor in model.state_dict().values()}
        assert used == set(devices)
        for found, wanted in zip(logits(model), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.fixture(scope="module", params=_ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny") / request.param, request.param)


def test_a_model_over_two_partitions_computes_what_it_does_on_one_device(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path / "converted", num_partitions=2)
    assert_runs_over(tmp_path / "converted", DEVICES)


def test_safetensors_are_divided_by_layers_as_they_are_loaded(tiny: Path) -> None:
    assert_runs_over(tiny, DEVICES)


def test_partitions_for_another_number_of_gpus_are_divided_anew(tmp_path: Path) -> None:
    convert(make_tiny(tmp_path / "tiny"), tmp_path / "converted", num_partitions=3)
    assert_runs_over(tmp_path / "converted", DEVICES)


def test_packed_tensors_are_unpacked_where_they_are_needed(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path / "tiny", dtype=torch.bfloat16)
    convert(tiny, tmp_path / "converted", num_partitions=2, pack=True)
    assert_runs_over(tmp_path / "converted", DEVICES)


@pytest.mark.parametrize(("num_partitions", "pack"), [(1, False), (2, False), (2, True)])
def test_experts_that_lie_side_by_side_are_one_tensor_on_their_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_partitions: int, pack: bool
) -> None:
    # Large enough for packing to be worth it.
    sizes = TINY_CONFIGS["mixtral"].to_dict() | {"hidden_size": 256, "intermediate_size": 512}
    monkeypatch.setitem(TINY_CONFIGS, "experts", MixtralConfig(**sizes))
    tiny = make_tiny(tmp_path / "tiny", "experts", dtype=torch.bfloat16)
    convert(tiny, tmp_path / "converted", num_partitions=num_partitions, pack=pack)
    expected, made = expected_logits(tiny), []
    with PlayedDevices(), open_source(tmp_path / "converted") as source:
        assert pack == any(tensor.packing is not None for tensor in source.plan.tensors.values())
        parts = split_plan(source.plan, [torch.device(name) for name in DEVICES], by_partition=True)
        load_on_gpus(source.plan, parts, None, ReadOptions(), LoadControl(), lambda *tensors: made.append(tensors))
        ((tensors, side_by_side),) = made
        model = make_template(source).fill(tensors, side_by_side)
        settle(model, tensors)
        for found, wanted in zip(logits(model), expected, strict=True):
            assert torch.equal(found, wanted)
    assert {str(played_device(part)) for name, part in model.named_parameters() if "experts" in name} == set(DEVICES)
    memory = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    assert {part.untyped_storage().data_ptr() for part in model.parameters()} <= memory, "nothing was copied"


def test_a_projection_before_the_first_layer_may_lie_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its output meets the positions, which lie with the embeddings.
    base = TINY_CONFIGS["opt"].to_dict()
    monkeypatch.setitem(TINY_CONFIGS, "projected", OPTConfig(**{**base, "word_embed_proj_dim": 32}))
    assert_runs_over(make_tiny(tmp_path / "tiny", "projected"), DEVICES)


def test_tied_embeddings_stay_with_the_first_layers_and_what_they_are_multiplied_with_comes_to_them(
    tmp_path: Path,
) -> None:
    convert(make_tiny(tmp_path / "tiny", "llama"), tmp_path / "converted", num_partitions=2)
    with PlayedDevices(), checkpoint.load(tmp_path / "converted", DEVICES) as loaded:
        model = loaded.model()
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        assert head.weight is embeddings.weight
        assert str(played_device(head.weight)) == "cpu:0"
        norm = model.get_submodule("model.norm").get_parameter("weight")
        assert str(played_device(norm)) == "cpu:1"


def test_a_model_that_was_loaded_on_two_names_of_one_device_is_loaded_once(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path / "tiny")
    with checkpoint.load(tiny, ("cpu", "cpu")) as loaded, checkpoint.load(tiny) as alone:
        assert loaded.num_bytes == alone.num_bytes
        assert torch.equal(logits(loaded.model())[0], logits(alone.model())[0])


def large_layers() -> dict[str, torch.Tensor]:
    """Layers of about half a chunk, so that most chunks have two, and tensors of every kind between them."""
    generator = torch.Generator().manual_seed(0)
    sizes = [CHUNK_BYTES // 4 + 100 * number for number in range(6)]
    large = {
        f"layers.{number}.w": torch.randn(size, generator=generator).to(torch.bfloat16)
        for number, size in enumerate(sizes)
    }
    small = {f"layers.{number}.b": torch.ones(number) for number in range(6)}
    return {**small_state_dict(), **small, **large}


@pytest.fixture(scope="module", params=[(1, False), (1, True), (2, False), (2, True), (3, False)], ids=str)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    num_partitions, pack = request.param
    path = tmp_path_factory.mktemp("several") / "converted"
    convert(large_layers(), path, num_partitions=num_partitions, pack=pack)
    return path


def split(path: Path, num_devices: int) -> Iterator[Part]:
    with open_source(path) as source:
        devices = [torch.device("cpu", number) for number in range(num_devices)]
        yield from split_plan(source.plan, devices, by_partition=source.is_converted)


@pytest.mark.parametrize("num_devices", [2, 3])
def test_every_tensor_is_in_one_part_and_a_layer_is_never_divided(converted: Path, num_devices: int) -> None:
    parts = list(split(converted, num_devices))
    names = [name for part in parts for name in part.plan.tensors]
    assert sorted(names) == sorted(large_layers())
    layers = [layer for part in parts for layer in {group_of(name) for name in part.plan.tensors if name[0] == "l"}]
    assert len(layers) == len(set(layers))


def test_the_parts_take_about_the_same_room(converted: Path) -> None:
    sizes = [sum(tensor.num_bytes for tensor in part.plan.tensors.values()) for part in split(converted, 2)]
    assert max(sizes) <= 0.7 * sum(sizes)


@pytest.mark.parametrize("num_devices", [2, 3])
def test_tensors_over_several_devices_are_those_on_one(converted: Path, num_devices: int) -> None:
    devices = [f"cpu:{number}" for number in range(num_devices)]
    with PlayedDevices():
        loaded = checkpoint.load(converted, devices)
    for name, tensor in large_layers().items():
        assert torch.equal(loaded.tensors[name], tensor), name


def test_a_wrong_chunk_of_either_partition_ends_the_load(tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / f"damaged-{number}"
        convert(large_layers(), path, num_partitions=2)
        flip_bit(path / f"partition_{number:05}.bin", CHUNK_BYTES // 2)
        with PlayedDevices(), pytest.raises(CheckpointCorruptError, match="wrong digest"):
            checkpoint.load(path, DEVICES)
