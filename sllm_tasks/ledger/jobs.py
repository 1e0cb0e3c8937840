"""Jobs in the ledger: how one is accepted, how its row follows it, and the one way it ends.

Every contended change is one conditional UPDATE that returns whether it took place; whoever loses is told so and
changes nothing. Rows that are returned are snapshots: changing their attributes is not an interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Update, bindparam, case, func, literal, or_, select, update
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError
from sllm_tasks.jobs import JOB_TRANSITIONS, Exactness, JobSpec, JobStatus, Outcome
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.encoding import encode_params, encode_tokens, from_ms
from sllm_tasks.ledger.outbox import EndedJob, add_messages
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent, took_place

#: A constraint makes it mean the same as a status that is not terminal, and the partial indexes are by it.
_NOT_ENDED = JobRow.ended_at.is_(None)
#: Made once: `Session.get` makes it anew for each row, which took a fifth of the time of reading one.
_BY_ID = select(JobRow).where(JobRow.id == bindparam("job_id")).execution_options(populate_existing=True)
_DEFAULTS = {column.key: column.default.arg for column in JobRow.__table__.columns if column.default is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as it is accepted."""

    spec: JobSpec
    #: What the user sent; None, None when only token ids were given.
    prompt: str | None = None
    messages: Sequence[JsonObject] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: JsonObject | None = None
    client_id: str | None = None
    #: SHA-256 of the request body; only with a `client_id`.
    fingerprint: bytes | None = None
    max_attempts: int = 3
    result_ttl_s: int = 24 * 3600
    group_id: str | None = None
    group_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a job ended, with what is known about its way there; None leaves what the row already says."""

    job_id: str
    outcome: Outcome
    at: datetime
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    timings_ms: JsonObject | None = None
    assignment: JsonObject | None = None
    exactness_achieved: Exactness | None = None
    num_migrations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveJob:
    """What the sweeper needs to know of a job that has not ended."""

    job_id: str
    tenant: str
    model: str
    status: JobStatus
    attempt: int
    max_attempts: int
    worker_losses: int
    created_at: datetime
    deadline_at: datetime | None


def insert_job(session: Session, new: NewJob) -> JobRow:
    """Accept a job and return its row.

    Raises:
        ConflictError: Its id, its client id or its place in the group is taken.

    """
    values = _DEFAULTS | _new_values(new)
    if not insert_if_absent(session, JobRow, values):
        raise ConflictError(f"a job with the id {new.client_id or new.spec.job_id} exists already")
    # As it is now in the ledger; reading it again would cost more than writing it did.
    return JobRow(**values)


def _new_values(new: NewJob) -> dict[str, object]:
    spec = new.spec
    return {
        "id": spec.job_id,
        "tenant": spec.tenant,
        "client_id": new.client_id,
        "fingerprint": new.fingerprint,
        "model": spec.model,
        "checkpoint": spec.checkpoint,
        "shape": asdict(spec.shape),
        "status": JobStatus.QUEUED,
        "max_attempts": new.max_attempts,
        "priority": spec.priority,
        "job_class": spec.job_class,
        "group_id": new.group_id,
        "group_index": new.group_index,
        "prompt": new.prompt,
        "messages": new.messages,
        "prompt_ids": spec.prompt_ids,
        "prompt_tokens": len(spec.prompt_ids),
        "params": encode_params(spec.params),
        "user_metadata": dict(new.metadata),
        "webhook": new.webhook,
        "request_id": spec.request_id,
        "traceparent": spec.traceparent,
        "exactness": spec.exactness,
        "created_at": from_ms(spec.created_ms),
        "deadline_at": None if spec.deadline_ms is None else from_ms(spec.deadline_ms),
        "result_ttl_s": new.result_ttl_s,
    }


def get_job(session: Session, job_id: str, tenant: str | None = None) -> JobRow | None:
    """Read a job; None if there is none or, given a tenant, if it is somebody else's."""
    row = session.scalar(_BY_ID, {"job_id": job_id})
    return row if row is not None and tenant in {None, row.tenant} else None


def get_job_by_client_id(session: Session, tenant: str, client_id: str) -> JobRow | None:
    """Read a job by the id that its tenant chose."""
    return session.scalar(select(JobRow).filter_by(tenant=tenant, client_id=client_id))


def end_job(session: Session, ending: Ending) -> bool:
    """End a job unless it has ended; False if it had (or is unknown)."""
    return ending.job_id in end_jobs(session, [ending])


def end_jobs(session: Session, endings: Iterable[Ending]) -> set[str]:
    """End those jobs that have not ended and return their ids; the first ending of a job counts.

    This is the only way in which a job ends, and who called first is all that it decides: whether the caller was
    still entitled to speak for the job is fenced in the live state.
    """
    first = {ending.job_id: ending for ending in reversed(list(endings))}
    # Locked in the order of ids, so that two batches which overlap wait for each other instead of deadlocking.
    still_open = session.execute(
        select(JobRow.id, JobRow.result_ttl_s, JobRow.tenant, JobRow.webhook)
        .where(JobRow.id.in_(first), _NOT_ENDED)
        .order_by(JobRow.id)
        .with_for_update()
    ).all()
    if still_open:
        session.connection().execute(_END, [_end_values(first[row.id], row.result_ttl_s) for row in still_open])
        add_messages(session, [_ended(first[row.id], row.tenant, row.webhook) for row in still_open])
    return {row.id for row in still_open}


def _ended(ending: Ending, tenant: str, webhook: JsonObject | None) -> EndedJob:
    return EndedJob(id=ending.job_id, tenant=tenant, status=ending.outcome.status, webhook=webhook, at=ending.at)


