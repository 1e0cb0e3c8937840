r"""Lone surrogates in JSON: escapes such as `"\ud800"` that are well-formed and yet stand for no text."""

from __future__ import annotations

import json

from webapp.errors import FieldError
from webapp.field_errors import pointer_to

_MAX_FIELD_ERRORS = 16


def lone_surrogates(body: bytes) -> tuple[FieldError, ...]:
    """The first fields that hold one; empty where the body is no JSON for another reason."""
    try:
        waiting: list[tuple[tuple[int | str, ...], object]] = [((), json.loads(body))]
    except (ValueError, RecursionError):
        return ()
    found: list[FieldError] = []
    while waiting and len(found) < _MAX_FIELD_ERRORS:
        path, value = waiting.pop()
        match value:
            case str() if not _is_text(value):
                found.append(_error(path, "must not contain lone surrogates"))
            case list():
                waiting += [((*path, index), item) for index, item in enumerate(value)]
            case dict():
                # A name that is no text cannot be written into a pointer.
                if not all(map(_is_text, value)):
                    found.append(_error(path, "must not have names with lone surrogates"))
                waiting += [((*path, name), item) for name, item in value.items() if _is_text(name)]
    return tuple(sorted(found, key=lambda error: error.pointer))


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _error(path: tuple[int | str, ...], detail: str) -> FieldError:
    return FieldError(pointer=pointer_to(path), detail=detail, code="string_unicode")
