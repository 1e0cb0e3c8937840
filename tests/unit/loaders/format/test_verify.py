"""`verify` notices every changed bit, names where it is, and looks into the padding."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_kernels.digest import chunk_digest
from loaders.errors import CheckpointCorruptError, LoaderError
from loaders.format.verify import verify
from loaders.writer.convert import convert
from tests.support.checkpoints import alter, small_state_dict

_PARTITION = "partition_00000.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with raw and packed tensors."""
    path = tmp_path_factory.mktemp("original") / "checkpoint"
    weights = (torch.randn(270_001, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    convert(small_state_dict() | {"model.layers.2.packed": weights}, path, pack=True)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "checkpoint")


def _sign(path: Path) -> None:
    """Make the digests agree with the partition as it is."""
    data = (path / _PARTITION).read_bytes()

    def content(text: str) -> str:
        value = json.loads(text)
        value["partitions"] = [
            {
                "num_bytes": len(data),
                "tree_sha256": hashlib.sha256(hashlib.sha256(data).digest()).hexdigest(),
                "chunk_digests": [f"{chunk_digest(data):016x}"],
            }
        ]
        return json.dumps(value, separators=(",", ":"))

    alter(path, content=content)


def _spoil(path: Path, position: int, value: int) -> None:
    with (path / _PARTITION).open("r+b") as file:
        file.seek(position)
        file.write(bytes([value]))


def test_a_sound_checkpoint_passes_and_reports_its_progress(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = verify(path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(manifest.num_bytes, manifest.num_bytes)]


def test_a_thousand_flipped_bits_are_noticed(path: Path) -> None:
    random = np.random.default_rng(0)
    with (path / _PARTITION).open("r+b") as file:
        data = file.read()
        for position in random.integers(0, len(data), 1000):
            file.seek(position)
            file.write(bytes([data[position] ^ 1 << int(random.integers(8))]))
            file.flush()
            with pytest.raises(CheckpointCorruptError, match=r"partition_00000.bin: chunk 0, bytes 0 to \d+, tensors"):
                verify(path)
            file.seek(position)
            file.write(data[position : position + 1])
    verify(path)


def test_a_bit_that_only_sha256_can_know_of_is_noticed(path: Path) -> None:
    _spoil(path, 0, 255)
    digest = f"{chunk_digest((path / _PARTITION).read_bytes()):016x}"

    def content(text: str) -> str:
        value = json.loads(text)
        value["partitions"][0]["chunk_digests"] = [digest]
        return json.dumps(value, separators=(",", ":"))

    alter(path, content=content)
    with pytest.raises(CheckpointCorruptError, match=f"{_PARTITION}: SHA-256 [0-9a-f]+ over its chunks, expected"):
        verify(path)


def test_bytes_hidden_in_padding_are_noticed_although_all_digests_agree(path: Path) -> None:
    entries = sorted(
        json.loads((path / "tensor_index.json").read_text())["tensors"].values(), key=lambda e: e["offset"]
    )
    ends = {entry["offset"] + entry["num_bytes"] for entry in entries if entry["num_bytes"] % 256}
    size = (path / _PARTITION).stat().st_size
    assert len(ends) >= 3
    for position in [*ends, max(ends), size - 1]:
        _spoil(path, position, 1)
        _sign(path)
        with pytest.raises(CheckpointCorruptError, match=f"byte {position} of padding is not zero"):
            verify(path)
        _spoil(path, position, 0)
    _sign(path)
    verify(path)


def test_bytes_hidden_between_the_parts_of_a_segment_are_noticed(path: Path) -> None:
    entry = json.loads((path / "tensor_index.json").read_text())["tensors"]["model.layers.2.packed"]
    # The second and last segment has 7857 elements: its plane is followed by 15 zeros.
    first_bytes = sum(
        -(-part // 16) * 16 for part in (1 << 18, 1 << 17, 4 * entry["segments"][0], entry["segments"][0])
    )
    position = entry["offset"] + first_bytes + 270_001 - (1 << 18)
    _spoil(path, position, 1)
    _sign(path)
    with pytest.raises(CheckpointCorruptError, match=f"byte {position} of padding is not zero"):
        verify(path)


def test_patches_out_of_place_are_noticed_although_all_digests_agree(path: Path) -> None:
    entry = json.loads((path / "tensor_index.json").read_text())["tensors"]["model.layers.2.packed"]
    assert entry["segments"][0] > 0
    _spoil(path, entry["offset"] + (1 << 18) + (1 << 17) + 3, 255)
    _sign(path)
    with pytest.raises(CheckpointCorruptError, match=r"model.layers.2.packed, segment at byte \d+: .*ascending"):
        verify(path)


def test_a_file_that_nothing_refers_to_is_noticed(path: Path) -> None:
    (path / "payload").touch()
    with pytest.raises(CheckpointCorruptError, match="payload: is no part of a checkpoint"):
        verify(path)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_partition_cut_off_at_any_border_is_refused(path: Path, change: int) -> None:
    data = (path / _PARTITION).read_bytes()
    entries = json.loads((path / "tensor_index.json").read_text())["tensors"].values()
    borders = {entry["offset"] for entry in entries} | {entry["offset"] + entry["num_bytes"] for entry in entries}
    for border in (borders | {4096, len(data)}) - {0}:
        os.truncate(path / _PARTITION, border + change)
        with pytest.raises(LoaderError, match=f"{_PARTITION}: {border + change} bytes, expected {len(data)}"):
            verify(path)
    (path / _PARTITION).write_bytes(data)
    verify(path)
