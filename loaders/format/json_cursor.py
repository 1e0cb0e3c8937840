"""Walk through a large JSON object member by member, so that only the text and one member are in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loaders.errors import CheckpointCorruptError
from loaders.format.strict_json import Json, value_at

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonCursor:
    """A place in a JSON text; each call reads what must come next, or raises CheckpointCorruptError."""

    __slots__ = ("_position", "_text", "_where")

    def __init__(self, text: str, *, where: str) -> None:
        self._text = text
        self._where = where
        self._position = 0

    def members(self) -> Iterator[str]:
        """Read an object: yields each key; the caller reads the value before it asks for the next key.

        A key that comes twice is for the caller to notice, who collects them.
        """
        self._expect("{")
        separator = "}" if self._next() == "}" else ","
        while separator == ",":
            key = self.string()
            self._expect(":")
            yield key
            separator = self._next()
            if separator == ",":
                self._position += 1
        self._expect("}")

    def string(self) -> str:
        """Read text."""
        if self._next() != '"':
            raise self._unexpected("text")
        value, self._position = value_at(self._text, self._position, where=self._where)
        return str(value)

    def flat_object(self, *, max_characters: int) -> Json:
        """Read an object without objects inside; one that is longer is refused before it is parsed."""
        if self._next() != "{":
            raise self._unexpected("an object")
        begin = self._position
        end = self._text.find("}", begin, begin + max_characters) + 1
        if not end:
            raise CheckpointCorruptError(
                f"{self._where}: no end of an object within {max_characters} characters from character {begin}"
            )
        value, length = value_at(self._text[begin:end], 0, where=self._where)
        if begin + length != end:
            raise CheckpointCorruptError(f"{self._where}: an object within an object at character {begin}")
        self._position = end
        return value

    def end(self) -> None:
        """Refuse anything but blanks."""
        if self._next():
            raise self._unexpected("the end")

    def _next(self) -> str:
        """Return the next character that is no blank, and go there; nothing at the end of the text."""
        found = self._text[self._position : self._position + 1]
        if found in " \t\r\n":
            match = _SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            found = self._text[self._position : self._position + 1]
        return found

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._unexpected(character)
        self._position += 1

    def _unexpected(self, expected: str) -> CheckpointCorruptError:
        found = self._text[self._position : self._position + 1]
        what = repr(found) if found else "the end"
        return CheckpointCorruptError(f"{self._where}: character {self._position} is {what}, expected {expected}")
