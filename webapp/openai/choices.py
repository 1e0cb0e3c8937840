"""A job that has ended as one choice of an answer."""

from __future__ import annotations

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.encoding import decode_tokens
from sllm_tasks.ledger.tables import JobRow
from webapp.errors import JobFailedError
from webapp.openai.answers import Choice


def choice_of(row: JobRow) -> Choice:
    """The answer of a job that has ended; raises JobFailedError if it has none."""
    if row.status is not JobStatus.SUCCEEDED:
        code = row.error_code or ErrorCode.CANCELED_BY_USER
        raise JobFailedError(code, row.error_message or f"the job {row.id} is {row.status}")
    return Choice(
        text=row.output or "",
        finish_reason=row.finish_reason or "stop",
        tokens=None if row.params.get("logprobs") is None else decode_tokens(row.logprobs),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens or 0,
    )
