"""Measured loads, from which loading times are estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sllm_tasks.cluster import Tier
from sllm_tasks.ledger.tables import MeasuredLoadRow
from sllm_tasks.ledger.writes import delete_some, insert_if_absent


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoad:
    """One load that happened."""

    id: str
    checkpoint: str
    node: str
    #: None: a prefetch into DRAM or the SSD.
    gpu: int | None
    #: The slowest tier that was read.
    tier: Tier
    num_bytes: int
    seconds: float
    at: datetime


def add_loads(session: Session, loads: Sequence[MeasuredLoad]) -> None:
    """Record loads; one that is there already stays as it is."""
    for load in loads:
        insert_if_absent(session, MeasuredLoadRow, asdict(load))


def recent_loads(session: Session, *, since: datetime, limit: int = 10_000) -> list[MeasuredLoad]:
    """List the latest loads since then, oldest first."""
    query = select(MeasuredLoadRow).where(MeasuredLoadRow.at >= since)
    rows = session.scalars(query.order_by(MeasuredLoadRow.at.desc(), MeasuredLoadRow.id.desc()).limit(limit)).all()
    return [_record(row) for row in reversed(rows)]


def tier_measurements(session: Session) -> list[MeasuredLoad]:
    """The last time that a tier was read without a gpu, for each node and tier."""
    last = (
        select(MeasuredLoadRow.node, MeasuredLoadRow.tier, func.max(MeasuredLoadRow.at).label("at"))
        .where(MeasuredLoadRow.gpu.is_(None))
        .group_by(MeasuredLoadRow.node, MeasuredLoadRow.tier)
        .subquery()
    )
    query = select(MeasuredLoadRow).join(
        last,
        (MeasuredLoadRow.node == last.c.node)
        & (MeasuredLoadRow.tier == last.c.tier)
        & (MeasuredLoadRow.at == last.c.at),
    )
    return [_record(row) for row in session.scalars(query.where(MeasuredLoadRow.gpu.is_(None)))]


def purge_loads(session: Session, older_than: datetime, limit: int = 500) -> int:
    """Forget up to `limit` old loads; returns how many."""
    return delete_some(session, MeasuredLoadRow, MeasuredLoadRow.at < older_than, limit)


def _record(row: MeasuredLoadRow) -> MeasuredLoad:
    return MeasuredLoad(
        id=row.id,
        checkpoint=row.checkpoint,
        node=row.node,
        gpu=row.gpu,
        tier=row.tier,
        num_bytes=row.num_bytes,
        seconds=row.seconds,
        at=row.at,
    )
