"""Which nodes and gpus operators have drained: the live state is told by control."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sllm_tasks.ledger.tables import DrainRow
from sllm_tasks.ledger.writes import insert_if_absent, took_place


def drain(session: Session, name: str, *, by: str, now: datetime) -> bool:
    """Let a node, or a gpu `<node>.<index>`, take no more work; False if it is drained already."""
    return insert_if_absent(session, DrainRow, {"name": name, "drained_by": by, "drained_at": now})


def undrain(session: Session, names: Collection[str]) -> bool:
    """Let nodes or gpus take work again; False if none of them was drained."""
    return took_place(session, delete(DrainRow).where(DrainRow.name.in_(names)))


def drained(session: Session) -> frozenset[str]:
    """Name all that is drained."""
    return frozenset(session.scalars(select(DrainRow.name)))
