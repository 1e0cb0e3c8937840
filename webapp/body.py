"""The bytes of a request's body: all of them, or a refusal."""

from __future__ import annotations

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge

from webapp.errors import MalformedBodyError


def body_bytes() -> bytes:
    """The whole body, read once.

    Raises:
        RequestEntityTooLarge: It is longer than this server takes; MAX_CONTENT_LENGTH says how long that is.
        MalformedBodyError: It broke off, or its chunks are none.

    """
    try:
        body = request.get_data()
        if request.content_length is None and len(body) == request.max_content_length and _has_more():
            raise RequestEntityTooLarge
    except ParseException as error:
        raise MalformedBodyError("the body was not sent whole: its chunks are not well-formed") from error
    if request.content_length is not None and len(body) < request.content_length:
        raise MalformedBodyError("the body was not sent whole: it is shorter than its Content-Length")
    return body


def _has_more() -> bool:
    # Of a body of unknown length, Werkzeug reads as much as is allowed and does not ask whether that was all.
    return bool(request.environ["wsgi.input"].read(1))
