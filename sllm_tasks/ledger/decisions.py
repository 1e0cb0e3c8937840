"""The router's decisions: what it chose, what else it could have, and how right it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.tables import DecisionRow, JobRow
from sllm_tasks.ledger.writes import delete_some, insert_if_absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One assignment and its reasons."""

    id: str
    job_id: str
    attempt: int
    at: datetime
    #: warm, load_dram, load_ssd, load_remote, migrate or wait.
    path: str
    choice: JsonObject
    #: The best ones, best first; the caller bounds how many.
    candidates: Sequence[JsonObject]
    predicted_s: float | None


def add_decisions(session: Session, decisions: Sequence[Decision]) -> None:
    """Record decisions about jobs of the ledger; one that is there already stays as it is."""
    for decision in decisions:
        insert_if_absent(session, DecisionRow, {**asdict(decision), "candidates": list(decision.candidates)})


def note_actual_starts(session: Session, job_id: str, attempt: int, first_token_at: datetime) -> int:
    """Record for all decisions about an attempt how long it took until its first token; returns how many are new.

    One to wait is followed by others, and its forecast is compared as well.
    """
    query = select(DecisionRow).where(
        DecisionRow.job_id == job_id, DecisionRow.attempt == attempt, DecisionRow.actual_s.is_(None)
    )
    rows = session.scalars(query).all()
    for row in rows:
        row.actual_s = max(0.0, (first_token_at - row.at).total_seconds())
    return len(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How right predictions were."""

    num_decisions: int
    #: Share of the starts that fell inside of their intervals; 0.8 is what they promise.
    inside: float
    #: Of the differences between actual and predicted start.
    median_error_s: float
    p99_error_s: float


def accuracy(session: Session, *, model: str | None = None, limit: int = 1_000) -> Accuracy | None:
    """Compare the latest predictions, of one model only if given; None while there is nothing to compare."""
    query = select(DecisionRow.choice, DecisionRow.predicted_s, DecisionRow.actual_s).where(
        DecisionRow.actual_s.is_not(None), DecisionRow.predicted_s.is_not(None)
    )
    if model is not None:
        query = query.join(JobRow, JobRow.id == DecisionRow.job_id).where(JobRow.model == model)
    errors, num_inside = [], 0
    for choice, predicted_s, actual_s in session.execute(query.order_by(DecisionRow.id.desc()).limit(limit)):
        start = choice.get("start")
        if isinstance(start, Mapping) and predicted_s is not None and actual_s is not None:
            errors.append(abs(actual_s - predicted_s))
            num_inside += start["low_s"] <= actual_s <= start["high_s"]
    if not errors:
        return None
    errors.sort()
    return Accuracy(
        num_decisions=len(errors),
        inside=num_inside / len(errors),
        median_error_s=median(errors),
        p99_error_s=errors[min(len(errors) - 1, int(0.99 * len(errors)))],
    )


def list_decisions(
    session: Session, request: PageRequest, *, job_id: str | None = None, model: str | None = None
) -> Page[DecisionRow]:
    """List decisions, of one job or about the jobs of one model only if given."""
    query = select(DecisionRow).execution_options(populate_existing=True)
    if job_id is not None:
        query = query.where(DecisionRow.job_id == job_id)
    if model is not None:
        query = query.join(JobRow, JobRow.id == DecisionRow.job_id).where(JobRow.model == model)
    return read_page(session, query, DecisionRow.id, request)


def purge_decisions(session: Session, older_than: datetime, limit: int = 500) -> int:
    """Forget up to `limit` old decisions; returns how many."""
    return delete_some(session, DecisionRow, DecisionRow.at < older_than, limit)