def _build_end() -> Update:
    kept_if_null = ("started_at", "first_token_at", "timings_ms", "assignment", "exactness_achieved")
    set_always = (
        *("status", "ended_at", "expires_at", "output", "finish_reason", "completion_tokens", "logprobs"),
        *("error_code", "error_message", "error_retryable", "num_migrations"),
    )
    columns = JobRow.__table__.c
    values = {name: bindparam(f"new_{name}", type_=columns[name].type) for name in set_always + kept_if_null}
    kept = {name: func.coalesce(values[name], columns[name]) for name in kept_if_null}
    return (
        update(JobRow.__table__)  # type: ignore[arg-type] # typed as FromClause by the ORM, a Table in fact
        .where(columns.id == bindparam("job_id"), _NOT_ENDED)
        .values({**values, **kept, "version": columns.version + 1})
    )


_END = _build_end()


def _end_values(ending: Ending, result_ttl_s: int) -> dict[str, object]:
    outcome, error, usage = ending.outcome, ending.outcome.error, ending.outcome.usage
    return {
        "job_id": ending.job_id,
        "new_status": outcome.status,
        "new_ended_at": ending.at,
        "new_expires_at": ending.at + timedelta(seconds=result_ttl_s),
        "new_output": outcome.text,
        "new_finish_reason": outcome.finish_reason,
        "new_completion_tokens": usage.completion_tokens if usage else None,
        "new_logprobs": encode_tokens(outcome.logprobs),
        "new_error_code": error.code if error else None,
        "new_error_message": error.message if error else None,
        "new_error_retryable": error.retryable if error else None,
        "new_num_migrations": ending.num_migrations,
        "new_started_at": ending.started_at,
        "new_first_token_at": ending.first_token_at,
        "new_timings_ms": ending.timings_ms,
        "new_assignment": ending.assignment,
        "new_exactness_achieved": ending.exactness_achieved,
    }


def note_started(session: Session, job_id: str, *, attempt: int, at: datetime, assignment: JsonObject) -> bool:
    """Record that a worker has claimed the job; False if that attempt is over or the status forbids it."""
    values = {"of_job": job_id, "of_attempt": attempt, "at": at, "where_it_runs": assignment}
    return session.connection().execute(_START, values).rowcount == 1


def _build_start() -> Update:
    columns = JobRow.__table__.c
    sources = [status for status, after in JOB_TRANSITIONS.items() if JobStatus.STARTING in after]
    return (
        update(JobRow.__table__)  # type: ignore[arg-type] # typed as FromClause by the ORM, a Table in fact
        .where(columns.id == bindparam("of_job"), columns.attempt == bindparam("of_attempt"))
        .where(columns.status.in_(sources))
        .values(
            status=JobStatus.STARTING,
            started_at=func.coalesce(columns.started_at, bindparam("at", type_=columns.started_at.type)),
            assignment=bindparam("where_it_runs", type_=columns.assignment.type),
            version=columns.version + 1,
        )
    )


#: Built once: every job passes here, and building the statement costs more than running it.
_START = _build_start()


def note_canceling(session: Session, job_id: str) -> bool:
    """Record that the job's user asked to stop it; False if it has ended or was asked before."""
    may_become = [status for status, after in JOB_TRANSITIONS.items() if JobStatus.CANCELING in after]
    change = _of_job(job_id).where(JobRow.status.in_(may_become))
    return took_place(session, change.values(status=JobStatus.CANCELING))


def _of_job(job_id: str) -> Update:
    return update(JobRow).where(JobRow.id == job_id).values(version=JobRow.version + 1)


def _of_attempt(job_id: str, attempt: int) -> Update:
    return _of_job(job_id).where(JobRow.attempt == attempt)


def bump_attempt(session: Session, job_id: str, seen_attempt: int, *, worker_lost: bool) -> int | None:
    """Begin the next attempt and return its number; None if the job has ended or somebody else began it.

    The job is queued again, unless it is being cancelled. Limits on attempts are the caller's.
    """
    statement = (
        _of_attempt(job_id, seen_attempt)
        .where(_NOT_ENDED)
        .values(
            attempt=JobRow.attempt + 1,
            worker_losses=JobRow.worker_losses + int(worker_lost),
            status=case(
                (JobRow.status == JobStatus.CANCELING, JobRow.status),
                else_=literal(JobStatus.QUEUED, JobRow.status.type),
            ),
        )
        .returning(JobRow.attempt)
    )
    return session.scalar(statement, execution_options=AS_READ)


def active_jobs(
    session: Session, *, older_than: datetime, overdue_at: datetime, limit: int, after_id: str = ""
) -> list[ActiveJob]:
    """List jobs that have not ended, in the order of ids from `after_id` on.

    Of those that were not accepted before `older_than` only the ones whose deadline has passed at `overdue_at`.
    """
    rows = session.execute(
        select(
            JobRow.id.label("job_id"),
            JobRow.tenant,
            JobRow.model,
            JobRow.status,
            JobRow.attempt,
            JobRow.max_attempts,
            JobRow.worker_losses,
            JobRow.created_at,
            JobRow.deadline_at,
        )
        .where(_NOT_ENDED, or_(JobRow.created_at < older_than, JobRow.deadline_at < overdue_at), JobRow.id > after_id)
        .order_by(JobRow.id)
        .limit(limit)
    )
    return [ActiveJob(**row) for row in rows.mappings()]


def count_active(session: Session, tenant: str) -> int:
    """Count a tenant's jobs that have not ended."""
    query = select(func.count()).where(JobRow.tenant == tenant, _NOT_ENDED).select_from(JobRow)
    return session.scalar(query) or 0
