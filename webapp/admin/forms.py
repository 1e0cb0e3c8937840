"""HTML forms: the same schemas as the bodies of the API, filled from text."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from flask import request
from pydantic import ValidationError

from sllm_tasks.errors import SllmError
from sllm_tasks.ledger.idempotency import RequestKey
from sllm_tasks.repeats import KeyedRequest
from webapp.errors import InvalidFieldsError
from webapp.field_errors import invalid_fields
from webapp.schemas.fields import Body

_BodyT = TypeVar("_BodyT", bound=Body)

#: Fields of the form itself.
_OURS: Final = frozenset({"csrf_token", "once"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form as it is shown: empty, or as it was sent with what is wrong with it."""

    values: Mapping[str, str] = field(default_factory=dict)
    #: Whatever was chosen or ticked, None in a form that was not sent.
    chosen: AbstractSet[tuple[str, str]] | None = None
    errors: tuple[str, ...] = ()
    #: By this a form that is sent twice, by a double click, takes effect once.
    once: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @classmethod
    def refused(cls, error: SllmError) -> Form:
        """Show the form that was sent again, and why it was refused."""
        errors: tuple[str, ...] = (str(error),)
        if isinstance(error, InvalidFieldsError):
            errors = tuple(f"{each.pointer.strip('/').split('/')[-1]} {each.detail}" for each in error.errors)
        return cls(values=request.form.to_dict(), chosen=frozenset(request.form.items(multi=True)), errors=errors)

    def has(self, name: str, value: str, *, default: bool = False) -> bool:
        """Whether a choice is to be shown as made; `default` says so of a form that was not sent."""
        return default if self.chosen is None else (name, value) in self.chosen


def given_fields() -> dict[str, Any]:
    """What was filled in; an empty field is one that was left out."""
    return {name: value for name, value in request.form.items() if name not in _OURS and value.strip()}


def read_form(schema: type[_BodyT], values: Mapping[str, Any]) -> _BodyT:
    """Check what a form says; raises InvalidFieldsError."""
    try:
        return schema.model_validate(values, strict=False)
    except ValidationError as error:
        raise invalid_fields(error, "/") from None


def form_request(tenant: str) -> KeyedRequest | None:
    """The key under which a form takes effect once."""
    once = request.form.get("once", "")[:64]
    if not once.isascii() or not once:
        return None
    route = f"{request.method} {request.path}"[:255]
    sent = "\0".join(f"{name}={value}" for name, value in sorted(request.form.items(multi=True)))
    fingerprint = hashlib.sha256(sent.encode("utf-8", "surrogatepass")).digest()
    return KeyedRequest(key=RequestKey(tenant=tenant, route=route, key=once), fingerprint=fingerprint)
