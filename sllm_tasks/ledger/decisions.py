"""The router's decisions: what it chose, what else it could have, and how right it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.tables import DecisionRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent, took_place


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


def note_actual_start(session: Session, decision_id: str, actual_s: float) -> bool:
    """Record how long the start took; False if that is known already or the decision is not."""
    change = update(DecisionRow).where(DecisionRow.id == decision_id, DecisionRow.actual_s.is_(None))
    return took_place(session, change.values(actual_s=actual_s))


def list_decisions(session: Session, request: PageRequest, *, job_id: str | None = None) -> Page[DecisionRow]:
    """List decisions, of one job only if given."""
    query = select(DecisionRow).execution_options(populate_existing=True)
    if job_id is not None:
        query = query.where(DecisionRow.job_id == job_id)
    return read_page(session, query, DecisionRow.id, request)


def purge_decisions(session: Session, older_than: datetime) -> int:
    """Forget old decisions; returns how many."""
    statement = delete(DecisionRow).where(DecisionRow.at < older_than).returning(DecisionRow.id)
    return len(session.execute(statement, execution_options=AS_READ).all())
