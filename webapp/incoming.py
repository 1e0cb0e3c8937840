"""Read what a request says: body, query string and the headers that we honour."""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar

from flask import request
from pydantic import ValidationError

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.idempotency import RequestKey
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.repeats import KeyedRequest, NamedRequest
from webapp.body import body_bytes
from webapp.errors import FieldError, InvalidFieldsError, MalformedBodyError, MediaTypeError
from webapp.field_errors import invalid_fields, pointer_to
from webapp.preferences import wanted_wait_s
from webapp.schemas.fields import Body
from webapp.schemas.jobs import PageQuery, Query
from webapp.surrogates import lone_surrogates

_BodyT = TypeVar("_BodyT", bound=Body)
_QueryT = TypeVar("_QueryT", bound=Query)

#: Repeated names that one answer tells of.
_MAX_REPEATED: Final = 16


def check_path() -> None:
    """Look at the path of this request before its view does; raises NotFoundError.

    PostgreSQL refuses to look for a text with U+0000, and nothing has such a name.
    """
    if "\0" in request.path:
        raise NotFoundError("there is nothing at a path with U+0000")


def read_body(schema: type[_BodyT]) -> _BodyT:
    """Check the body against a schema.

    Raises:
        MediaTypeError: It does not claim to be JSON.
        MalformedBodyError: It is not JSON.
        InvalidFieldsError: It is JSON of another form.

    """
    if not request.is_json:
        raise MediaTypeError("the body must be sent as application/json")
    body = body_bytes()
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] != "json_invalid":
            raise invalid_fields(error, "/") from None
        if "hex escape" in first["msg"] and (fields := lone_surrogates(body)):
            raise InvalidFieldsError(fields) from None
        raise MalformedBodyError(f"the body is not JSON: {first['msg']}") from None


def read_query(schema: type[_QueryT]) -> _QueryT:
    """Check the query string against a schema; raises InvalidFieldsError."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise InvalidFieldsError(
            tuple(
                FieldError(pointer=pointer_to((name,), "?"), detail="must be given once", code="repeated")
                for name in repeated[:_MAX_REPEATED]
            )
        )
    try:
        return schema.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise invalid_fields(error, "?") from None


def page_request(query: PageQuery) -> PageRequest:
    """The page that a query asks for."""
    return PageRequest(limit=query.limit, after=query.after, newest_first=query.order == "desc")


def wait_s() -> int:
    """Seconds for which the client is ready to wait for news (`Prefer: wait=n`)."""
    return wanted_wait_s(",".join(request.headers.getlist("Prefer")))


def keyed_request(tenant: str, fingerprint: bytes | None = None) -> KeyedRequest | None:
    """The key under which this request must take effect once, if the client sent one; raises InvalidFieldsError.

    `fingerprint` is the SHA-256 of what makes the request the same one; default: its body.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidFieldsError(
            (FieldError(pointer="Idempotency-Key", detail="must be 1 to 255 printable characters", code="header"),)
        )
    # Nothing that a request can make has a path as long as the column is.
    route = f"{request.method} {request.path}"[:255]
    return KeyedRequest(key=RequestKey(tenant=tenant, route=route, key=key), fingerprint=fingerprint or _fingerprint())


def named_request(tenant: str, client_id: str) -> NamedRequest:
    """Describe this request, which puts a job under an id of the client's."""
    return NamedRequest(tenant=tenant, client_id=client_id, fingerprint=_fingerprint())


def _fingerprint() -> bytes:
    return hashlib.sha256(body_bytes()).digest()
