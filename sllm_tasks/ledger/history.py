"""What has happened over time, for charts: the lives of jobs, and predictions beside what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.ids import first_id
from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.tables import DecisionRow, JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLife:
    """When a job came, ran and ended; None: not yet, or never."""

    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    ended_at: datetime | None
    start_kind: StartKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A start that the router has predicted and that has happened."""

    at: datetime
    predicted_s: float
    actual_s: float


def job_lives(session: Session, *, since: datetime, limit: int) -> list[JobLife]:
    """Read the latest jobs that were accepted since then, newest first."""
    query = select(
        JobRow.created_at, JobRow.started_at, JobRow.first_token_at, JobRow.ended_at, JobRow.assignment
    ).where(JobRow.id >= first_id("job", to_ms(since)))
    return [
        JobLife(
            created_at=created_at,
            started_at=started_at,
            first_token_at=first_token_at,
            ended_at=ended_at,
            start_kind=StartKind(str(assignment["start_kind"])) if assignment else None,
        )
        for created_at, started_at, first_token_at, ended_at, assignment in session.execute(
            query.order_by(JobRow.id.desc()).limit(limit)
        )
    ]


def predictions(session: Session, *, since: datetime, limit: int) -> list[Prediction]:
    """Read the latest predictions since then of which is known what came of them, newest first."""
    query = select(DecisionRow.at, DecisionRow.predicted_s, DecisionRow.actual_s).where(
        DecisionRow.at >= since, DecisionRow.predicted_s.is_not(None), DecisionRow.actual_s.is_not(None)
    )
    return [
        Prediction(at=at, predicted_s=predicted_s, actual_s=actual_s)
        for at, predicted_s, actual_s in session.execute(query.order_by(DecisionRow.at.desc()).limit(limit))
        if predicted_s is not None and actual_s is not None
    ]
