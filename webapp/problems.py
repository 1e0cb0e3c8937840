"""How errors become answers: RFC 9457 problem documents, from one table; below `/v1` those of OpenAI instead."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Final

from flask import Flask, Response, g, json, request
from werkzeug.exceptions import HTTPException

from sllm_tasks.errors import (
    ConfigError,
    ConflictError,
    ErrorCode,
    NotFoundError,
    SllmError,
    UnavailableError,
)
from sllm_tasks.quotas import QuotaExceededError
from sllm_tasks.repeats import IdempotencyMismatchError
from webapp import errors
from webapp.openai import problems as openai_problems
from webapp.openai.errors import described, described_status
from webapp.refusal_log import RefusalLog

logger = logging.getLogger(__name__)

#: The status of each error; the nearest base class counts, whatever is not here is 500.
STATUS_OF_ERROR: Final[Mapping[type[BaseException], HTTPStatus]] = {
    errors.MalformedBodyError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    errors.ModelNotServedError: HTTPStatus.CONFLICT,
    errors.GoneError: HTTPStatus.GONE,
    errors.MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ConfigError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidFieldsError: HTTPStatus.UNPROCESSABLE_ENTITY,
    IdempotencyMismatchError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ModelUnknownError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ContextLengthError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ExactnessError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.PromptError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TokenizerMissingError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.JobFailedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    QuotaExceededError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ModelDeployingError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyStreamsError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}

#: The field of a job that an error is about.
_FIELD_OF_ERROR: Final[Mapping[type[BaseException], str]] = {
    errors.ModelUnknownError: "/model",
    errors.ContextLengthError: "/input",
    errors.PromptError: "/input",
    errors.TokenizerMissingError: "/model",
}

#: What the framework itself answers.
_CODE_OF_STATUS: Final[Mapping[int, ErrorCode]] = {
    400: ErrorCode.INVALID_REQUEST,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.BODY_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}

#: Refusals that may be none a little later.
_WORTH_A_TRY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
#: Seconds after which a client may try again.
_RETRY_AFTER_S: Final = "1"


def init_app(app: Flask) -> None:
    """Answer every error of this application with a problem document."""
    refusals = RefusalLog()
    app.register_error_handler(SllmError, partial(_answer_known, refusals))
    app.teardown_request(lambda _error: refusals.tell_due())
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unknown)


def problem(
    status: HTTPStatus, code: ErrorCode, detail: str, *, field_errors: tuple[errors.FieldError, ...] = ()
) -> Response:
    """Make a problem document."""
    document: dict[str, object] = {
        "type": f"urn:sllm:error:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "instance": request.path,
        "code": code,
        "request_id": g.request_id,
    }
    if field_errors:
        document["errors"] = [asdict(error) for error in field_errors]
    response = Response(json.dumps(document), status, mimetype="application/problem+json")
    if status in _WORTH_A_TRY:
        response.headers["Retry-After"] = _RETRY_AFTER_S
    elif status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def status_of(error: SllmError) -> HTTPStatus:
    """The status of an error; 500 for what nobody foresaw here."""
    known = (STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def _answer_known(refusals: RefusalLog, error: SllmError) -> Response:
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return _answer_unknown(error)
    if status in _WORTH_A_TRY:
        refusals.note(error.code, f"{g.request_id} {request.method} {request.path}: {error}")
    if _speaks_openai() and (told := described(error)) is not None:
        response = openai_problems.answer(told)
    else:
        response = problem(status, error.code, str(error), field_errors=_field_errors(error))
    if isinstance(error, errors.RateLimitedError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _field_errors(error: SllmError) -> tuple[errors.FieldError, ...]:
    if isinstance(error, errors.InvalidFieldsError):
        return error.errors
    pointer = _FIELD_OF_ERROR.get(type(error))
    return () if pointer is None else (errors.FieldError(pointer=pointer, detail=str(error), code=error.code),)


def _answer_http(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or 500)
    code = _CODE_OF_STATUS.get(status, ErrorCode.INTERNAL if status >= 500 else ErrorCode.INVALID_REQUEST)
    detail = error.description or status.phrase
    if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        detail = f"the body has more than {request.max_content_length} bytes, the most that is taken here"
    if _speaks_openai():
        what = f"unknown request URL: {request.method} {request.path}" if status is HTTPStatus.NOT_FOUND else detail
        response = openai_problems.answer(described_status(status, what))
    else:
        response = problem(status, code, detail)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _answer_unknown(error: Exception) -> Response:
    # The process edge: whatever was not foreseen is logged whole and told in one word.
    logger.error("%s %s %s failed", g.request_id, request.method, request.path, exc_info=error)
    status, detail = HTTPStatus.INTERNAL_SERVER_ERROR, "the server has failed; its log says why"
    if _speaks_openai():
        return openai_problems.answer(described_status(status, detail))
    return problem(status, ErrorCode.INTERNAL, detail)


def _speaks_openai() -> bool:
    return request.path.startswith(openai_problems.PREFIX)
