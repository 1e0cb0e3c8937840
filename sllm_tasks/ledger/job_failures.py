"""Jobs that failed, counted by why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.tables import IdempotencyKeyRow, JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failed jobs of one model with one error."""

    code: ErrorCode
    model: str
    num_jobs: int
    last_at: datetime
    #: What one of them said.
    message: str


def failure_groups(session: Session, *, since: datetime) -> list[FailureGroup]:
    """Count what failed since then and is still listed, most frequent first."""
    query = (
        select(
            JobRow.error_code,
            JobRow.model,
            func.count().label("num_jobs"),
            func.max(JobRow.ended_at).label("last_at"),
            func.max(JobRow.error_message).label("message"),
        )
        .where(JobRow.status == JobStatus.FAILED, JobRow.ended_at >= since, JobRow.purged_at.is_(None))
        .group_by(JobRow.error_code, JobRow.model)
        .order_by(func.count().desc(), JobRow.error_code, JobRow.model)
    )
    return [
        FailureGroup(
            code=row.error_code,
            model=row.model,
            num_jobs=row.num_jobs,
            last_at=row.last_at,
            message=row.message or "",
        )
        for row in session.execute(query)
    ]


def failed_jobs(
    session: Session, *, code: ErrorCode, model: str, since: datetime, limit: int, retried: str
) -> list[JobRow]:
    """List the jobs of one group, oldest first, without those that are remembered as keys of the route `retried`."""
    is_retried = exists().where(
        IdempotencyKeyRow.tenant == JobRow.tenant,
        IdempotencyKeyRow.route == retried,
        IdempotencyKeyRow.key == JobRow.id,
    )
    query = select(JobRow).where(
        JobRow.status == JobStatus.FAILED,
        JobRow.ended_at >= since,
        JobRow.purged_at.is_(None),
        JobRow.error_code == code,
        JobRow.model == model,
        ~is_retried,
    )
    return list(session.scalars(query.order_by(JobRow.id).limit(limit)))
