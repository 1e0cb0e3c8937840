"""Changes that leave an audit row, in the transaction of the change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from flask import g
from sqlalchemy.orm import Session

from sllm_tasks.ids import new_id
from sllm_tasks.ledger.audit import AuditEntry, add_audit
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.database import Database


class Caller(Protocol):
    """Who changes something: an API key, or a user of the admin UI."""

    @property
    def id(self) -> str:
        """What the audit trail calls them."""

    @property
    def tenant(self) -> str:
        """Whom they act for."""


@dataclass(slots=True)
class Change:
    """A change under way."""

    session: Session
    now: datetime
    #: Nothing has changed: an earlier request has done it, and left its audit row.
    is_done: bool = False


@contextmanager
def audited(
    ledger: Database, caller: Caller, action: str, target: str, *, after: JsonObject | None = None
) -> Iterator[Change]:
    """Open a transaction for one change, which is recorded with it."""
    with ledger.transaction() as session:
        change = Change(session, datetime.now(UTC))
        yield change
        if change.is_done:
            return
        add_audit(
            session,
            AuditEntry(
                id=new_id("audit"),
                at=change.now,
                actor=caller.id,
                tenant=caller.tenant,
                action=action,
                target=target,
                after=after,
                request_id=g.request_id,
            ),
        )
