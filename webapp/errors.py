"""What can be wrong with a request before anything behind the web process is asked."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.errors import ErrorCode, SllmError


class MalformedBodyError(SllmError):
    """The body is not JSON."""

    code = ErrorCode.MALFORMED_BODY


class MediaTypeError(SllmError):
    """The body does not claim to be JSON."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one field; the value itself is never repeated."""

    #: JSON pointer into the body, or `?name` for a part of the query string.
    pointer: str
    detail: str
    code: str


class InvalidFieldsError(SllmError):
    """Fields of the request are missing, unknown or wrong."""

    code = ErrorCode.INVALID_REQUEST

    def __init__(self, errors: tuple[FieldError, ...]) -> None:
        super().__init__("; ".join(f"{error.pointer}: {error.detail}" for error in errors[:3]))
        self.errors = errors


class UnauthorizedError(SllmError):
    """The request carries no API key, or none that is valid."""

    code = ErrorCode.UNAUTHORIZED


class ForbiddenError(SllmError):
    """The API key does not allow this."""

    code = ErrorCode.FORBIDDEN


class GoneError(SllmError):
    """It existed, and its content has been deleted."""

    code = ErrorCode.GONE


class ModelUnknownError(SllmError):
    """No model has that name."""

    code = ErrorCode.MODEL_NOT_FOUND


class ModelDeployingError(SllmError):
    """The model is still being deployed."""

    code = ErrorCode.MODEL_NOT_READY
    retryable = True


class ModelNotServedError(SllmError):
    """The model could not be deployed, or is being deleted."""

    code = ErrorCode.MODEL_NOT_READY


class ContextLengthError(SllmError):
    """Prompt and output together do not fit into the model's context."""

    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED


class ExactnessError(SllmError):
    """The model cannot be decoded at the level that was asked for."""

    code = ErrorCode.INVALID_REQUEST


class PromptError(SllmError):
    """The input cannot be turned into a prompt for this model."""

    code = ErrorCode.INVALID_REQUEST


class TokenizerMissingError(SllmError):
    """The checkpoint came without a tokenizer that can be used, so text cannot be sent to it."""

    code = ErrorCode.TOKENIZER_MISSING


class JobFailedError(SllmError):
    """The job whose result was asked for ended without one."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class RateLimitedError(SllmError):
    """The API key has had what it may have in a minute."""

    code = ErrorCode.RATE_LIMITED
    retryable = True

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyStreamsError(SllmError):
    """Every thread that may wait for a client is taken."""

    code = ErrorCode.UNAVAILABLE
    retryable = True
