"""Where every storage of a source will lie: partitions, offsets, the tensor index. Pure: no byte is read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from loaders.errors import CheckpointUnsupportedError
from loaders.format.geometry import (
    FILE_ALIGNMENT,
    MAX_CHUNKS,
    MAX_DISTINCT_SHAPES,
    MAX_PARTITIONS,
    MAX_RANK,
    MAX_TENSORS,
    TENSOR_ALIGNMENT,
    align_up,
    num_chunks,
)
from loaders.format.packing import Packing, Segment, segments
from loaders.format.tensor_index import TensorEntry, TensorIndex
from loaders.writer.layers import Group, group_of, split_evenly
from loaders.writer.sources import SourceTensor

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedStorage:
    """A storage of the source and its place in a partition."""

    #: Its number in the source.
    storage: int
    offset: int
    num_bytes: int
    packing: Packing | None = None
    #: Of a packed one.
    segments: tuple[Segment, ...] = ()

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.offset + self.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLayout:
    """What lies in one file, by offset."""

    num_bytes: int
    storages: tuple[PlacedStorage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a checkpoint will look like, but for its bytes."""

    index: TensorIndex
    partitions: tuple[PartitionLayout, ...]
    #: Bytes of all storages, unpacked, by the type of the first tensor in each.
    dtypes: Mapping[str, int]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Size of each partition."""
        return tuple(partition.num_bytes for partition in self.partitions)


def plan_layout(
    tensors: Sequence[SourceTensor],
    storage_bytes: Sequence[int],
    *,
    num_partitions: int = 1,
    packings: Mapping[int, Packing] | None = None,
    together: Sequence[Sequence[str]] = (),
) -> Layout:
    """Give every storage its place, in the order of the model's layers; the order of `tensors` means nothing.

    `packings` tells which storages are to be packed, `together` which tensors of a layer are to lie side by side in
    their order. Raises CheckpointUnsupportedError for what the format cannot hold.
    """
    _check_limits(tensors, num_partitions)
    places = {name: (names[0], number) for names in together for number, name in enumerate(names)}
    ordered = sorted(
        tensors, key=lambda tensor: (group_of(tensor.name), places.get(tensor.name, (tensor.name, 0)), tensor.name)
    )
    sharing: dict[int, list[SourceTensor]] = defaultdict(list)
    for tensor in ordered:
        sharing[tensor.storage].append(tensor)
    groups = {number: group_of(views[0].name) for number, views in sharing.items()}
    ranks = _ranks(groups, storage_bytes, num_partitions)
    partitions = []
    entries: dict[str, TensorEntry] = {}
    aliases: dict[str, str] = {}
    dtypes: Counter[str] = Counter()
    for rank in range(num_partitions):
        placed = _place([number for number in sharing if ranks[number] == rank], storage_bytes, packings or {})
        partitions.append(placed)
        for place in placed.storages:
            dtypes[_add_views(sharing[place.storage], rank, place, entries, aliases)] += storage_bytes[place.storage]
    if sum(num_chunks(partition.num_bytes) for partition in partitions) > MAX_CHUNKS:
        raise CheckpointUnsupportedError(f"more than {MAX_CHUNKS} chunks")
    index = TensorIndex(tensors=entries, aliases=aliases)
    return Layout(index=index, partitions=tuple(partitions), dtypes=dtypes)


def _check_limits(tensors: Sequence[SourceTensor], num_partitions: int) -> None:
    if not 1 <= num_partitions <= MAX_PARTITIONS:
        raise CheckpointUnsupportedError(f"{num_partitions} partitions, expected 1 to {MAX_PARTITIONS}")
    if len(tensors) > MAX_TENSORS:
        raise CheckpointUnsupportedError(f"{len(tensors)} tensors, expected at most {MAX_TENSORS}")
    if len({each for tensor in tensors for each in (tensor.shape, tensor.stride)}) > MAX_DISTINCT_SHAPES:
        raise CheckpointUnsupportedError(f"more than {MAX_DISTINCT_SHAPES} different shapes and strides")
    for tensor in tensors:
        if _NAME.fullmatch(tensor.name) is None:
            raise CheckpointUnsupportedError(
                f"tensor name {tensor.name[:80]!r}, expected 1 to 256 letters, digits, or any of . _ -"
            )
        if len(tensor.shape) > MAX_RANK:
            raise CheckpointUnsupportedError(f"tensor {tensor.name}: rank {len(tensor.shape)}, expected {MAX_RANK}")


def _ranks(groups: Mapping[int, Group], storage_bytes: Sequence[int], num_partitions: int) -> Mapping[int, int]:
    """Choose a gpu rank for each storage."""
    sizes: dict[Group, int] = defaultdict(int)
    for number, group in groups.items():
        sizes[group] += storage_bytes[number]
    runs = dict(zip(sizes, split_evenly(list(sizes.values()), num_partitions), strict=True))
    return {number: runs[group] for number, group in groups.items()}


def _place(numbers: Sequence[int], storage_bytes: Sequence[int], packings: Mapping[int, Packing]) -> PartitionLayout:
    """Lay storages side by side."""
    placed, end = [], 0
    for number in numbers:
        offset = align_up(end, TENSOR_ALIGNMENT)
        place = PlacedStorage(storage=number, offset=offset, num_bytes=storage_bytes[number])
        if (packing := packings.get(number)) is not None:
            pieces = tuple(segments(offset, storage_bytes[number] // 2, packing.num_patches))
            place = replace(place, num_bytes=pieces[-1].end - offset, packing=packing, segments=pieces)
        placed.append(place)
        end = place.end
    return PartitionLayout(num_bytes=align_up(end, FILE_ALIGNMENT), storages=tuple(placed))


def _add_views(
    views: Sequence[SourceTensor],
    rank: int,
    place: PlacedStorage,
    entries: dict[str, TensorEntry],
    aliases: dict[str, str],
) -> str:
    """Add the tensors of one storage to the index; return the type of the first."""
    seen: dict[tuple[object, ...], str] = {}
    own = []
    for view in views:
        same = (view.dtype, view.shape, view.stride, view.storage_offset)
        if same in seen:
            aliases[view.name] = seen[same]
        else:
            seen[same] = view.name
            own.append(view)
    own.sort(key=lambda view: view.name)
    for view in own:
        entries[view.name] = TensorEntry(
            view.name,
            rank,
            place.offset,
            place.num_bytes,
            view.dtype,
            view.shape,
            view.stride,
            view.storage_offset,
            place.packing,
        )
    return own[0].dtype
