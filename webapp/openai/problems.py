"""Errors as answers below `/v1`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flask import Response, json

from webapp.openai.errors import OpenAiError

#: Where these answers are given, in place of problem documents.
PREFIX: Final = "/v1/"
#: Seconds after which a client may try again; the `openai` package waits for no more than 120.
_RETRY_AFTER_S: Final = "1"


def answer(error: OpenAiError) -> Response:
    """Write an error."""
    response = Response(json.dumps(error.body), error.status, mimetype="application/json")
    if error.status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        response.headers["Retry-After"] = _RETRY_AFTER_S
    elif error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.should_retry is not None:
        response.headers["X-Should-Retry"] = "true" if error.should_retry else "false"
    return response
