"""The rule of ranges: storages lie side by side, each at the next multiple of 256; nothing overlaps, nothing hides."""

from __future__ import annotations

from collections import Counter
from math import prod

from loaders.errors import CheckpointCorruptError
from loaders.format.dtypes import ITEMSIZE
from loaders.format.geometry import FILE_ALIGNMENT, TENSOR_ALIGNMENT, align_up
from loaders.format.packing import (
    MAX_SEGMENTS,
    MAX_TOTAL_SEGMENTS,
    SEGMENT_ELEMENTS,
    Packing,
    end_of_segments,
    num_segments,
)
from loaders.format.strict_json import MAX_INTEGER
from loaders.format.tensor_index import TensorEntry, contiguous_stride

#: Products of dimensions and element sizes stay below 2^63 everywhere.
_MAX_ELEMENTS = MAX_INTEGER // max(ITEMSIZE.values())


class StorageRanges:
    """Checks tensors in the order of the index and remembers how far each partition is filled."""

    __slots__ = ("_ends", "_last", "_num_segments", "_reaches", "_where", "dtypes")

    def __init__(self, where: str) -> None:
        self._where = where
        self._last: TensorEntry | None = None
        # Of each partition up to the last one with a tensor: the first byte behind its storages.
        self._ends: list[int] = []
        self._num_segments = 0
        # Few kinds of views occur many times.
        self._reaches: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        #: Bytes of all storages, unpacked, by the type of the first tensor in each.
        self.dtypes: Counter[str] = Counter()

    def add(self, entry: TensorEntry) -> None:
        """Check one tensor against the ones before it; raises CheckpointCorruptError."""
        self._check_view(entry)
        last = self._last
        if last is not None and _same_storage(last, entry):
            self._check_shared(entry, last)
        else:
            self._check_place(entry)
            self._ends[entry.partition] = entry.offset + entry.num_bytes
            self.dtypes[entry.dtype] += entry.storage_bytes
        self._last = entry

    def partition_bytes(self, rank: int) -> int:
        """Size that a partition's file must have."""
        return align_up(self._ends[rank], FILE_ALIGNMENT) if rank < len(self._ends) else 0

    @property
    def num_partitions(self) -> int:
        """How many partitions the tensors need at least."""
        return len(self._ends)

    def _check_shared(self, entry: TensorEntry, last: TensorEntry) -> None:
        if entry.name <= last.name:
            raise self._wrong(entry, f"is behind {last.name}, expected tensors of a storage to be sorted by name")
        if entry.packing is not None or last.packing is not None:
            raise self._wrong(entry, f"shares its bytes with {last.name}, expected packed bytes to be its own")

    def _check_place(self, entry: TensorEntry) -> None:
        if entry.partition >= len(self._ends):
            self._ends += [0] * (entry.partition + 1 - len(self._ends))
        elif entry.partition != len(self._ends) - 1:
            raise self._wrong(entry, f"of partition {entry.partition} is behind one of {len(self._ends) - 1}")
        expected = align_up(self._ends[-1], TENSOR_ALIGNMENT)
        if entry.offset != expected:
            how = "overlaps the one before it" if entry.offset < self._ends[-1] else "leaves a hole or is not aligned"
            raise self._wrong(entry, f"begins at {entry.offset}, expected {expected}: it {how}")

    def _check_view(self, entry: TensorEntry) -> None:
        if entry.packing is not None:
            self._check_packed(entry, entry.packing)
            return
        view = (entry.shape, entry.stride)
        reach = self._reaches.get(view)
        if reach is None:
            if prod(length or 1 for length in entry.shape) > _MAX_ELEMENTS:
                raise self._wrong(entry, f"has the shape {entry.shape}, expected at most {_MAX_ELEMENTS} elements")
            reach = self._reaches[view] = _reach(*view)
        end = (entry.storage_offset + reach) * ITEMSIZE[entry.dtype] if reach else 0
        if end > entry.num_bytes:
            raise self._wrong(entry, f"reaches to byte {end} of its storage, expected at most {entry.num_bytes}")

    def _check_packed(self, entry: TensorEntry, packing: Packing) -> None:
        if entry.dtype != "bfloat16" or entry.storage_offset or entry.stride != contiguous_stride(entry.shape):
            raise self._wrong(entry, "is packed, expected that only for contiguous bfloat16")
        expected = num_segments(entry.num_elements)
        self._num_segments += expected
        if len(packing.num_patches) != expected or expected > MAX_SEGMENTS:
            raise self._wrong(entry, f"has {len(packing.num_patches)} segments, expected {expected}")
        if self._num_segments > MAX_TOTAL_SEGMENTS:
            raise self._wrong(entry, f"is behind {MAX_TOTAL_SEGMENTS} segments, expected no more of them")
        if max(packing.num_patches, default=0) > SEGMENT_ELEMENTS:
            raise self._wrong(entry, f"has {max(packing.num_patches)} patches in a segment of fewer elements")
        end = end_of_segments(entry.offset, entry.num_elements, packing.num_patches)
        if entry.num_bytes != end - entry.offset or not entry.num_bytes:
            raise self._wrong(entry, f"takes {entry.num_bytes} bytes, expected {end - entry.offset} in its segments")

    def _wrong(self, entry: TensorEntry, what: str) -> CheckpointCorruptError:
        return CheckpointCorruptError(f"{self._where}: {entry.name} {what}")


def _same_storage(one: TensorEntry, other: TensorEntry) -> bool:
    if not other.num_bytes:
        return False  # empty ones lie side by side at one offset
    return one.offset == other.offset and one.num_bytes == other.num_bytes and one.partition == other.partition


def _reach(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from a view's first to behind its last one; 0 for a view of none."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
