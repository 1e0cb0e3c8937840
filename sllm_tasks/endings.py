"""The end of a job that no worker owns: cancelled while it waited, expired, or given up."""

from __future__ import annotations

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import FinishReason, JobError, JobStatus, Outcome, Usage
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.jobs import Ending, end_job, get_job, note_canceling
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.metrics import JOBS, TOKENS, Sample


def completed_event(outcome: Outcome) -> dict[str, object]:
    """Build the data of a job's last event."""
    usage, error = outcome.usage, outcome.error
    return {
        "status": outcome.status,
        "finish_reason": outcome.finish_reason,
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        if usage
        else None,
        "error": {"code": error.code, "message": error.message, "retryable": error.retryable} if error else None,
    }


def samples_of_end(outcome: Outcome) -> list[Sample]:
    """What a job that ends adds to the metrics, whoever ends it."""
    samples = [Sample(JOBS, (outcome.status, outcome.error.code if outcome.error else ""))]
    if outcome.usage is not None:
        samples.append(Sample(TOKENS, ("prompt",), outcome.usage.prompt_tokens))
        samples.append(Sample(TOKENS, ("completion",), outcome.usage.completion_tokens))
    return samples


def recorded_outcome(row: JobRow) -> Outcome:
    """Say how a job ended that has ended, log probabilities left out."""
    error = None
    if row.error_code is not None:
        error = JobError(code=row.error_code, message=row.error_message or "", retryable=bool(row.error_retryable))
    usage = None
    if row.completion_tokens is not None:
        usage = Usage(prompt_tokens=row.prompt_tokens, completion_tokens=row.completion_tokens)
    return Outcome(status=row.status, text=row.output or "", finish_reason=row.finish_reason, usage=usage, error=error)


def end_unowned(
    ledger: Database, live: LiveState, job_id: str, status: JobStatus, error: JobError | None = None
) -> bool:
    """End a job in the ledger with the text it has, then tell its readers; False when it had ended already.

    Raises UnavailableError when the ledger or the live state does not answer; a second call puts that right.
    """
    tokens = live.jobs.tokens(job_id)
    with ledger.transaction() as session:
        row = get_job(session, job_id)
        if row is None:
            return False
        outcome = Outcome(
            status=status,
            text="".join(token.text for token in tokens),
            finish_reason=FinishReason.CANCELED if status is JobStatus.CANCELED else None,
            usage=Usage(prompt_tokens=row.prompt_tokens, completion_tokens=len(tokens)),
            error=error,
            logprobs=tokens if row.params.get("logprobs") is not None else (),
        )
        ended = end_job(session, Ending(job_id=job_id, outcome=outcome, at=from_ms(live.now_ms())))
    if ended:
        live.jobs.end(job_id, status, completed_event(outcome))
        live.metrics.add(samples_of_end(outcome))
    return ended


def cancel_job(ledger: Database, live: LiveState, job_id: str) -> None:
    """Ask the worker that runs a job to stop; a job that nobody runs ends at once. Harmless when repeated.

    Raises UnavailableError; once the ledger has taken the wish, the sweeper sees to the rest.
    """
    with ledger.transaction() as session:
        # First of all, so that no loss of the live state loses the wish.
        note_canceling(session, job_id)
    if live.jobs.cancel(job_id, "user") != "asked":
        error = JobError(code=ErrorCode.CANCELED_BY_USER, message="canceled by its user before it ran")
        end_unowned(ledger, live, job_id, JobStatus.CANCELED, error)
