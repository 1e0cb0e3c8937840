"""Small checkpoints: read back by a reader of their own, and altered so that all digests agree again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cuda_kernels import packed_reference

_CHUNK_BYTES = 16 << 20
_SEGMENT_ELEMENTS = 1 << 18


def small_state_dict() -> dict[str, torch.Tensor]:
    """Some kilobytes with a tied tensor, views of one storage, a scalar and an empty tensor."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(64, 3, generator=generator)
    embedding = torch.randn(50, 16, generator=generator).to(torch.bfloat16)
    return {
        "model.embed_tokens.weight": embedding,
        "model.layers.0.a.weight": torch.randn(33, 7, generator=generator),
        "model.layers.0.view": shared[3:9].t(),
        "model.layers.1.view": shared,
        "model.layers.1.flag": torch.tensor(True),
        "model.norm.weight": torch.zeros(0, 4),
        "lm_head.weight": embedding,
    }


def read_back(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a checkpoint; those that shared a storage share it again."""
    index = json.loads((path / "tensor_index.json").read_text())
    storages: dict[tuple[int, int, int], torch.Tensor] = {}
    tensors = {}
    for name, entry in index["tensors"].items():
        key = (entry["partition"], entry["offset"], entry["num_bytes"])
        if key not in storages:
            storages[key] = _storage(path, entry)
        dtype = getattr(torch, entry["dtype"])
        stride = entry.get("stride") or torch.empty(entry["shape"], device="meta").stride()
        tensors[name] = torch.empty(0, dtype=dtype).set_(
            storages[key].untyped_storage(), entry.get("storage_offset", 0), entry["shape"], stride
        )
    for name, target in index["aliases"].items():
        tensors[name] = tensors[target]
    return tensors


def _storage(path: Path, entry: dict[str, Any]) -> torch.Tensor:
    with (path / f"partition_{entry['partition']:05d}.bin").open("rb") as file:
        file.seek(entry["offset"])
        data = np.frombuffer(file.read(entry["num_bytes"]), dtype=np.uint8).copy()
    if entry.get("layout") == "packed":
        data = _unpack(data, entry)
    return torch.from_numpy(data)


def _unpack(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    num_elements, position, pieces = int(np.prod(entry["shape"])), entry["offset"], []
    for number, patches in enumerate(entry["segments"]):
        length = min(_SEGMENT_ELEMENTS, num_elements - number * _SEGMENT_ELEMENTS)
        parts = [length, (length + 1) // 2, 4 * patches, patches]
        size = sum(-(-part // 16) * 16 for part in parts)
        if position // _CHUNK_BYTES != (position + size - 1) // _CHUNK_BYTES:
            position = -(-position // _CHUNK_BYTES) * _CHUNK_BYTES
        begin = position - entry["offset"]
        pieces.append(packed_reference.decode(data[begin : begin + size], length, patches, tuple(entry["codebook"])))
        position += size
    return np.concatenate(pieces).view(np.uint8)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors look the same in every respect and every byte of their storages is the same."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.storage_offset() == other.storage_offset()
        and torch.equal(_all_bytes(one), _all_bytes(other))
    )


def _all_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def alter(
    path: Path,
    *,
    index: Callable[[str], str] = str,
    content: Callable[[str], str] = str,
) -> None:
    """Change the text of the tensor index and of the manifest's content, and make all digests agree again."""
    text = index((path / "tensor_index.json").read_text())
    (path / "tensor_index.json").write_text(text)
    manifest = json.loads((path / "manifest.json").read_text())
    record = {"num_bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    manifest["content"]["files"]["tensor_index.json"] = record
    write_manifest(path, content(_compact(manifest["content"])))


def write_manifest(path: Path, content: str, origin: str = '{"source":"","created_at":"2026-01-01T00:00:00Z"}') -> None:
    """Write a manifest around a content, with the digest of exactly that."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    (path / "manifest.json").write_text(
        f'{{"format":"sllm-checkpoint","version":2,"content":{content},"digest":"{digest}","origin":{origin}}}\n'
    )


def content_of(path: Path) -> str:
    """The text of a manifest's content."""
    return _compact(json.loads((path / "manifest.json").read_text())["content"])


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
