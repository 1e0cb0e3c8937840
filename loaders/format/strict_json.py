"""JSON that leaves no room: bounded before it is parsed, no duplicate keys, no floats, integers below 2^63."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

from loaders.errors import CheckpointCorruptError

#: A JSON value of the kinds that occur here.
Json: TypeAlias = "str | int | bool | Sequence[Json] | Mapping[str, Json] | None"

MAX_INTEGER = (1 << 63) - 1


def shown(value: object) -> str:
    """Show a value from a file in a message: what it is, and not too much of it."""
    if not isinstance(value, str | int | None):
        return f"a JSON {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def canonical(value: Json) -> bytes:
    """Write a value in the one form that has no blanks; keys stay in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def decode(data: bytes, *, where: str, max_values: int, max_members: int) -> str:
    """Turn bytes into text after checks that bound what parsing it can cost.

    Args:
        data: the file's bytes, already bounded in number.
        where: names the file in errors.
        max_values: how many values of any kind it may hold.
        max_members: how many members all objects may have together; each takes much more memory than a value.

    """
    # Each value but the first of its list or object follows one of these; inside of strings they count as well.
    num_values = data.count(b",") + data.count(b"{") + data.count(b"[")
    if num_values > max_values:
        raise CheckpointCorruptError(f"{where}: about {num_values} JSON values, expected at most {max_values}")
    if (num_members := data.count(b":")) > max_members:
        raise CheckpointCorruptError(f"{where}: about {num_members} members, expected at most {max_members}")
    if not data.startswith(b"{"):
        raise CheckpointCorruptError(f"{where}: begins with {data[:1]!r}, expected {{")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointCorruptError(f"{where}: not UTF-8 at byte {error.start}") from error


def parse(text: str, *, where: str) -> Json:
    """Parse one value that is all of the text."""
    value, end = value_at(text, 0, where=where)
    if end != len(text):
        raise CheckpointCorruptError(f"{where}: character {end} is {text[end]!r}, expected the end")
    return value


def value_at(text: str, position: int, *, where: str) -> tuple[Json, int]:
    """Parse the value that begins at `position`; return it and where it ends."""
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise CheckpointCorruptError(f"{where}: nested too deeply") from error
    except ValueError as error:
        raise CheckpointCorruptError(f"{where}: not the JSON expected here: {error}") from error


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shown(twice)} appears twice")
    return keys


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not an integer")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float)
