"""Tensors over the bytes of a checkpoint, wherever those lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod

import torch

from loaders.collecting import collection_put_off
from loaders.errors import CheckpointUnsupportedError
from loaders.format.torch_dtypes import BY_NAME
from loaders.reading.plan import StoredTensor

#: What the weights of a model may be stored as; a checkpoint without a model may have any type of torch.
_MODEL_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")

#: Gives the bytes of a storage as a one-dimensional uint8 tensor: offset in the image, and size.
StorageBytes = Callable[[int, int], torch.Tensor]
#: Gives those bytes where a type can be read.
Align = Callable[[torch.Tensor, torch.dtype], torch.Tensor]


def torch_dtype(name: str) -> torch.dtype:
    """Find a type by the name that the index gives it; raises CheckpointUnsupportedError if this torch lacks it."""
    dtype = BY_NAME.get(name)
    if dtype is None:
        raise CheckpointUnsupportedError(f"torch {torch.__version__} has no type {name}")
    return dtype


def dominant_dtype(tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the floating-point type that most weights of a model have.

    Raises CheckpointUnsupportedError if none has one, or if one has a type that models do not compute with.
    """
    num_bytes: Counter[torch.dtype] = Counter()
    for name, tensor in tensors.items():
        if tensor.dtype not in _MODEL_DTYPES:
            raise CheckpointUnsupportedError(
                f"tensor {name} is stored as {tensor.dtype}, expected one of {', '.join(_MODEL_DTYPES)}"
            )
        dtype = torch_dtype(tensor.dtype)
        if dtype.is_floating_point:
            num_bytes[dtype] += prod(tensor.shape) * dtype.itemsize
    if not num_bytes:
        raise CheckpointUnsupportedError("no tensor is of a floating-point type")
    return max(num_bytes, key=lambda dtype: num_bytes[dtype])


def weights_bytes(tensors: Mapping[str, StoredTensor]) -> int:
    """Return what the tensors take on a device, tied ones counted once."""
    return sum(prod(tensor.shape) * torch_dtype(tensor.dtype).itemsize for tensor in set(tensors.values()))


def view_tensors(
    tensors: Mapping[str, StoredTensor],
    storage_bytes: StorageBytes,
    align: Align,
    unpacked: Mapping[int, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Make every tensor; those that shared a storage share it again, tied ones are the same object.

    Our own files are aligned for every type, those of others need not be. `unpacked` has the storages of packed
    tensors, by their offset in the image.
    """
    storages: dict[tuple[int, int], torch.Tensor] = {}
    made: dict[StoredTensor, torch.Tensor] = {}
    named: dict[str, torch.Tensor] = {}
    with collection_put_off:
        for name, tensor in tensors.items():
            if (found := made.get(tensor)) is None:
                place = (tensor.offset, tensor.num_bytes)
                if place not in storages:
                    packed = tensor.packing is not None
                    storages[place] = unpacked[tensor.offset] if packed else storage_bytes(*place)
                found = made[tensor] = _view(tensor, storages[place], align)
            named[name] = found
    return named


def empty_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
    """Make tensors of these types and shapes that have no memory; tied ones are the same object."""
    made = {
        tensor: torch.empty(tensor.shape, dtype=torch_dtype(tensor.dtype), device="meta")
        for tensor in dict.fromkeys(tensors.values())
    }
    return {name: made[tensor] for name, tensor in tensors.items()}


def _view(tensor: StoredTensor, storage: torch.Tensor, align: Align) -> torch.Tensor:
    dtype = torch_dtype(tensor.dtype)
    if not storage.numel():
        # It begins anywhere.
        typed = torch.empty(0, dtype=dtype, device=storage.device)
    else:
        # A storage shared with a smaller type may end within an element of this one.
        whole = storage.numel() // dtype.itemsize * dtype.itemsize
        typed = align(storage, dtype)[:whole].view(dtype)
    return torch.as_strided(typed, tensor.shape, tensor.stride, typed.storage_offset() + tensor.storage_offset)
