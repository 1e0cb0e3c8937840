"""Placements: the tier a checkpoint should have on a node, and the one it has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sllm_tasks.cluster import Tier
from sllm_tasks.ledger.tables import JobRow, ModelRow, PlacementRow
from sllm_tasks.ledger.writes import insert_if_absent, took_place


def want_placement(
    session: Session, checkpoint: str, node: str, *, tier: Tier | None, pinned: bool, now: datetime
) -> None:
    """Say which tier a checkpoint should have on a node; None: it should not be there."""
    _put(session, checkpoint, node, {"desired": tier, "pinned": pinned, "updated_at": now})


def note_placement(session: Session, checkpoint: str, node: str, *, tier: Tier | None, now: datetime) -> None:
    """Record the fastest tier that holds all of a checkpoint on a node, as the node reports it."""
    _put(session, checkpoint, node, {"actual": tier, "actual_at": now, "updated_at": now})


def is_met(row: PlacementRow) -> bool:
    """Whether what is there is what is wanted; a checkpoint in DRAM is on the SSD as well."""
    if row.desired is None or row.actual is None:
        return row.desired is row.actual
    return row.desired is not Tier.DRAM or row.actual is Tier.DRAM


def _put(session: Session, checkpoint: str, node: str, values: dict[str, object]) -> None:
    if insert_if_absent(session, PlacementRow, {"checkpoint": checkpoint, "node": node, **values}):
        return
    took_place(
        session,
        update(PlacementRow)
        .where(PlacementRow.checkpoint == checkpoint, PlacementRow.node == node)
        .values(**values, version=PlacementRow.version + 1),
    )


def list_placements(
    session: Session, *, checkpoint: str | None = None, node: str | None = None
) -> Sequence[PlacementRow]:
    """List placements by checkpoint and node."""
    query = select(PlacementRow).order_by(PlacementRow.checkpoint, PlacementRow.node)
    if checkpoint is not None:
        query = query.where(PlacementRow.checkpoint == checkpoint)
    if node is not None:
        query = query.where(PlacementRow.node == node)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def served_checkpoints(session: Session) -> frozenset[str]:
    """Digests that models are served from, those that are being deleted included."""
    return frozenset(session.scalars(select(ModelRow.checkpoint).where(ModelRow.checkpoint.is_not(None))))


def awaited_checkpoints(session: Session, among: Collection[str]) -> frozenset[str]:
    """Those of some digests that a job which has not ended was accepted for."""
    if not among:
        return frozenset()
    query = select(JobRow.checkpoint).where(JobRow.ended_at.is_(None), JobRow.checkpoint.in_(among)).distinct()
    return frozenset(session.scalars(query))


def remove_placement(session: Session, checkpoint: str, node: str) -> bool:
    """Forget a placement that is neither wanted nor there; False if it is either, or unknown."""
    statement = delete(PlacementRow).where(
        PlacementRow.checkpoint == checkpoint,
        PlacementRow.node == node,
        PlacementRow.desired.is_(None),
        PlacementRow.actual.is_(None),
    )
    return took_place(session, statement)
