"""What goes into a checkpoint comes out of it bit for bit: every type, views, ties, sizes of all kinds."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from loaders.errors import CheckpointUnsupportedError
from loaders.format.dtypes import ITEMSIZE
from loaders.format.torch_dtypes import BY_NAME
from loaders.format.validate import open_checkpoint
from loaders.format.verify import verify
from loaders.writer.convert import convert
from tests.support.checkpoints import read_back, same_bits, small_state_dict

_NAMES = st.from_regex(r"\A(model\.(embed\.|layers\.[0-9]\.|))?[A-Za-z0-9_\-]{1,8}\Z")


def _bytes(num_bytes: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8))


@st.composite
def _state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Views of a few storages: any type, any place, strides of any kind, some of them tied."""
    storages = [
        _bytes(num_bytes, seed).untyped_storage()
        for seed, num_bytes in enumerate(draw(st.lists(st.integers(0, 700), min_size=1, max_size=4)))
    ]
    tensors: dict[str, torch.Tensor] = {}
    for name in draw(st.lists(_NAMES, min_size=1, max_size=8, unique=True)):
        if tensors and draw(st.integers(0, 4)) == 0:
            tensors[name] = draw(st.sampled_from(list(tensors.values())))
            continue
        storage = draw(st.sampled_from(storages))
        dtype = BY_NAME[draw(st.sampled_from(sorted(BY_NAME.keys() - {"complex32"})))]
        room = storage.nbytes() // dtype.itemsize
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        stride = [draw(st.integers(0, 5)) for _ in shape]
        reach = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        if 0 in shape:
            reach = 0
        if reach > room:
            shape, stride, reach = [0], [1], 0
        offset = draw(st.integers(0, room - reach))
        tensors[name] = torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)
    return tensors


@given(tensors=_state_dicts(), num_partitions=st.integers(1, 3))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
def test_any_state_dict_comes_back(tensors: dict[str, torch.Tensor], num_partitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        manifest = convert(tensors, path, num_partitions=num_partitions)
        restored = read_back(path)
        assert restored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert same_bits(restored[name], tensor), name
        assert verify(path) == manifest
        shared = {
            (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()) for tensor in tensors.values()
        }
        assert sum(manifest.content.dtypes.values()) == sum(num_bytes for _, num_bytes in shared)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", sorted(ITEMSIZE))
def test_every_type_comes_back(tmp_path: Path, name: str) -> None:
    dtype = BY_NAME[name]
    assert dtype.itemsize == ITEMSIZE[name]
    tensor = _bytes(35 * dtype.itemsize, 3).view(dtype).view(5, 7)
    convert({"whole": tensor, "scalar": tensor[2, 3], "empty": tensor[:0]}, tmp_path / "c")
    restored = read_back(tmp_path / "c")
    assert same_bits(restored["whole"], tensor)
    assert same_bits(restored["scalar"], tensor[2, 3])
    assert same_bits(restored["empty"], tensor[:0])


def test_tied_tensors_are_stored_once_and_are_one_again(tmp_path: Path) -> None:
    tensors = small_state_dict()
    convert(tensors, tmp_path / "c")
    index = json.loads((tmp_path / "c" / "tensor_index.json").read_text())
    assert index["aliases"] == {"lm_head.weight": "model.embed_tokens.weight"}
    restored = read_back(tmp_path / "c")
    assert restored["lm_head.weight"] is restored["model.embed_tokens.weight"]


def test_views_of_one_storage_share_it_again(tmp_path: Path) -> None:
    convert(small_state_dict(), tmp_path / "c")
    restored = read_back(tmp_path / "c")
    restored["model.layers.1.view"][3, 1] = 77
    assert restored["model.layers.0.view"][1, 0] == 77


def test_lazy_conjugates_are_stored_as_what_they_stand_for(tmp_path: Path) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    convert({"c": tensor.conj(), "i": tensor.conj().imag}, tmp_path / "c")
    restored = read_back(tmp_path / "c")
    assert torch.equal(restored["c"], tensor.conj().resolve_conj())
    assert torch.equal(restored["i"], torch.tensor([-2.0, 4.0]))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, device="meta"),
        torch.eye(2).to_sparse(),
    ],
    ids=["meta", "sparse"],
)
def test_tensors_without_plain_bytes_are_refused_by_name(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(CheckpointUnsupportedError, match="tensor odd"):
        convert({"odd": tensor}, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "..\\x", "ä", "x" * 257, "a b", "a\n"])
