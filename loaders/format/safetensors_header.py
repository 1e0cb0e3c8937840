"""Read the header of a .safetensors file as strictly as our own format: by one bounded read, never by mapping it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from loaders.errors import CheckpointCorruptError, CheckpointUnsupportedError
from loaders.format import strict_json
from loaders.format.fields import Fields
from loaders.format.files import OpenFile, open_regular
from loaders.format.geometry import MAX_RANK
from loaders.format.json_cursor import JsonCursor
from loaders.format.strict_json import MAX_INTEGER, Json, shown

#: What the specification allows.
_MAX_SPECIFIED_BYTES = 100_000_000
#: What is read here, so that reading stays below 1 s and 64 MiB. The largest models have some hundreds of tensors in
#: each of their files, and 160 bytes of header for each tensor.
MAX_HEADER_BYTES = 10 << 20
_MAX_FILE_TENSORS = 50_000
#: Bytes of the text in memory per byte of the header, once it has a character that is not ASCII.
_WIDEST_CHARACTER = 4
_MAX_VALUES = 1_000_000
_MAX_ENTRY_CHARACTERS = 4096
_MAX_METADATA = 10_000
_MAX_NAME_CHARACTERS = 512
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class HeaderDtype:
    """A type as the specification names it."""

    #: Bits of an element.
    bits: int
    #: Its name here; None for types that torch does not have.
    dtype: str | None


DTYPES: Mapping[str, HeaderDtype] = {
    "BOOL": HeaderDtype(8, "bool"),
    "U8": HeaderDtype(8, "uint8"),
    "I8": HeaderDtype(8, "int8"),
    "U16": HeaderDtype(16, "uint16"),
    "I16": HeaderDtype(16, "int16"),
    "U32": HeaderDtype(32, "uint32"),
    "I32": HeaderDtype(32, "int32"),
    "U64": HeaderDtype(64, "uint64"),
    "I64": HeaderDtype(64, "int64"),
    "F16": HeaderDtype(16, "float16"),
    "BF16": HeaderDtype(16, "bfloat16"),
    "F32": HeaderDtype(32, "float32"),
    "F64": HeaderDtype(64, "float64"),
    "C64": HeaderDtype(64, "complex64"),
    "F8_E4M3": HeaderDtype(8, "float8_e4m3fn"),
    "F8_E4M3FNUZ": HeaderDtype(8, "float8_e4m3fnuz"),
    "F8_E5M2": HeaderDtype(8, "float8_e5m2"),
    "F8_E5M2FNUZ": HeaderDtype(8, "float8_e5m2fnuz"),
    "F8_E8M0": HeaderDtype(8, "float8_e8m0fnu"),
    # Counted in halves of a byte there, in bytes of two elements by torch.
    "F4": HeaderDtype(4, "float4_e2m1fn_x2"),
    "F6_E2M3": HeaderDtype(6, None),
    "F6_E3M2": HeaderDtype(6, None),
}


@dataclass(frozen=True, slots=True)
class HeaderTensor:
    """A tensor of a .safetensors file; its bytes are contiguous."""

    name: str
    #: In torch's spelling, as in the tensor index; None for types that torch does not have (6-bit floats).
    dtype: str | None
    #: As torch sees it: of 4-bit floats, pairs are counted.
    shape: tuple[int, ...]
    #: Bytes from the beginning of the file.
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Size of its data."""
        return self.end - self.begin


