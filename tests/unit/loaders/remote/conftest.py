"""Checkpoints of three chunks in each data file, in both forms, and a server of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loaders.writer.convert import convert
from tests.support.file_server import FileServer


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two .safetensors files of 40 MB each with their index, and some execution files."""
    path = tmp_path_factory.mktemp("plain")
    generator = torch.Generator().manual_seed(7)
    weight_map = {}
    for shard in (1, 2):
        name = f"model-{shard:05d}-of-00002.safetensors"
        # An odd number of bytes, so that the last block of the file is not a whole one.
        tensors = {f"layers.{shard}.{part}": torch.randn(5_000_000, generator=generator) for part in "ab"}
        tensors[f"layers.{shard}.c"] = torch.arange(3, dtype=torch.uint8)
        save_file(tensors, path / name)
        weight_map |= dict.fromkeys(tensors, name)
    entries = ",".join(f'"{tensor}":"{name}"' for tensor, name in weight_map.items())
    (path / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{entries}}}}}')
    (path / "generation_config.json").write_text("{}")
    (path / "README.md").write_text("left where it is")
    return path


@pytest.fixture(scope="session")
def converted_checkpoint(plain_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in our format: one partition of 80 MB."""
    path = tmp_path_factory.mktemp("converted") / "checkpoint"
    convert(plain_checkpoint, path)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """A server of an empty folder."""
    root = tmp_path / "served"
    root.mkdir()
    with FileServer(root) as running:
        yield running
