"""How long jobs have waited for their first token of late."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.tables import JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTime:
    """One job's start."""

    kind: StartKind
    #: From its acceptance to its first token.
    seconds: float


def recent_starts(session: Session, *, limit: int) -> list[StartTime]:
    """Read the starts of the last jobs that had a first token, newest first."""
    query = select(JobRow.created_at, JobRow.first_token_at, JobRow.assignment).where(
        JobRow.first_token_at.is_not(None), JobRow.assignment.is_not(None)
    )
    return [
        StartTime(kind=StartKind(str(assignment["start_kind"])), seconds=(first_at - created_at).total_seconds())
        for created_at, first_at, assignment in session.execute(query.order_by(JobRow.id.desc()).limit(limit))
        if first_at is not None and assignment is not None and assignment.get("start_kind")
    ]
