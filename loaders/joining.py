"""Which stored tensors a model's class joins into one, and in which order: found out from tensors without memory.

Models with experts store the matrices of each and compute with one tensor of all. Where those lie side by side in that
order, the joined one is there already, and need not be put together with every load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class Joined:
    """A contiguous tensor whose bytes are those of stored tensors, one behind the other."""

    shape: tuple[int, ...]
    #: Names of the stored tensors in the order of their bytes, and how many elements each has.
    pieces: tuple[tuple[str, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stored tensors."""
        return tuple(name for name, _ in self.pieces)


def stack(parts: Sequence[Joined]) -> Joined | None:
    """Join tensors as `torch.stack` does along a new first dimension; None where it would refuse."""
    if not parts or any(part.shape != parts[0].shape for part in parts):
        return None
    return Joined((len(parts), *parts[0].shape), tuple(chain.from_iterable(part.pieces for part in parts)))


def concatenate(parts: Sequence[Joined], dim: int) -> Joined | None:
    """Join tensors as `torch.cat` does; None where it would refuse, or a stored tensor would be cut."""
    if not parts or not 0 <= dim < len(parts[0].shape):
        return None
    num_dims, leading, trailing = len(parts[0].shape), parts[0].shape[:dim], parts[0].shape[dim + 1 :]
    runs = []
    for part in parts:
        if len(part.shape) != num_dims or part.shape[:dim] != leading or part.shape[dim + 1 :] != trailing:
            return None
        cut = _cut(part, prod(leading))
        if cut is None:
            return None
        runs.append(cut)
    pieces = chain.from_iterable(chain.from_iterable(slices) for slices in zip(*runs, strict=True))
    return Joined((*leading, sum(part.shape[dim] for part in parts), *trailing), tuple(pieces))


def _cut(part: Joined, num_slices: int) -> list[list[tuple[str, int]]] | None:
    """Cut a tensor into as many equal slices of whole pieces."""
    slices: list[list[tuple[str, int]]] = [[]]
    size = prod(part.shape) // max(num_slices, 1)
    filled = 0
    for piece in part.pieces:
        if filled == size and len(slices) < num_slices:
            slices.append([])
            filled = 0
        slices[-1].append(piece)
        filled += piece[1]
        if filled > size:
            return None
    return slices if len(slices) == num_slices else None


class Joining(TorchFunctionMode):
    """Sees what becomes of tensors while it is entered: which of them are joined, and how."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        # They are kept, so that no other tensor can be taken for one of them.
        self._kept: list[torch.Tensor] = []
        self._joined: dict[tuple[object, ...], Joined] = {}
        for name, tensor in tensors.items():
            self._note(tensor, Joined(tuple(tensor.shape), ((name, tensor.numel()),)))

    def find(self, tensor: torch.Tensor) -> Joined | None:
        """Tell what a tensor consists of; None if it is neither stored nor joined."""
        return self._joined.get(_place(tensor))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in {torch.stack, torch.cat}:
            self._join(func, result, *args, **(kwargs or {}))
        return result

    def _join(
        self, func: Any, result: torch.Tensor, tensors: Sequence[torch.Tensor], dim: int = 0, **others: Any
    ) -> None:
        parts = [part for tensor in tensors if (part := self.find(tensor)) is not None]
        if others or len(parts) < len(tensors) or any(tensor.dtype != result.dtype for tensor in tensors):
            return
        dim += result.dim() if dim < 0 else 0
        joined = concatenate(parts, dim) if func is torch.cat else stack(parts) if dim == 0 else None
        if joined is not None:
            self._note(result, joined)

    def _note(self, tensor: torch.Tensor, joined: Joined) -> None:
        self._kept.append(tensor)
        self._joined.setdefault(_place(tensor), joined)


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for tensors that would be the same memory, if they had any."""
    storage = tensor.untyped_storage()._cdata  # noqa: SLF001 - `data_ptr` is 0 for all that have no memory
    return storage, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
