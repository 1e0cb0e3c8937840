"""What the server says, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sllm_tasks.jobs import FinishReason, JobStatus, Usage

#: A JSON object; Any because its fields are read one by one below.
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job has produced."""

    job_id: str
    text: str
    finish_reason: FinishReason
    usage: Usage
    #: Per token, as the server wrote them; empty unless asked for.
    logprobs: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as it was when it was read."""

    id: str
    status: JobStatus
    #: Why it waits, if it does and the server can tell.
    status_reason: str | None
    phase: str | None
    model: str
    attempt: int
    #: Tokens so far and at most.
    num_tokens: int
    max_tokens: int
    #: Text of a job that has ended, partial if it did not succeed.
    text: str | None
    finish_reason: FinishReason | None
    usage: Usage | None
    error_code: str | None
    error_message: str | None
    error_retryable: bool
    created_at: str
    #: Everything the server said.
    raw: Json

    def result(self) -> JobResult:
        """The result of a job that has succeeded; raises ValueError for any other."""
        if self.status is not JobStatus.SUCCEEDED or self.finish_reason is None or self.usage is None:
            raise ValueError(f"{self.id} is {self.status} and has no result")
        return JobResult(
            job_id=self.id,
            text=self.text or "",
            finish_reason=self.finish_reason,
            usage=self.usage,
            logprobs=tuple(self.raw["output"].get("logprobs") or ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One new token of a stream; its text may be empty when a character is not complete."""

    index: int
    text: str
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All text so far; it replaces what the stream has shown before."""

    text: str
    num_tokens: int


StreamItem = Token | Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """A piece of administrative work."""

    id: str
    kind: str
    target: str
    status: str
    error_code: str | None
    error_message: str | None
    raw: Json

    @property
    def has_ended(self) -> bool:
        """Whether nothing can follow."""
        return self.status in {"succeeded", "failed", "canceled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """A part of the list of jobs."""

    jobs: tuple[JobRecord, ...]
    #: Where the next part begins, None after the last.
    next_after: str | None


def decode_job(json: Json) -> JobRecord:
    """Read a job."""
    output, usage, error = json["output"] or {}, json["usage"], json["error"] or {}
    reason = output.get("finish_reason")
    return JobRecord(
        id=json["id"],
        status=JobStatus(json["status"]),
        status_reason=json.get("status_reason"),
        phase=json["phase"],
        model=json["model"],
        attempt=json["attempt"],
        num_tokens=json["progress"]["done"],
        max_tokens=json["progress"]["total"],
        text=output.get("text"),
        finish_reason=None if reason is None else FinishReason(reason),
        usage=None if usage is None else Usage(**usage),
        error_code=error.get("code"),
        error_message=error.get("message"),
        error_retryable=bool(error.get("retryable")),
        created_at=json["created_at"],
        raw=json,
    )


def decode_job_page(json: Json) -> JobPage:
    """Read a page of jobs."""
    jobs = tuple(decode_job(job) for job in json["data"])
    return JobPage(jobs=jobs, next_after=json["last_id"] if json["has_more"] else None)


def decode_operation(json: Json) -> OperationRecord:
    """Read an operation."""
    error = json["error"] or {}
    return OperationRecord(
        id=json["id"],
        kind=json["kind"],
        target=json["target"],
        status=json["status"],
        error_code=error.get("code"),
        error_message=error.get("message"),
        raw=json,
    )


def decode_list(json: Json) -> tuple[Json, ...]:
    """Read a list of objects that the client passes on as they are."""
    return tuple(json["data"])


def decode_token(json: Json) -> Token:
    """Read the data of a token event."""
    return Token(
        index=json["index"],
        text=json["text"],
        token_id=json["id"],
        logprob=json.get("logprob"),
        top=tuple((token_id, logprob) for token_id, logprob in json.get("top", ())),
    )
