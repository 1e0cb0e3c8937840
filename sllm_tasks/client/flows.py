"""What takes more than one request: trying again, and waiting for an end.

A flow is a generator that yields what to send and is sent what came of it; it does no input or output itself, so that
the blocking and the asynchronous client run the same one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sllm_tasks.client import calls
from sllm_tasks.client.answers import Answer, Lost, delay_s, read_answer, read_error
from sllm_tasks.client.calls import Call
from sllm_tasks.client.errors import (
    JobCanceledError,
    JobFailedError,
    JobTimeoutError,
    OperationFailedError,
    OperationTimeoutError,
    ServerUnavailableError,
)
from sllm_tasks.client.records import JobRecord, JobResult, OperationRecord
from sllm_tasks.jobs import JobStatus

_Result = TypeVar("_Result")

#: Whoever waits for a job bears with a server that is away for so long, a restart for example.
PATIENCE_S: Final = 60.0
#: What an answer may take beyond the time that its caller has.
_GRACE_S: Final = 2.0
#: Between two questions to a server that does not hold its answers back.
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, after a pause."""

    call: Call[Any]
    after_s: float = 0.0
    #: How long to wait for its answer, at most.
    patience_s: float = math.inf


Flow = Generator[Attempt, Answer | Lost, _Result]


def sending(call: Call[_Result], max_retries: int, after_s: float = 0.0, until_s: float = math.inf) -> Flow[_Result]:
    """Send a call until it is answered, for the last time at `until_s`; raises ApiError or ServerUnavailableError."""
    num_failures = 0
    while True:
        left_s = max(0.0, until_s - time.monotonic() - after_s)
        answer = yield Attempt(call, after_s, left_s + _GRACE_S)
        if isinstance(answer, Answer) and not answer.wants_retry:
            return read_answer(call, answer)
        num_failures += 1
        pause_s = delay_s(num_failures, answer.retry_after_s)
        now_s = time.monotonic()
        if num_failures > max_retries or pause_s is None or now_s >= until_s:
            raise read_error(answer)
        after_s = min(pause_s, until_s - now_s)


def waiting_for_job(job_id: str, timeout_s: float | None, max_retries: int) -> Flow[JobResult]:
    """Wait for a job's end.

    Raises:
        JobTimeoutError: It goes on.
        JobFailedError: It ended without a result; JobCanceledError if it was stopped.

    """
    started_s = answered_s = time.monotonic()
    deadline_s = None if timeout_s is None else started_s + timeout_s
    until_s = math.inf if deadline_s is None else deadline_s
    pause_s = 0.0
    while True:
        asked_s = time.monotonic()
        left_s = calls.MAX_WAIT_S if deadline_s is None else deadline_s - asked_s
        try:
            job = yield from sending(calls.get_job(job_id, wait_s=left_s), max_retries, pause_s, until_s)
        except ServerUnavailableError:
            if time.monotonic() - answered_s > PATIENCE_S:
                raise
        else:
            answered_s = time.monotonic()
            if job.status.is_terminal:
                return result_of(job)
        if deadline_s is not None and timeout_s is not None and time.monotonic() >= deadline_s:
            raise JobTimeoutError(job_id, timeout_s)
        # A server whose threads are all taken answers at once.
        pause_s = _POLL_S if time.monotonic() - asked_s < _POLL_S else 0.0


def waiting_for_operation(operation_id: str, timeout_s: float | None, max_retries: int) -> Flow[OperationRecord]:
    """Wait for the end of administrative work; raises OperationFailedError or OperationTimeoutError."""
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    until_s = math.inf if deadline_s is None else deadline_s
    pause_s = 0.0
    while True:
        operation = yield from sending(calls.get_operation(operation_id), max_retries, pause_s, until_s)
        if operation.status == "succeeded":
            return operation
        if operation.has_ended:
            message = operation.error_message or operation.status
            raise OperationFailedError(operation_id, operation.error_code or "internal", message)
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise OperationTimeoutError(f"{operation_id} has not ended in time; it goes on")
        pause_s = _POLL_S


def result_of(job: JobRecord) -> JobResult:
    """The result of a job that has ended; raises JobFailedError or JobCanceledError."""
    if job.status is JobStatus.SUCCEEDED:
        return job.result()
    kind = JobCanceledError if job.status is JobStatus.CANCELED else JobFailedError
    message = job.error_message or f"the job is {job.status}"
    raise kind(job.id, job.error_code or "internal", message, retryable=job.error_retryable, text=job.text or "")
