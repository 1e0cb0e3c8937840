"""Read tensor_index.json strictly: every field, every range, within bounded time and memory."""

from __future__ import annotations

import re

from cuda_kernels.packed_layout import CODEBOOK_LENGTH
from loaders.errors import CheckpointCorruptError
from loaders.format.dtypes import ITEMSIZE
from loaders.format.geometry import MAX_DISTINCT_SHAPES, MAX_PARTITIONS, MAX_TENSORS, TENSOR_INDEX
from loaders.format.index_grammar import IndexText
from loaders.format.packing import Packing
from loaders.format.ranges import StorageRanges
from loaders.format.strict_json import shown
from loaders.format.tensor_index import TensorEntry, TensorIndex, contiguous_stride

#: The types under their own objects, so that 100,000 tensors do not hold as many strings.
_DTYPES = {dtype: dtype for dtype in ITEMSIZE}


class _IndexReader:
    def __init__(self, where: str) -> None:
        self._where = where
        self._tensors: dict[str, TensorEntry] = {}
        self._aliases: dict[str, str] = {}
        self._ranges = StorageRanges(where)
        # Few shapes and strides occur many times: each is read and kept once.
        self._integers: dict[str, tuple[int, ...]] = {"": ()}
        self._strides: dict[tuple[int, ...], tuple[int, ...]] = {}

    def read(self, text: IndexText) -> tuple[TensorIndex, StorageRanges]:
        text.begin()
        while (found := text.entry(is_first=not self._tensors)) is not None:
            entry = self._entry(found)
            self._check_name(entry.name)
            self._ranges.add(entry)
            self._tensors[entry.name] = entry
        while (alias := text.alias(is_first=not self._aliases)) is not None:
            self._check_alias(*alias)
            self._aliases[alias[0]] = alias[1]
        text.end()
        return TensorIndex(tensors=self._tensors, aliases=self._aliases), self._ranges

    def _entry(self, match: re.Match[str]) -> TensorEntry:
        name, partition, offset, num_bytes, dtype, shape_text, stride_text, storage_offset, *packing = match.groups()
        if dtype not in _DTYPES:
            raise self._wrong(name, "dtype", dtype, f"one of {', '.join(ITEMSIZE)}")
        if int(partition) >= MAX_PARTITIONS:
            raise self._wrong(name, "partition", partition, f"less than {MAX_PARTITIONS}")
        shape = self._read_integers(shape_text)
        stride = self._strides.get(shape)
        if stride is None:
            stride = self._strides[shape] = contiguous_stride(shape)
        if stride_text is not None:
            stride = self._other_stride(name, stride_text, stride)
        return TensorEntry(
            name,
            int(partition),
            int(offset),
            int(num_bytes),
            _DTYPES[dtype],
            shape,
            stride,
            int(storage_offset or 0),
            self._packing(name, *packing),
        )

    def _other_stride(self, name: str, text: str, contiguous: tuple[int, ...]) -> tuple[int, ...]:
        stride = self._read_integers(text)
        if len(stride) != len(contiguous):
            raise self._wrong(name, "stride", f"[{text}]", f"{len(contiguous)} numbers as in `shape`")
        if stride == contiguous:
            raise self._wrong(name, "stride", f"[{text}]", "to be left out")
        return stride

    def _packing(self, name: str, codebook_text: str | None, segments_text: str | None) -> Packing | None:
        if codebook_text is None and segments_text is None:
            return None
        if codebook_text is None or segments_text is None:
            raise self._wrong(name, "layout", "incomplete", "`codebook` and `segments`")
        codebook = self._read_integers(codebook_text)
        if len(codebook) != CODEBOOK_LENGTH or list(codebook) != sorted(set(codebook)) or codebook[-1] > 255:
            raise self._wrong(
                name, "codebook", f"[{codebook_text}]", f"{CODEBOOK_LENGTH} numbers below 256, each above the last"
            )
        try:
            num_patches = tuple(map(int, segments_text.split(",")))
        except ValueError:
            num_patches = ()
        if ",".join(map(str, num_patches)) != segments_text:
            raise self._wrong(name, "segments", f"[{segments_text}]", "numbers without leading zeros")
        return Packing(codebook, num_patches)

    def _read_integers(self, text: str) -> tuple[int, ...]:
        integers = self._integers.get(text)
        if integers is None:
            if len(self._integers) > MAX_DISTINCT_SHAPES:
                raise CheckpointCorruptError(
                    f"{self._where}: more than {MAX_DISTINCT_SHAPES} different shapes and strides"
                )
            integers = self._integers[text] = tuple(map(int, text.split(",")))
        return integers

    def _check_name(self, name: str) -> None:
        if name in self._tensors or name in self._aliases:
            raise CheckpointCorruptError(f"{self._where}: {name} appears twice")
        if len(self._tensors) + len(self._aliases) >= MAX_TENSORS:
            raise CheckpointCorruptError(f"{self._where}: more than {MAX_TENSORS} tensors")

    def _check_alias(self, name: str, target: str) -> None:
        self._check_name(name)
        if target not in self._tensors:
            raise CheckpointCorruptError(f"{self._where}: alias {name} of {target}, which is no tensor")
        if self._aliases and name < next(reversed(self._aliases)):
            raise CheckpointCorruptError(f"{self._where}: alias {name} is out of order")

    def _wrong(self, name: str, field: str, found: str, expected: str) -> CheckpointCorruptError:
        return CheckpointCorruptError(f"{self._where}: tensor {name}: `{field}` is {shown(found)}, expected {expected}")


def decode_tensor_index(data: bytes, *, where: str = TENSOR_INDEX) -> str:
    """Turn the file's bytes, whose number and digest have been checked, into text that is safe to parse."""
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise CheckpointCorruptError(f"{where}: not ASCII at byte {error.start}") from error


def read_tensor_index(text: str, *, where: str = TENSOR_INDEX) -> tuple[TensorIndex, StorageRanges]:
    """Read the file; raises CheckpointCorruptError. Also returns how far the tensors reach in each partition."""
    return _IndexReader(where).read(IndexText(text, where=where))
