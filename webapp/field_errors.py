"""What is wrong with a field in words: which one, what it must be, and what kind of thing was found instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from webapp.errors import FieldError, InvalidFieldsError
from webapp.schemas.fields import WORDS_OF_PATTERN

_MAX_FIELD_ERRORS: Final = 16
#: Names of unknown fields are the client's and can be of any length.
_MAX_POINTER: Final = 256

#: What a field must be, by pydantic's name of the error; `{}` is filled from what pydantic knows of the rule.
_EXPECTED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be an object"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("literal_error", "enum"), "must be {expected}"),
    **dict.fromkeys(("string_too_short", "too_short"), "must have at least {min_length} {unit}"),
    **dict.fromkeys(("string_too_long", "too_long"), "must have at most {max_length} {unit}"),
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must be {pattern}",
}
#: Errors that say all there is to say.
_WHOLE: Final[Mapping[str, str]] = {"missing": "is required", "extra_forbidden": "is not known here"}
#: The number that was found may be shown where it is the number that is wrong; no other value ever is.
_ABOUT_NUMBERS: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})


def invalid_fields(error: ValidationError, prefix: str) -> InvalidFieldsError:
    """Name the first fields that are wrong; `prefix` is `/` for a body and `?` for a query string."""
    details = error.errors(include_url=False)[:_MAX_FIELD_ERRORS]
    return InvalidFieldsError(tuple(_field_error(detail, prefix) for detail in details))


def pointer_to(path: tuple[int | str, ...], prefix: str = "/") -> str:
    """Write the place of a field as a JSON pointer."""
    parts = "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return (prefix + parts)[:_MAX_POINTER]


def _field_error(detail: ErrorDetails, prefix: str) -> FieldError:
    return FieldError(pointer=pointer_to(detail["loc"], prefix), detail=_describe(detail), code=detail["type"])


def _describe(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind in _WHOLE:
        return _WHOLE[kind]
    expected = _EXPECTED.get(kind)
    if expected is None:
        return detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    found = _short_number(value) if kind in _ABOUT_NUMBERS or _is_no_number(value) else _kind_of(value)
    return f"{expected.format_map(_words(detail.get('ctx', {}), value))}, found {found}"


def _words(context: Mapping[str, Any], value: object) -> dict[str, object]:
    words = {name: _short_number(bound) for name, bound in context.items()}
    if "pattern" in context:
        words["pattern"] = WORDS_OF_PATTERN.get(context["pattern"], f"text of the form {context['pattern']}")
    length = context.get("min_length", context.get("max_length"))
    unit = "character" if isinstance(value, str) else "item"
    return {**words, "unit": unit if length == 1 else f"{unit}s"}


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return _counted(len(value), "text", "character")
        case Mapping():
            return "an object"
        case list() | tuple():
            return _counted(len(value), "list", "item")
        case _:
            return "something else"


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _counted(length: int, thing: str, unit: str) -> str:
    if length == 0:
        return f"an empty {thing}"
    return f"a {thing} of {length} {unit}" + ("s" if length > 1 else "")


def _short_number(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    # A number can have as many digits as a body has bytes.
    return str(value) if not isinstance(value, int) or abs(value) < 2**64 else "a number of more than 64 bits"
