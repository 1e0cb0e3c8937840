"""Identifiers: a kind, an underscore and a ULID (48 bits of milliseconds, 80 random bits, Crockford base 32)."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(kind: str) -> str:
    """Make `<kind>_<ulid>`; ids of one process sort by the millisecond they were made in."""
    return _written(kind, time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10)))


def first_id(kind: str, at_ms: int) -> str:
    """The least id that can have been made in a millisecond since 1970: none of an earlier one is as great."""
    return _written(kind, max(0, at_ms) << 80)


def id_pattern(kind: str) -> str:
    """A regular expression for what `new_id(kind)` makes."""
    return f"{kind}_[0-7][{_ALPHABET}]{{25}}"


def _written(kind: str, value: int) -> str:
    return kind + "_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
