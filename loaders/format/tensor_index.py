"""tensor_index.json: where each tensor lies and how it is to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from loaders.format import strict_json
from loaders.format.dtypes import ITEMSIZE
from loaders.format.packing import Packing


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor: a view of a storage. Tensors that share one have the same partition, offset and size."""

    name: str
    partition: int
    #: Bytes from the beginning of the partition.
    offset: int
    #: Size of the whole storage as it is stored.
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    #: In elements, as is the offset in the storage.
    stride: tuple[int, ...]
    storage_offset: int = 0
    #: None for raw bytes.
    packing: Packing | None = None

    @property
    def num_elements(self) -> int:
        """Number of elements of the view."""
        return prod(self.shape)

    @property
    def storage_bytes(self) -> int:
        """Size of the storage on a device."""
        return self.num_bytes if self.packing is None else self.num_elements * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorIndex:
    """All tensors of a checkpoint."""

    #: By name, in the order of partition, offset, size and name.
    tensors: Mapping[str, TensorEntry]
    #: Names of tied tensors: each is the same tensor as the one it stands beside.
    aliases: Mapping[str, str]

    def encode(self) -> bytes:
        """Write the file; a field that says what goes without saying is left out."""
        tensors = {name: _entry_fields(entry) for name, entry in self.tensors.items()}
        aliases = {name: self.aliases[name] for name in sorted(self.aliases)}
        return strict_json.canonical({"tensors": tensors, "aliases": aliases}) + b"\n"


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the stride (in elements) that torch gives to a new tensor."""
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= length or 1
    return tuple(reversed(stride))


def _entry_fields(entry: TensorEntry) -> dict[str, strict_json.Json]:
    fields: dict[str, strict_json.Json] = {
        "partition": entry.partition,
        "offset": entry.offset,
        "num_bytes": entry.num_bytes,
        "dtype": entry.dtype,
        "shape": entry.shape,
    }
    if entry.stride != contiguous_stride(entry.shape):
        fields["stride"] = entry.stride
    if entry.storage_offset:
        fields["storage_offset"] = entry.storage_offset
    if entry.packing is not None:
        fields["layout"] = "packed"
        fields["codebook"] = entry.packing.codebook
        fields["segments"] = entry.packing.num_patches
    return fields
