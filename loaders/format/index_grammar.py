"""The one spelling of tensor_index.json: each field has its place, so an entry is one match of one pattern.

Parsing 100,000 tensors as general JSON took 1.6 s and Python objects of five times the text; this bounds both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cuda_kernels.packed_layout import CODEBOOK_LENGTH
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import MAX_RANK
from loaders.format.packing import MAX_SEGMENTS
from loaders.format.strict_json import MAX_INTEGER, shown

_NAME = r"[A-Za-z0-9_.\-]{1,256}"
# One digit less than 2^63 has, so that no match can be larger; 10^18 bytes are an exabyte.
_INTEGER = r"0|[1-9][0-9]{0,17}"
_SMALL_INTEGER = r"0|[1-9][0-9]{0,6}"
_POSITIVE = r"[1-9][0-9]{0,17}"
assert MAX_INTEGER >= 10**18  # noqa: S101 - a fact about the constants above


def _list_of(item: str, at_most: int) -> str:
    return rf"(?:(?:{item})(?:,(?:{item})){{0,{at_most - 1}}})?"


@dataclass(frozen=True, slots=True)
class _Field:
    """A piece of an entry: fixed text, the pattern of the value, fixed text."""

    name: str
    before: str
    value: str
    after: str
    #: The value in words.
    expected: str
    is_optional: bool = False

    @property
    def pattern(self) -> str:
        whole = f"{re.escape(self.before)}({self.value}){re.escape(self.after)}"
        return f"(?:{whole})?" if self.is_optional else whole


_INTEGERS = f"up to {MAX_RANK} integers from 0 to 10^18 - 1"
_FIELDS = (
    _Field("name", '"', _NAME, '":{', "1 to 256 letters, digits, or any of . _ -"),
    _Field("partition", '"partition":', _SMALL_INTEGER, ",", "an integer from 0"),
    _Field("offset", '"offset":', _INTEGER, ",", "an integer from 0 to 10^18 - 1"),
    _Field("num_bytes", '"num_bytes":', _INTEGER, ",", "an integer from 0 to 10^18 - 1"),
    _Field("dtype", '"dtype":"', r"[a-z0-9_]{1,24}", '",', "the name of a type"),
    _Field("shape", '"shape":[', _list_of(_INTEGER, MAX_RANK), "]", _INTEGERS),
    _Field("stride", ',"stride":[', _list_of(_INTEGER, MAX_RANK), "]", _INTEGERS, is_optional=True),
    _Field("storage_offset", ',"storage_offset":', _POSITIVE, "", "an integer from 1", is_optional=True),
    _Field(
        "codebook",
        ',"layout":"packed","codebook":[',
        _list_of(_SMALL_INTEGER, CODEBOOK_LENGTH),
        "]",
        f"{CODEBOOK_LENGTH} integers from 0 to 255",
        is_optional=True,
    ),
    _Field(
        "segments",
        ',"segments":[',
        f"[0-9,]{{0,{8 * MAX_SEGMENTS}}}",  # one repetition instead of many groups: `re` keeps each of those
        "]",
        f"up to {MAX_SEGMENTS} integers",
        is_optional=True,
    ),
)
_ENTRY = re.compile("".join(field.pattern for field in _FIELDS) + "}")
_ALIAS = re.compile(f'"({_NAME})":"({_NAME})"')
_BEGIN = '{"tensors":{'
_BETWEEN = '},"aliases":{'
_END = "}}\n"


class IndexText:
    """A place in the text of an index; each call reads what must come next, or raises CheckpointCorruptError."""

    __slots__ = ("_position", "_text", "_where")

    def __init__(self, text: str, *, where: str) -> None:
        self._text = text
        self._where = where
        self._position = 0

    def begin(self) -> None:
        """Read what stands in front of the first tensor."""
        self._expect(_BEGIN)

    def entry(self, *, is_first: bool) -> re.Match[str] | None:
        """Read the next tensor; None behind the last one.

        The groups are name, partition, offset, num_bytes, dtype, shape; then stride, storage_offset, codebook and
        segments, each None when it is left out.
        """
        if not self._goes_on(_BETWEEN, is_first=is_first):
            return None
        match = _ENTRY.match(self._text, self._position)
        if match is None:
            raise self._explain()
        self._position = match.end()
        return match

    def alias(self, *, is_first: bool) -> tuple[str, str] | None:
        """Read the next alias: its name and the tensor it stands for; None behind the last one."""
        if not self._goes_on(_END, is_first=is_first):
            return None
        match = _ALIAS.match(self._text, self._position)
        if match is None:
            raise self._unexpected(self._position, "an alias: two tensor names")
        self._position = match.end()
        return match[1], match[2]

    def end(self) -> None:
        """Refuse anything behind the end."""
        if self._position != len(self._text):
            raise self._unexpected(self._position, "the end")

    def _goes_on(self, end: str, *, is_first: bool) -> bool:
        if self._text.startswith(end, self._position):
            self._position += len(end)
            return False
        if not is_first:
            self._expect(",")
        return True

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._position):
            raise self._unexpected(self._position, repr(text))
        self._position += len(text)

    def _explain(self) -> CheckpointCorruptError:
        """Find the field at which an entry stops being one."""
        position, tensor = self._position, ""
        for field in _FIELDS:
            match = re.compile(field.pattern).match(self._text, position)
            if match is None:
                return self._unexpected(position, f"{tensor}`{field.name}`: {field.before}… with {field.expected}")
            if field.name == "name":
                tensor = f"tensor {match[1]}: "
            position = match.end()
        return self._unexpected(position, f"{tensor}no further field, or one that is missing or out of place before it")

    def _unexpected(self, position: int, expected: str) -> CheckpointCorruptError:
        found = self._text[position : position + 60]
        return CheckpointCorruptError(f"{self._where}: character {position} is {shown(found)}, expected {expected}")
