"""The audit trail: rows are added in the transaction of the change they tell of, and never changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.tables import AuditRow


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who changed what."""

    id: str
    at: datetime
    #: An API key's id, a user's name, or the part of the system.
    actor: str
    tenant: str | None
    #: Resource and verb, such as `model.put`.
    action: str
    target: str
    before: JsonObject | None = None
    after: JsonObject | None = None
    request_id: str | None = None
    note: str | None = None


def add_audit(session: Session, entry: AuditEntry) -> None:
    """Record a change."""
    session.add(AuditRow(**asdict(entry)))


def list_audit(
    session: Session, request: PageRequest, *, target: str | None = None, actor: str | None = None
) -> Page[AuditRow]:
    """List changes, of one target or by one actor only if given."""
    query = select(AuditRow)
    if target is not None:
        query = query.where(AuditRow.target == target)
    if actor is not None:
        query = query.where(AuditRow.actor == actor)
    return read_page(session, query, AuditRow.id, request)
