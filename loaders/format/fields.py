"""Read the members of a JSON object one by one, each with its type and bounds, until none is left."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from loaders.errors import CheckpointCorruptError
from loaders.format.strict_json import MAX_INTEGER, Json, shown


class Fields:
    """The members of an object that have not been read yet.

    Every error names the place and the field, what was found and what was expected.
    """

    __slots__ = ("_members", "_where")

    def __init__(self, value: Json, *, where: str) -> None:
        if not isinstance(value, dict):
            raise CheckpointCorruptError(f"{where}: {shown(value)}, expected an object")
        self._members: dict[str, Json] = dict(value)
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def _take(self, name: str) -> Json:
        if name not in self._members:
            raise CheckpointCorruptError(f"{self._where}: `{name}` is missing")
        return self._members.pop(name)

    def integer(self, name: str, *, maximum: int = MAX_INTEGER) -> int:
        """Read an integer from 0 to `maximum`."""
        value = self._take(name)
        if type(value) is not int or not 0 <= value <= maximum:
            raise self.wrong(name, value, f"an integer from 0 to {maximum}")
        return value

    def text(self, name: str, pattern: re.Pattern[str], expected: str) -> str:
        """Read text that matches a pattern as a whole; `expected` describes the pattern."""
        value = self._take(name)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise self.wrong(name, value, expected)
        return value

    def choice(self, name: str, choices: Collection[str]) -> str:
        """Read one of some words."""
        value = self._take(name)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, value, f"one of {', '.join(choices)}")
        return value

    def integers(self, name: str, *, max_length: int, maximum: int = MAX_INTEGER) -> tuple[int, ...]:
        """Read a list of integers from 0 to `maximum`."""
        values: list[int] = []
        for value in self.array(name, max_length=max_length):
            if type(value) is not int or not 0 <= value <= maximum:
                raise self.wrong(name, value, f"only integers from 0 to {maximum}")
            values.append(value)
        return tuple(values)

    def array(self, name: str, *, max_length: int) -> Sequence[Json]:
        """Read a list of up to `max_length` values."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > max_length:
            found = len(value) if isinstance(value, list) else value
            raise self.wrong(name, found, f"a list of at most {max_length} values")
        return value

    def mapping(self, name: str) -> Mapping[str, Json]:
        """Read an object."""
        value = self._take(name)
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return value

    def end(self) -> None:
        """Refuse what has not been read."""
        for name in self._members:
            raise CheckpointCorruptError(f"{self._where}: unknown field {shown(name)}")

    def wrong(self, name: str, found: object, expected: str) -> CheckpointCorruptError:
        """Make the error for a field that has been read and is not as it must be."""
        return CheckpointCorruptError(f"{self._where}: `{name}` is {shown(found)}, expected {expected}")
