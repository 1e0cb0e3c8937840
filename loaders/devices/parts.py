"""Which of several devices gets which part of a checkpoint: whole layers, about as many bytes each. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from loaders.format.geometry import CHUNK_BYTES
from loaders.reading.plan import LoadPlan, StoredTensor
from loaders.writer.layers import Group, group_of, split_evenly

#: A storage in the image: its offset and size. Tensors that share one cannot lie on different devices.
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one device gets."""

    device: torch.device
    #: The image as this device holds it: the chunks that have some of its tensors, in their order.
    plan: LoadPlan
    #: The numbers of those chunks in the whole plan.
    chunks: tuple[int, ...]


def split_plan(plan: LoadPlan, devices: Sequence[torch.device], *, by_partition: bool) -> tuple[Part, ...]:
    """Divide a plan among devices, the first layers to the first one.

    With `by_partition`, a checkpoint that was written for so many gpu ranks is divided as it was then. A chunk at the
    border of two parts is in both.
    """
    if len(devices) == 1:
        return (Part(device=devices[0], plan=plan, chunks=tuple(range(len(plan.chunks)))),)
    if by_partition and len(plan.files) == len(devices):
        ranks = {_place(tensor): _partition(plan, tensor) for tensor in plan.tensors.values()}
    else:
        ranks = _ranks(plan.tensors, len(devices))
    return tuple(_part(plan, device, ranks, rank) for rank, device in enumerate(devices))


def _ranks(tensors: Mapping[str, StoredTensor], num_ranks: int) -> dict[_Place, int]:
    """Choose as the writer of partitions does: by layers, tied tensors with the first of them."""
    groups: dict[_Place, Group] = {}
    for name in sorted(tensors, key=lambda name: (group_of(name), name)):
        groups.setdefault(_place(tensors[name]), group_of(name))
    sizes: dict[Group, int] = defaultdict(int)
    for (_, num_bytes), group in groups.items():
        sizes[group] += num_bytes
    runs = dict(zip(sizes, split_evenly(list(sizes.values()), num_ranks), strict=True))
    return {place: runs[group] for place, group in groups.items()}


def _partition(plan: LoadPlan, tensor: StoredTensor) -> int:
    # Behind the last byte there may still be tensors without any.
    return plan.chunks[min(tensor.offset // CHUNK_BYTES, len(plan.chunks) - 1)].file if plan.chunks else 0


def _part(plan: LoadPlan, device: torch.device, ranks: Mapping[_Place, int], rank: int) -> Part:
    own = {name: tensor for name, tensor in plan.tensors.items() if ranks[_place(tensor)] == rank}
    needed = {index for tensor in own.values() for index in _chunks(tensor)}
    chunks = tuple(sorted(needed))
    numbers = {index: number for number, index in enumerate(chunks)}
    tensors = {
        name: replace(tensor, offset=_moved(tensor.offset, numbers)) if tensor.num_bytes else replace(tensor, offset=0)
        for name, tensor in own.items()
    }
    return Part(
        device=device,
        plan=replace(plan, chunks=tuple(plan.chunks[index] for index in chunks), tensors=tensors),
        chunks=chunks,
    )


def _moved(offset: int, numbers: Mapping[int, int]) -> int:
    index, within = divmod(offset, CHUNK_BYTES)
    return numbers[index] * CHUNK_BYTES + within


def _chunks(tensor: StoredTensor) -> range:
    return range(tensor.offset // CHUNK_BYTES, -(-(tensor.offset + tensor.num_bytes) // CHUNK_BYTES))


def _place(tensor: StoredTensor) -> _Place:
    return tensor.offset, tensor.num_bytes
