"""What is written about each line of a batch; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.states import BatchStatus
from sllm_tasks.ledger.tables import BatchRefusalRow, JobRow
from webapp.errors import JobFailedError
from webapp.openai.answers import Envelope
from webapp.openai.batch_lines import Json, parse_line, wanted_of_line
from webapp.openai.choices import choice_of
from webapp.openai.errors import described_job
from webapp.openai.token_texts import TokenTexts

#: Why a line of a batch that ended early has no answer.
_LEFT_OVER: Final[Mapping[BatchStatus, Json]] = {
    BatchStatus.EXPIRED: {
        "code": "batch_expired",
        "message": "the request could not be answered before the completion window was over",
    },
    BatchStatus.CANCELED: {
        "code": "batch_cancelled",
        "message": "the batch was cancelled before the request was answered",
    },
}
_STOPPED: Final = frozenset({JobStatus.CANCELED, JobStatus.EXPIRED})


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneLine:
    """A line of a batch that is being ended, and what became of it."""

    batch_id: str
    #: As which the batch ends.
    status: BatchStatus
    index: int
    content: bytes
    #: In the order of choices; empty where it never came to that.
    jobs: Sequence[JobRow]
    refusal: BatchRefusalRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """One line of the file of answers, or of that of errors."""

    is_answer: bool
    record: Json


def result_of(done: DoneLine, texts_of: Callable[[str], TokenTexts]) -> LineResult:
    """Write a line's answer or error; `texts_of` tells the texts of a checkpoint's tokens."""
    line = parse_line(done.content)
    head: Json = {"id": f"{done.batch_id.replace('batch_', 'batch_req_')}_{done.index}", "custom_id": line.custom_id}
    if done.refusal is not None:
        return _refused(head, done.refusal.status, done.refusal.body, None)
    if done.status in _LEFT_OVER and (not done.jobs or any(job.status in _STOPPED for job in done.jobs)):
        return LineResult(is_answer=False, record={**head, "response": None, "error": _LEFT_OVER[done.status]})
    first = done.jobs[0]
    try:
        choices = [choice_of(job) for job in done.jobs]
    except JobFailedError as error:
        told = described_job(error.code, str(error))
        return _refused(head, told.status, told.body, first.request_id)
    envelope = Envelope(
        endpoint=line.url,
        job_id=first.id,
        model=first.model,
        created_s=int(first.created_at.timestamp()),
        texts=texts_of(first.checkpoint),
        choices_per_prompt=wanted_of_line(line).num_choices,
    )
    response = {"status_code": 200, "request_id": first.request_id, "body": envelope.whole(choices)}
    return LineResult(is_answer=True, record={**head, "response": response, "error": None})


def _refused(head: Json, status: int, body: Json, request_id: str | None) -> LineResult:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return LineResult(is_answer=False, record={**head, "response": response, "error": None})
