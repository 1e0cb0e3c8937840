"""What a load consists of: chunks of files, and tensors in the image that the chunks make up. No I/O here.

The image of a checkpoint is its data files one behind the other, each from the border of a chunk on. Memory holds it as
the files do, so that tensors are views of it at an offset that the index tells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod

from loaders.errors import CheckpointCorruptError, CheckpointUnsupportedError
from loaders.format.dtypes import ITEMSIZE
from loaders.format.files import OpenFile
from loaders.format.geometry import CHUNK_BYTES, align_up
from loaders.format.packing import Packing
from loaders.format.safetensors_header import OpenSafetensors
from loaders.format.tensor_index import contiguous_stride
from loaders.format.validate import OpenCheckpoint
from loaders.reading.readers import PlanFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a file; chunk `i` of a plan lies at byte `i * CHUNK_BYTES` of the image."""

    #: Position of the file in the plan.
    file: int
    #: Bytes from the beginning of the file.
    offset: int
    num_bytes: int
    #: As `cuda_kernels.digest` computes it; None where the format stores none.
    digest: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor: a view of a storage in the image. Strides and the offset in the storage count elements."""

    #: Bytes from the beginning of the image.
    offset: int
    #: Size of the storage as it is stored.
    num_bytes: int
    #: In torch's spelling, without `torch.`.
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int = 0
    packing: Packing | None = None

    @property
    def plain_bytes(self) -> int | None:
        """Size of a contiguous tensor that is all of its storage, unpacked; None for others."""
        num_bytes = prod(self.shape) * ITEMSIZE[self.dtype]
        is_whole = self.packing is not None or num_bytes == self.num_bytes
        return num_bytes if is_whole and self.stride == contiguous_stride(self.shape) else None


def _place_in_image(tensor: StoredTensor) -> int | None:
    return None if tensor.packing is not None else tensor.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Everything to be read for one load. The files stay open for as long as it is carried out."""

    #: Equal for equal content: who loads the same may share it.
    key: str
    files: tuple[PlanFile, ...]
    chunks: tuple[Chunk, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def num_bytes(self) -> int:
        """Bytes to be read."""
        return sum(chunk.num_bytes for chunk in self.chunks)

    @property
    def image_bytes(self) -> int:
        """Size of the image."""
        return len(self.chunks) * CHUNK_BYTES

    def side_by_side(
        self, names: Sequence[str], place: Callable[[StoredTensor], int | None] = _place_in_image
    ) -> tuple[int, int] | None:
        """Where contiguous tensors lie, in this order and with nothing between them, and how many bytes they have.

        None if they do not, or not all of them are here. `place` tells where one is, unless that is in the image.
        """
        tensors = [self.tensors[name] for name in names if name in self.tensors]
        begin = place(tensors[0]) if tensors else None
        if begin is None or len(tensors) < len(names):
            return None
        end = begin
        for tensor in tensors:
            num_bytes = tensor.plain_bytes
            if num_bytes is None or place(tensor) != end or tensor.dtype != tensors[0].dtype:
                return None
            end += num_bytes
        return begin, end - begin

    def tensors_in(self, index: int) -> list[str]:
        """Names of the tensors that a chunk has a part of."""
        begin, end = index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES
        return [
            name
            for name, tensor in self.tensors.items()
            if tensor.offset < end and tensor.offset + tensor.num_bytes > begin
        ]


def plan_checkpoint(opened: OpenCheckpoint) -> LoadPlan:
    """Plan a load of all partitions of a checkpoint in our own format."""
    begins = _begins(opened.partitions)
    digests = [record.chunk_digests for record in opened.manifest.content.partitions]
    tensors = {
        name: StoredTensor(
            offset=begins[entry.partition] + entry.offset,
            num_bytes=entry.num_bytes,
            dtype=entry.dtype,
            shape=entry.shape,
            stride=entry.stride,
            storage_offset=entry.storage_offset,
            packing=entry.packing,
        )
        for name, entry in opened.index.tensors.items()
    }
    tensors |= {alias: tensors[name] for alias, name in opened.index.aliases.items()}
    return LoadPlan(
        key=opened.manifest.digest,
        files=opened.partitions,
        chunks=tuple(_chunks(opened.partitions, digests)),
        tensors=tensors,
    )


def plan_safetensors(shards: Sequence[OpenSafetensors]) -> LoadPlan:
    """Plan a load of ordinary .safetensors files, headers included: they are small, and nothing has to be moved."""
    files = tuple(shard.file for shard in shards)
    begins = _begins(files)
    tensors: dict[str, StoredTensor] = {}
    for begin, shard in zip(begins, shards, strict=True):
        for name, tensor in shard.tensors.items():
            if name in tensors:
                raise CheckpointCorruptError(f"{shard.file.where}: tensor {name} is in another file already")
            if tensor.dtype is None:
                raise CheckpointUnsupportedError(f"{shard.file.where}: tensor {name} has a type that torch lacks")
            tensors[name] = StoredTensor(
                offset=begin + tensor.begin,
                num_bytes=tensor.num_bytes,
                dtype=tensor.dtype,
                shape=tensor.shape,
                stride=contiguous_stride(tensor.shape),
            )
    identities = json.dumps([asdict(file.identity) for file in files])
    return LoadPlan(
        key=hashlib.sha256(identities.encode()).hexdigest(),
        files=files,
        chunks=tuple(_chunks(files, None)),
        tensors=tensors,
    )


def _begins(files: Sequence[OpenFile]) -> list[int]:
    begins, end = [], 0
    for file in files:
        begins.append(end)
        end += align_up(file.num_bytes, CHUNK_BYTES)
    return begins


def _chunks(files: Sequence[OpenFile], digests: Sequence[Sequence[int]] | None) -> Iterator[Chunk]:
    for position, file in enumerate(files):
        for number, offset in enumerate(range(0, file.num_bytes, CHUNK_BYTES)):
            yield Chunk(
                file=position,
                offset=offset,
                num_bytes=min(CHUNK_BYTES, file.num_bytes - offset),
                digest=None if digests is None else digests[position][number],
            )
