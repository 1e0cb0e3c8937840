"""Tensors in safetensors files: what the headers say, and the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from loaders.errors import CheckpointCorruptError, CheckpointUnsupportedError

#: What a header calls the types that a model here may be stored in.
_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor as a header describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    shard: Path

    @property
    def num_bytes(self) -> int:
        """Size of its data."""
        return prod(self.shape) * self.dtype.itemsize


def read_headers(shards: tuple[Path, ...]) -> Mapping[str, TensorInfo]:
    """Describe every tensor; reads headers only, which also checks that each file has the length its header says."""
    infos: dict[str, TensorInfo] = {}
    for shard in shards:
        with _translated(shard), safe_open(shard, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                if name in infos:
                    raise CheckpointCorruptError(f"{shard}: tensor {name} is already in {infos[name].shard}")
                entry = opened.get_slice(name)
                dtype = _DTYPES.get(entry.get_dtype())
                if dtype is None:
                    raise CheckpointUnsupportedError(
                        f"{shard}: tensor {name} is stored as {entry.get_dtype()}, expected one of {', '.join(_DTYPES)}"
                    )
                infos[name] = TensorInfo(shape=tuple(entry.get_shape()), dtype=dtype, shard=shard)
    return infos


def stored_dtype(infos: Mapping[str, TensorInfo]) -> torch.dtype:
    """Return the floating-point type that most of the weights have."""
    num_bytes: dict[torch.dtype, int] = {}
    for info in infos.values():
        if info.dtype.is_floating_point:
            num_bytes[info.dtype] = num_bytes.get(info.dtype, 0) + info.num_bytes
    if not num_bytes:
        raise CheckpointUnsupportedError("no tensor is of a floating-point type")
    return max(num_bytes, key=lambda dtype: num_bytes[dtype])


def read_tensors(shards: tuple[Path, ...], device: str) -> dict[str, torch.Tensor]:
    """Read every tensor; on the CPU they are views of the mapped files."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in shards:
        with _translated(shard), safe_open(shard, framework="pt", device=device) as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                tensors[name] = opened.get_tensor(name)
    return tensors


@contextmanager
def _translated(shard: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(f"{shard}: not a readable safetensors file: {error}") from error
