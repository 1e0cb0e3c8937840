"""The error tree of the package: every error that crosses a module boundary is one of these.

Each class carries the `code` that the API, the CLI and the ledger show, so that no layer invents its own.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why something did not work, in the one spelling that users ever see."""

    #: A value is missing, unknown or wrong; `errors` says which and what was expected
    INVALID_REQUEST = "invalid_request"
    #: The body is not JSON, or broke off
    MALFORMED_BODY = "malformed_body"
    #: The body is larger than `max_body_bytes` or, a file, `max_file_bytes`
    BODY_TOO_LARGE = "body_too_large"
    #: The body is of another type than the route takes
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    #: The path exists, for other methods
    METHOD_NOT_ALLOWED = "method_not_allowed"
    #: There is no API key, or it is unknown, expired or revoked
    UNAUTHORIZED = "unauthorized"
    #: The API key lacks the scope that this takes
    FORBIDDEN = "forbidden"
    #: The job's output was deleted, or kept no longer than `result_ttl_s`
    GONE = "gone"
    #: No model has that name
    MODEL_NOT_FOUND = "model_not_found"
    #: The model is being deployed, or its deployment failed
    MODEL_NOT_READY = "model_not_ready"
    #: Prompt and output are longer than the model's context
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    #: The checkpoint's bytes are not those that its digests name, or its files contradict each other
    CHECKPOINT_CORRUPT = "checkpoint_corrupt"
    #: The checkpoint is on no node that lives, or its source is not there
    CHECKPOINT_MISSING = "checkpoint_missing"
    #: The checkpoint needs what is not supported: code of its own, quantisation, recurrent state
    CHECKPOINT_UNSUPPORTED = "checkpoint_unsupported"
    #: The checkpoint has no fast tokenizer, or one that cannot be read
    TOKENIZER_MISSING = "tokenizer_missing"
    #: No gpu can hold what this needs
    OUT_OF_MEMORY = "out_of_memory"
    #: There is no room on the SSD
    DISK_FULL = "disk_full"
    #: The worker died
    WORKER_LOST = "worker_lost"
    #: The job cannot be moved; it goes on where it is
    MIGRATION_FAILED = "migration_failed"
    #: The job's deadline passed
    DEADLINE_EXCEEDED = "deadline_exceeded"
    #: The job has cost too many workers their lives (`max_attempts`)
    POISON = "poison"
    #: Somebody canceled it
    CANCELED_BY_USER = "canceled_by_user"
    #: The tenant has as much of this as it may; come again
    QUOTA_EXCEEDED = "quota_exceeded"
    #: The API key has had what it may have in a minute (`max_requests_per_min`, `max_tokens_per_min`); come again
    RATE_LIMITED = "rate_limited"
    #: Ledger, live state or broker do not answer, or the process has no room; come again
    UNAVAILABLE = "unavailable"
    #: It took longer than it may
    TIMEOUT = "timeout"
    #: The thing exists in a state that forbids this
    CONFLICT = "conflict"
    #: Nothing has that name or id, or it belongs to another tenant
    NOT_FOUND = "not_found"
    #: A bug; the log has it under the request id
    INTERNAL = "internal"


def error_code(written: str) -> ErrorCode:
    """Read a code that a process of another version may have written: one that this one does not know is `internal`."""
    return ErrorCode(written) if written in set(ErrorCode) else ErrorCode.INTERNAL


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
