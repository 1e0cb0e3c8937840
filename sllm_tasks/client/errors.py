"""What can go wrong for a user of the client; `code` is always what the server said, if it said anything."""

from __future__ import annotations

from sllm_tasks.errors import ErrorCode, SllmError, error_code


class ClientError(SllmError):
    """A call to the server did not do what was asked."""


class ApiError(ClientError):
    """The server refused a request."""

    def __init__(self, status: int, code: str, detail: str, *, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        #: As the server wrote it; a newer server may know codes that this client does not.
        self.code_text = code
        self.code = error_code(code)
        self.request_id = request_id
        self.retryable = status in {429, 503}


class AuthError(ApiError):
    """The API key is missing, not valid, or does not allow this."""


class NotFoundApiError(ApiError):
    """The server knows nothing of that name or id."""


class UnsendableError(ClientError):
    """A request says something that JSON cannot; nothing was sent."""

    code = ErrorCode.INVALID_REQUEST


class ServerUnavailableError(ClientError):
    """The server did not answer, or said that it cannot now, and trying again did not help."""

    code = ErrorCode.UNAVAILABLE
    retryable = True

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class JobTimeoutError(ClientError):
    """The job has not ended in time; it goes on."""

    code = ErrorCode.TIMEOUT

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(f"{job_id} has not ended within {timeout_s:g} s; it goes on")
        self.job_id = job_id


class JobFailedError(ClientError):
    """The job ended without a result."""

    def __init__(self, job_id: str, code: str, message: str, *, retryable: bool, text: str = "") -> None:
        super().__init__(f"{job_id}: {message} ({code})")
        self.job_id = job_id
        self.code_text = code
        self.code = error_code(code)
        self.retryable = retryable
        #: What it had produced.
        self.text = text


class JobCanceledError(JobFailedError):
    """The job was stopped before its end."""


class OperationTimeoutError(ClientError):
    """The operation has not ended in time; it goes on."""

    code = ErrorCode.TIMEOUT


class OperationFailedError(ClientError):
    """A piece of administrative work failed."""

    def __init__(self, operation_id: str, code: str, message: str) -> None:
        super().__init__(f"{message} ({code}, {operation_id})")
        self.operation_id = operation_id
        self.code = error_code(code)
