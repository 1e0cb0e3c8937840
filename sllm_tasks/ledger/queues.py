"""Which queues are paused, and what tenants may have: the live state is told of both by the router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sllm_tasks.ledger.tables import PausedQueueRow, TenantRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent, took_place


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRules:
    """How a tenant is treated when there is not enough for everybody; None: as the server's settings say."""

    weight: float = 1.0
    max_queued_jobs: int | None = None
    max_running_jobs: int | None = None
    #: Of each of its keys.
    max_requests_per_min: int | None = None
    max_tokens_per_min: int | None = None


def pause_queue(session: Session, name: str, *, by: str, now: datetime) -> bool:
    """Hold back the jobs of a model, or of all (`EVERY_MODEL`); False if they are held back already."""
    return insert_if_absent(session, PausedQueueRow, {"name": name, "paused_by": by, "paused_at": now})


def resume_queue(session: Session, name: str) -> bool:
    """Let the jobs of a queue start again; False if it was not paused."""
    return took_place(session, delete(PausedQueueRow).where(PausedQueueRow.name == name))


def paused_queues(session: Session) -> Sequence[PausedQueueRow]:
    """List the paused queues."""
    query = select(PausedQueueRow).order_by(PausedQueueRow.name)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def list_tenants(session: Session) -> Sequence[TenantRow]:
    """List all tenants by name."""
    return session.scalars(select(TenantRow).order_by(TenantRow.id).execution_options(populate_existing=True)).all()


def put_tenant(session: Session, tenant: str, rules: TenantRules, *, now: datetime) -> TenantRow:
    """Say what holds for a tenant, which is recorded if it is new."""
    insert_if_absent(session, TenantRow, {"id": tenant, "created_at": now})
    session.execute(update(TenantRow).where(TenantRow.id == tenant).values(asdict(rules)), execution_options=AS_READ)
    return session.get_one(TenantRow, tenant, populate_existing=True)


def rules_of(session: Session, tenant: str) -> TenantRules:
    """What holds for a tenant; the defaults for one that nobody knows."""
    return tenant_rules(session, tenant).get(tenant, TenantRules())


def tenant_rules(session: Session, tenant: str | None = None) -> dict[str, TenantRules]:
    """What holds for the tenants, or for one of them, for which something else holds than for others."""
    names = [field.name for field in fields(TenantRules)]
    query = select(TenantRow.id, *(getattr(TenantRow, name) for name in names))
    if tenant is not None:
        query = query.where(TenantRow.id == tenant)
    rules = {id_: TenantRules(**dict(zip(names, values, strict=True))) for id_, *values in session.execute(query)}
    return {id_: rule for id_, rule in rules.items() if rule != TenantRules()}
