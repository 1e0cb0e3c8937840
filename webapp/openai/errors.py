"""Errors in OpenAI's words: status, type and code decide which exception the `openai` package raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sllm_tasks.errors import ConflictError, ErrorCode, NotFoundError, SllmError, UnavailableError
from sllm_tasks.repeats import IdempotencyMismatchError
from webapp import errors

_REQUEST: Final = "invalid_request_error"
_SERVER: Final = "server_error"
#: Of the last: every field error that is none of these is `invalid_value`.
_CODE_OF_FIELD: Final[Mapping[str, str]] = {
    "missing": "missing_required_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "string_type": "invalid_type",
    "int_type": "invalid_type",
    "float_type": "invalid_type",
    "bool_type": "invalid_type",
    "list_type": "invalid_type",
    "dict_type": "invalid_type",
    "model_type": "invalid_type",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiError:
    """An error as it is answered, or written into a stream or a batch's file."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    #: The `openai` package tries again by itself after these statuses, unless it is told not to.
    should_retry: bool | None = None

    @property
    def body(self) -> dict[str, object]:
        """The object that its clients look for."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


#: Status, type, code and parameter of each error; the nearest base class counts.
_ANSWERS: Final[Mapping[type[SllmError], tuple[int, str, str, str | None]]] = {
    errors.MalformedBodyError: (400, _REQUEST, "malformed_body", None),
    errors.MediaTypeError: (415, _REQUEST, "unsupported_media_type", None),
    errors.UnauthorizedError: (401, "authentication_error", "invalid_api_key", None),
    errors.ForbiddenError: (403, "permission_error", "insufficient_permissions", None),
    NotFoundError: (404, _REQUEST, "not_found", None),
    errors.GoneError: (404, _REQUEST, "gone", None),
    errors.ModelUnknownError: (404, _REQUEST, "model_not_found", "model"),
    errors.ModelNotServedError: (404, _REQUEST, "model_not_found", "model"),
    errors.ModelDeployingError: (503, _SERVER, "model_not_ready", "model"),
    errors.ExactnessError: (400, _REQUEST, "invalid_value", "exactness"),
    errors.ContextLengthError: (400, _REQUEST, "context_length_exceeded", None),
    errors.PromptError: (400, _REQUEST, "invalid_prompt", None),
    errors.TokenizerMissingError: (400, _REQUEST, "tokenizer_missing", "model"),
    IdempotencyMismatchError: (422, "idempotency_error", "idempotency_key_reused", None),
    ConflictError: (409, _REQUEST, "conflict", None),
    errors.TooManyStreamsError: (503, _SERVER, "overloaded", None),
    UnavailableError: (503, _SERVER, "unavailable", None),
}

#: How a job that ended without an answer is told: status, and whether another try may help.
_ANSWERS_OF_JOBS: Final[Mapping[ErrorCode, tuple[int, bool]]] = {
    ErrorCode.DEADLINE_EXCEEDED: (504, False),
    ErrorCode.CANCELED_BY_USER: (409, False),
    ErrorCode.UNAVAILABLE: (503, True),
    ErrorCode.WORKER_LOST: (503, True),
}


def described(error: SllmError) -> OpenAiError | None:
    """Say what a client is told of an error; None for one that only a bug can raise."""
    if isinstance(error, errors.InvalidFieldsError):
        first = error.errors[0]
        param = first.pointer.strip("/?").replace("/", ".")
        code = _CODE_OF_FIELD.get(first.code, "invalid_value")
        message = "; ".join(f"{one.pointer.strip('/?').replace('/', '.')}: {one.detail}" for one in error.errors)
        return OpenAiError(status=400, message=message, type=_REQUEST, code=code, param=param)
    if isinstance(error, errors.JobFailedError):
        return described_job(error.code, str(error))
    if error.code in {ErrorCode.QUOTA_EXCEEDED, ErrorCode.RATE_LIMITED}:
        return OpenAiError(status=429, message=str(error), type="rate_limit_error", code="rate_limit_exceeded")
    found = next((_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS), None)
    if found is None:
        return None
    status, kind_of_error, code_of_error, param_of_error = found
    return OpenAiError(
        status=status,
        message=str(error),
        type=kind_of_error,
        code=code_of_error,
        param=param_of_error,
        should_retry=False if status == 409 else None,
    )


def described_job(code: ErrorCode, message: str) -> OpenAiError:
    """Say what a client is told of a job that ended without an answer."""
    status, should_retry = _ANSWERS_OF_JOBS.get(code, (500, False))
    return OpenAiError(status=status, message=message, type=_SERVER, code=code, should_retry=should_retry)


def described_status(status: int, message: str) -> OpenAiError:
    """Say what a client is told of an error that has no more than a status: a URL, a method, a size."""
    code = {404: "unknown_url", 405: ErrorCode.METHOD_NOT_ALLOWED, 413: ErrorCode.BODY_TOO_LARGE}.get(status)
    if status >= 500:
        return OpenAiError(status=status, message=message, type=_SERVER, code=code or "internal", should_retry=False)
    return OpenAiError(status=status, message=message, type=_REQUEST, code=code or "invalid_request")
