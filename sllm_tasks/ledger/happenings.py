"""What has happened in the cluster of itself, put together from the rows that tell of it: for people who look back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.ids import first_id
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.states import OperationStatus
from sllm_tasks.ledger.tables import JobAttemptRow, MigrationRow, OperationRow, WebhookRow
from sllm_tasks.ledger.tables.jobs import WORKER_LOST
from sllm_tasks.migration.states import MigrationState


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One of them."""

    at: datetime
    #: worker_lost, operation, migration or webhook.
    kind: str
    #: The id of the job, operation or webhook that it is about.
    subject: str
    text: str
    is_bad: bool


def happenings(session: Session, *, since: datetime, limit: int, only_bad: bool = False) -> list[Happening]:
    """List what has happened since then, newest first; or what went wrong of it, whatever else came after it."""
    found = [
        *_lost_workers(session, since, limit),
        *_operations(session, since, limit, only_bad=only_bad),
        *_migrations(session, since, limit, only_bad=only_bad),
        *_webhooks(session, since),
    ]
    return sorted(found, key=lambda each: each.at, reverse=True)[:limit]


def _lost_workers(session: Session, since: datetime, limit: int) -> Iterator[Happening]:
    query = select(JobAttemptRow).where(JobAttemptRow.job_id >= first_id("job", to_ms(since)), WORKER_LOST)
    for row in session.scalars(query.order_by(JobAttemptRow.job_id.desc()).limit(limit)):
        where = f"{row.node}.{'+'.join(map(str, row.gpus))}"
        text = f"a worker of {where} was lost with attempt {row.attempt}, after {row.num_tokens} tokens"
        yield Happening(
            at=row.ended_at or row.started_at, kind="worker_lost", subject=row.job_id, text=text, is_bad=True
        )


def _operations(session: Session, since: datetime, limit: int, *, only_bad: bool) -> Iterator[Happening]:
    query = select(OperationRow).where(OperationRow.id >= first_id("op", to_ms(since)))
    if only_bad:
        query = query.where(OperationRow.status == OperationStatus.FAILED)
    for row in session.scalars(query.order_by(OperationRow.id.desc()).limit(limit)):
        if row.ended_at is not None:
            why = f": {row.error_message}" if row.error_message else ""
            text = f"{row.kind.replace('_', ' ')} of {row.target} {row.status}{why}"
            is_bad = row.status is OperationStatus.FAILED
            yield Happening(at=row.ended_at, kind="operation", subject=row.id, text=text, is_bad=is_bad)


def _migrations(session: Session, since: datetime, limit: int, *, only_bad: bool) -> Iterator[Happening]:
    query = select(MigrationRow).where(MigrationRow.id >= first_id("migration", to_ms(since)))
    if only_bad:
        query = query.where(MigrationRow.state == MigrationState.FAILED)
    for row in session.scalars(query.order_by(MigrationRow.id.desc()).limit(limit)):
        if row.ended_at is not None:
            why = f": {row.error}" if row.error else ""
            text = f"a move from {row.source_node} to {row.target_node} ({row.reason}) {row.state}{why}"
            is_bad = row.state is MigrationState.FAILED
            yield Happening(at=row.ended_at, kind="migration", subject=row.job_id, text=text, is_bad=is_bad)


def _webhooks(session: Session, since: datetime) -> Iterator[Happening]:
    for row in session.scalars(select(WebhookRow).where(WebhookRow.disabled_at >= since)):
        if row.disabled_at is not None:
            text = f"the webhook of {row.tenant} was disabled: {row.disabled_reason}"
            yield Happening(at=row.disabled_at, kind="webhook", subject=row.id, text=text, is_bad=True)