class OpenSafetensors:
    """An open .safetensors file with a checked header; owns the descriptor. Made by `open_safetensors`."""

    def __init__(self, file: OpenFile, *, header_bytes: int, tensors: Mapping[str, HeaderTensor]) -> None:
        self.file = file
        #: Where the tensors' bytes begin: behind the length and the header.
        self.header_bytes = header_bytes
        #: By name, in the order of their bytes.
        self.tensors = tensors
        self._is_open = True

    def check_unchanged(self) -> None:
        """Raise CheckpointCorruptError if the file was written to since it was opened."""
        self.file.check_unchanged()

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._is_open:
            self._is_open = False
            os.close(self.file.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OpenSafetensors {self.file.where} {len(self.tensors)} tensors>"


def open_safetensors(path: Path) -> OpenSafetensors:
    """Open a file and check its header in at most 1 s and 64 MiB, whatever is in it.

    Raises CheckpointMissingError, CheckpointCorruptError, CheckpointUnsupportedError for a header that is too large for
    us, LoaderError for what the system refuses.
    """
    with ExitStack() as resources:
        file = open_regular(path)
        resources.callback(os.close, file.fd)
        length = _header_length(file)
        tensors = _read_header(file, length)
        _check_ranges(tensors, 8 + length, file)
        resources.pop_all()
        return OpenSafetensors(file, header_bytes=8 + length, tensors={tensor.name: tensor for tensor in tensors})


def _header_length(file: OpenFile) -> int:
    if file.num_bytes < 8:
        raise CheckpointCorruptError(f"{file.where}: {file.num_bytes} bytes, expected at least 8")
    length = int.from_bytes(file.read_exactly(8), "little")
    if length > min(_MAX_SPECIFIED_BYTES, file.num_bytes - 8):
        limit = min(_MAX_SPECIFIED_BYTES, file.num_bytes - 8)
        raise CheckpointCorruptError(f"{file.where}: header of {length} bytes, expected at most {limit}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointUnsupportedError(f"{file.where}: header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    return length


def _header_text(file: OpenFile, length: int, where: str) -> str:
    data = file.read_exactly(length, 8)
    if not data.isascii() and len(data) > MAX_HEADER_BYTES // _WIDEST_CHARACTER:
        raise CheckpointUnsupportedError(f"{where}: {len(data)} bytes that are not all ASCII; that is too many")
    return strict_json.decode(data, where=where, max_values=_MAX_VALUES, max_members=_MAX_VALUES)


def _read_header(file: OpenFile, length: int) -> list[HeaderTensor]:
    where = f"{file.where}: header"
    cursor = JsonCursor(_header_text(file, length, where), where=where)
    tensors: dict[str, HeaderTensor] = {}
    has_metadata = False
    for name in cursor.members():
        if name in tensors or (name == _METADATA and has_metadata):
            raise CheckpointCorruptError(f"{where}: {shown(name)} appears twice")
        if name == _METADATA:
            has_metadata = True
            _skip_metadata(cursor, where)
            continue
        if not 1 <= len(name) <= _MAX_NAME_CHARACTERS or not name.isprintable():
            raise CheckpointCorruptError(
                f"{where}: tensor name {shown(name)}, expected 1 to {_MAX_NAME_CHARACTERS} printable characters"
            )
        if len(tensors) >= _MAX_FILE_TENSORS:
            raise CheckpointUnsupportedError(f"{where}: more than {_MAX_FILE_TENSORS} tensors")
        value = cursor.flat_object(max_characters=_MAX_ENTRY_CHARACTERS)
        tensors[name] = _read_tensor(name, value, where, 8 + length)
    cursor.end()
    return sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end))


def _skip_metadata(cursor: JsonCursor, where: str) -> None:
    """Check the free text that nothing here needs."""
    seen: set[str] = set()
    for key in cursor.members():
        if key in seen:
            raise CheckpointCorruptError(f"{where}: {_METADATA}: {shown(key)} appears twice")
        if len(seen) >= _MAX_METADATA:
            raise CheckpointCorruptError(f"{where}: {_METADATA}: more than {_MAX_METADATA} entries")
        seen.add(key)
        cursor.string()


def _read_tensor(name: str, value: Json, where: str, header_bytes: int) -> HeaderTensor:
    fields = Fields(value, where=f"{where}: {shown(name)}")
    kind = DTYPES[fields.choice("dtype", DTYPES)]
    shape = fields.integers("shape", max_length=MAX_RANK)
    offsets = fields.integers("data_offsets", max_length=2)
    fields.end()
    if len(offsets) != 2:
        raise fields.wrong("data_offsets", str(list(offsets)), "two numbers")
    num_bits, largest = kind.bits, kind.bits
    for length in shape:
        num_bits *= length
        largest *= length or 1
    if largest // 8 > MAX_INTEGER:
        raise fields.wrong("shape", str(list(shape)), "fewer than 2^63 bytes")
    begin, end = offsets
    if num_bits % 8 or end - begin != num_bits // 8:
        raise fields.wrong("data_offsets", str(list(offsets)), f"{num_bits / 8:g} bytes")
    if kind.bits == 4:
        shape = _in_pairs(shape, fields)
    return HeaderTensor(name, kind.dtype, shape, header_bytes + begin, header_bytes + end)


def _in_pairs(shape: tuple[int, ...], fields: Fields) -> tuple[int, ...]:
    if not shape or shape[-1] % 2:
        raise fields.wrong("shape", str(list(shape)), "an even last dimension")
    return (*shape[:-1], shape[-1] // 2)


def _check_ranges(tensors: list[HeaderTensor], header_bytes: int, file: OpenFile) -> None:
    expected = header_bytes
    for tensor in tensors:
        if tensor.begin != expected:
            how = "overlaps the one before it" if tensor.begin < expected else "leaves a hole"
            raise CheckpointCorruptError(
                f"{file.where}: tensor {shown(tensor.name)} begins at {tensor.begin}, expected {expected}: it {how}"
            )
        expected = tensor.end
    if expected != file.num_bytes:
        raise CheckpointCorruptError(f"{file.where}: {file.num_bytes} bytes, expected {expected}")