def test_names_that_the_format_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointUnsupportedError, match="tensor name"):
        convert({name: torch.zeros(1)}, tmp_path / "c")


@pytest.mark.parametrize("num_elements", [262143, 262144, 262145, 600_001])
def test_packed_tensors_come_back_with_every_kind_of_number(tmp_path: Path, num_elements: int) -> None:
    tensor = (torch.randn(num_elements, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    bits = tensor.view(torch.int16)
    odd = torch.tensor([0x7F80, 0x7FC1, 0x7F81, -0x80, -0x8000, 1, 0x7F7F, 0], dtype=torch.int16)
    bits[:8], bits[-8:] = odd, odd
    manifest = convert({"w": tensor}, tmp_path / "c", pack=True)
    assert manifest.num_bytes < 0.78 * tensor.nbytes
    assert manifest.content.dtypes == {"bfloat16": tensor.nbytes}
    assert same_bits(read_back(tmp_path / "c")["w"], tensor)
    assert verify(tmp_path / "c") == manifest
    with open_checkpoint(tmp_path / "c") as opened:
        entry = opened.index.tensors["w"]
        assert entry.packing is not None
        assert entry.storage_bytes == tensor.nbytes


def test_only_what_gets_smaller_is_packed(tmp_path: Path) -> None:
    noise = _bytes(1 << 18, 5).view(torch.bfloat16)
    weights = (torch.randn(1 << 17, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    tensors = {
        "noise": noise,
        "float": torch.randn(1 << 16),
        "small": weights[:64].clone(),
        "part": weights.clone()[8:],
        "transposed": weights.clone().view(512, 256).t(),
        "packed": weights.clone(),
        "tied": (tied := weights.clone().view(512, 256)),
        "tied_too": tied,
    }
    convert(tensors, tmp_path / "c", pack=True)
    with open_checkpoint(tmp_path / "c") as opened:
        packed = {name for name, entry in opened.index.tensors.items() if entry.packing is not None}
    assert packed == {"packed", "tied"}
    restored = read_back(tmp_path / "c")
    assert all(same_bits(restored[name], tensor) for name, tensor in tensors.items())


def test_packed_segments_never_cross_a_chunks_border(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"layers.{number}.w": (torch.randn(2_500_000, generator=generator) * 0.02).to(torch.bfloat16)
        for number in range(5)
    }
    convert(tensors, tmp_path / "c", pack=True)
    assert (tmp_path / "c" / "partition_00000.bin").stat().st_size > 16 << 20
    restored = read_back(tmp_path / "c")
    assert all(same_bits(restored[name], tensor) for name, tensor in tensors.items())
    verify(tmp_path / "c")


def test_tensors_that_cross_chunks_come_back(tmp_path: Path) -> None:
    tensors = {"a": _bytes((16 << 20) - 100, 1), "b": _bytes((16 << 20) + 300, 2), "c": _bytes(1000, 3)}
    manifest = convert(tensors, tmp_path / "c")
    assert len(manifest.content.partitions[0].chunk_digests) == 3
    restored = read_back(tmp_path / "c")
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())
    verify(tmp_path / "c")


def test_a_state_dict_and_the_files_saved_from_it_hold_the_same(tmp_path: Path) -> None:
    tensors = {name: torch.randn(5, number + 1) for number, name in enumerate(["b", "a.1.x", "a.0.x", "embed"])}
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    from_files = convert(tmp_path / "source", tmp_path / "one")
    from_memory = convert(dict(reversed(tensors.items())), tmp_path / "two")
    assert from_files.digest == from_memory.digest
    assert from_files.source != from_memory.source
