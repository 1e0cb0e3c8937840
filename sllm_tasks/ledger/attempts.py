"""Attempts: which worker tried a job, from when to when, and why it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Update, bindparam, select, update
from sqlalchemy.orm import Session

from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.states import AttemptExit
from sllm_tasks.ledger.tables import JobAttemptRow
from sllm_tasks.ledger.writes import insert_if_absent


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAttempt:
    """An attempt as a worker claims it."""

    job_id: str
    attempt: int
    node: str
    #: Indexes on the node, leader first.
    gpus: tuple[int, ...]
    worker_id: str
    replica_id: str
    start_kind: StartKind
    started_at: datetime


def start_attempt(session: Session, new: NewAttempt) -> bool:
    """Record an attempt; False if it is recorded already."""
    return insert_if_absent(session, JobAttemptRow, asdict(new))


def end_attempt(
    session: Session, job_id: str, attempt: int, *, at: datetime, exit_reason: AttemptExit, num_tokens: int
) -> bool:
    """Record why an attempt is over; False if that is known already or the attempt is not."""
    values = {
        "of_job": job_id,
        "of_attempt": attempt,
        "new_ended_at": at,
        "new_exit_reason": exit_reason,
        "new_num_tokens": num_tokens,
    }
    return session.connection().execute(_END, values).rowcount == 1


def _build_end() -> Update:
    columns = JobAttemptRow.__table__.c
    names = ("ended_at", "exit_reason", "num_tokens")
    return (
        update(JobAttemptRow.__table__)  # type: ignore[arg-type] # typed as FromClause by the ORM, a Table in fact
        .where(columns.job_id == bindparam("of_job"), columns.attempt == bindparam("of_attempt"))
        .where(columns.ended_at.is_(None))
        .values({name: bindparam(f"new_{name}", type_=columns[name].type) for name in names})
    )


#: Built once: every job passes here, and building the statement costs more than running it.
_END = _build_end()


def list_attempts(session: Session, job_id: str) -> Sequence[JobAttemptRow]:
    """List a job's attempts, first to last."""
    query = select(JobAttemptRow).filter_by(job_id=job_id).order_by(JobAttemptRow.attempt)
    return session.scalars(query.execution_options(populate_existing=True)).all()
