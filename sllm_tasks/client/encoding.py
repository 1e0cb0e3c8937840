"""Bodies of requests as bytes: what JSON cannot say is refused before anything is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sllm_tasks.client.errors import UnsendableError
from sllm_tasks.client.records import Json


def encode_body(body: Json) -> bytes:
    """Write a body as UTF-8; raises UnsendableError, which names the field as a JSON pointer."""
    for pointer, reason in _unsendable(body, ""):
        raise UnsendableError(f"{pointer}: {reason}")
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=dict).encode()


def _unsendable(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    match value:
        case float() if not math.isfinite(value):
            yield pointer, f"must be a finite number, found {value}"
        case str() if not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
            yield pointer, "must be text that can be written as UTF-8, found half of a surrogate pair"
        case str() | int() | float() | bool() | None:
            return
        case Mapping():
            for name, part in value.items():
                yield from _unsendable(name, pointer)
                yield from _unsendable(part, f"{pointer}/{name}")
        case list() | tuple():
            for index, part in enumerate(value):
                yield from _unsendable(part, f"{pointer}/{index}")
        case _:
            yield pointer, f"must be text, a number, a list or an object, found {type(value).__name__}"
