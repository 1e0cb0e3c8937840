"""The error tree of the package: every error that crosses a module boundary is one of these.

Each class carries the `code` that the API, the CLI and the ledger show, so that no layer invents its own.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why something did not work, in the one spelling that users ever see."""

    INVALID_REQUEST = "invalid_request"
    MALFORMED_BODY = "malformed_body"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    GONE = "gone"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_NOT_READY = "model_not_ready"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    CHECKPOINT_CORRUPT = "checkpoint_corrupt"
    CHECKPOINT_MISSING = "checkpoint_missing"
    CHECKPOINT_UNSUPPORTED = "checkpoint_unsupported"
    TOKENIZER_MISSING = "tokenizer_missing"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    WORKER_LOST = "worker_lost"
    MIGRATION_FAILED = "migration_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    POISON = "poison"
    CANCELED_BY_USER = "canceled_by_user"
    QUOTA_EXCEEDED = "quota_exceeded"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    NOT_FOUND = "not_found"
    INTERNAL = "internal"


class SllmError(Exception):
    """Something in sllm-tasks failed."""

    #: What users see; subclasses set it.
    code: ErrorCode = ErrorCode.INTERNAL
    #: Whether the same request may succeed later without a change.
    retryable: bool = False


class ConfigError(SllmError):
    """A setting is missing, unknown or wrong; the message names it and says what was expected."""

    code = ErrorCode.INVALID_REQUEST


class TraceError(ConfigError):
    """A trace of requests holds what no trace can; the message says where."""


class SimulationError(ConfigError):
    """A cluster, a model or a policy to be simulated does not exist or cannot work; the message says which."""


class NotFoundError(SllmError):
    """Nothing has that name or id."""

    code = ErrorCode.NOT_FOUND


class ConflictError(SllmError):
    """The thing exists in a state that forbids this."""

    code = ErrorCode.CONFLICT


class InvalidTransitionError(SllmError):
    """A state change that its transition table does not hold."""


class UnavailableError(SllmError):
    """The broker, the live state or the database did not answer."""

    code = ErrorCode.UNAVAILABLE
    retryable = True


class StaleError(SllmError):
    """A write carried an attempt or epoch that is no longer the current one, and was refused."""


class MessageRejectedError(SllmError):
    """A queue message is unsigned, altered, expired or not of the expected form."""


class ModelUnusableError(SllmError):
    """A checkpoint cannot be deployed or loaded; `code` says in which way."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class MigrationError(SllmError):
    """A running job cannot be moved; the message says why. It has lost nothing."""

    code = ErrorCode.MIGRATION_FAILED


class OutOfMemoryError(SllmError):
    """A gpu has not enough free memory for what it was asked to hold."""

    code = ErrorCode.OUT_OF_MEMORY
