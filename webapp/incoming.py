"""Read what a request says: body, query string and the headers that we honour."""

from __future__ import annotations

import hashlib
import re
from typing import TypeVar

from flask import request
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sllm_tasks.ledger.idempotency import RequestKey
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.repeats import KeyedRequest, NamedRequest
from webapp.body import body_bytes
from webapp.errors import FieldError, InvalidFieldsError, MalformedBodyError, MediaTypeError
from webapp.schemas.fields import Body
from webapp.schemas.jobs import PageQuery, Query

_BodyT = TypeVar("_BodyT", bound=Body)
_QueryT = TypeVar("_QueryT", bound=Query)

#: A client never waits longer than this for one answer, in seconds.
MAX_WAIT_S = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_MAX_FIELD_ERRORS = 16
#: Names of unknown fields are the client's and can be of any length.
_MAX_POINTER = 256


def read_body(schema: type[_BodyT]) -> _BodyT:
    """Check the body against a schema.

    Raises:
        MediaTypeError: It does not claim to be JSON.
        MalformedBodyError: It is not JSON.
        InvalidFieldsError: It is JSON of another form.

    """
    if not request.is_json:
        raise MediaTypeError("the body must be sent as application/json")
    try:
        return schema.model_validate_json(body_bytes())
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise MalformedBodyError(f"the body is not JSON: {details[0]['msg']}") from None
        raise InvalidFieldsError(tuple(_field_error(detail, "/") for detail in details[:_MAX_FIELD_ERRORS])) from None


def read_query(schema: type[_QueryT]) -> _QueryT:
    """Check the query string against a schema; raises InvalidFieldsError."""
    try:
        return schema.model_validate(request.args.to_dict())
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidFieldsError(tuple(_field_error(detail, "?") for detail in details[:_MAX_FIELD_ERRORS])) from None


def page_request(query: PageQuery) -> PageRequest:
    """The page that a query asks for."""
    return PageRequest(limit=query.limit, after=query.after, newest_first=query.order == "desc")


def wait_s() -> int:
    """Seconds for which the client is ready to wait for news (`Prefer: wait=n`), at most MAX_WAIT_S."""
    preference = _WAIT.search(",".join(request.headers.getlist("Prefer")))
    return min(int(preference[1]), MAX_WAIT_S) if preference else 0


def keyed_request(tenant: str) -> KeyedRequest | None:
    """The key under which this request must take effect once, if the client sent one; raises InvalidFieldsError."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidFieldsError(
            (FieldError(pointer="Idempotency-Key", detail="must be 1 to 255 printable characters", code="header"),)
        )
    return KeyedRequest(
        key=RequestKey(tenant=tenant, route=f"{request.method} {request.path}"[:255], key=key), fingerprint=_fingerprint()
    )


def named_request(tenant: str, client_id: str) -> NamedRequest:
    """Describe this request, which puts a job under an id of the client's."""
    return NamedRequest(tenant=tenant, client_id=client_id, fingerprint=_fingerprint())


def _fingerprint() -> bytes:
    return hashlib.sha256(body_bytes()).digest()


def _field_error(detail: ErrorDetails, prefix: str) -> FieldError:
    path = "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in detail["loc"])
    return FieldError(
        pointer=(prefix + path)[:_MAX_POINTER], detail=detail["msg"].removeprefix("Value error, "), code=detail["type"]
    )
