"""Kinds of field that several bodies share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


class Body(BaseModel):
    """A request body: unknown fields are refused, nothing is converted, no number is NaN or infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def _printable(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain U+0000")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain lone surrogates")
    return value


#: Any text; its length is bounded by the size of the body.
Text = Annotated[str, AfterValidator(_printable)]
ShortText = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
#: Names of models: they appear in URLs and in keys of the live state.
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
