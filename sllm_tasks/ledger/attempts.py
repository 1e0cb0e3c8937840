"""Attempts: which worker tried a job, from when to when, and why it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.states import AttemptExit
from sllm_tasks.ledger.tables import JobAttemptRow
from sllm_tasks.ledger.writes import insert_if_absent, took_place


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
    statement = (
        update(JobAttemptRow)
        .where(
            JobAttemptRow.job_id == job_id,
            JobAttemptRow.attempt == attempt,
            JobAttemptRow.ended_at.is_(None),
        )
        .values(ended_at=at, exit_reason=exit_reason, num_tokens=num_tokens)
    )
    return took_place(session, statement)


def list_attempts(session: Session, job_id: str) -> Sequence[JobAttemptRow]:
    """List a job's attempts, first to last."""
    query = select(JobAttemptRow).filter_by(job_id=job_id).order_by(JobAttemptRow.attempt)
    return session.scalars(query.execution_options(populate_existing=True)).all()
