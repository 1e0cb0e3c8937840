"""Live migrations of jobs and their rounds, as the live state reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from sllm_tasks.cluster import GpuId
from sllm_tasks.ledger.tables import MigrationRoundRow, MigrationRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent
from sllm_tasks.migration.states import MigrationState


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """A migration and how it stands."""

    id: str
    job_id: str
    attempt: int
    reason: str
    state: MigrationState
    source_replica_id: str
    source_gpus: tuple[GpuId, ...]
    target_replica_id: str
    target_gpus: tuple[GpuId, ...]
    #: On each gpu of the target, for a replica that is loaded for it.
    reserved_bytes: int
    predicted_s: float | None
    predicted_pause_s: float | None
    #: Jobs on the target, this one included; None when it is gone.
    batch: int | None
    #: What the source has sent.
    num_bytes: int
    pause_ms: float | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """A round that the target has read."""

    migration_id: str
    round: int
    num_tokens: int
    seconds: float
    at: datetime


def note_migration(session: Session, report: MigrationReport) -> None:
    """Enter a migration, or how it stands now; one that has ended stays as it is."""
    values = asdict(report) | {
        "source_node": report.source_gpus[0].node,
        "source_gpus": [gpu.index for gpu in report.source_gpus],
        "target_node": report.target_gpus[0].node,
        "target_gpus": [gpu.index for gpu in report.target_gpus],
    }
    if not insert_if_absent(session, MigrationRow, values):
        change = {name: values[name] for name in ("state", "batch", "num_bytes", "pause_ms", "error", "ended_at")}
        statement = update(MigrationRow).where(MigrationRow.id == report.id, MigrationRow.ended_at.is_(None))
        session.execute(statement.values(change), execution_options=AS_READ)


def add_round(session: Session, report: RoundReport) -> None:
    """Enter a round; one that is there already stays as it is."""
    insert_if_absent(session, MigrationRoundRow, asdict(report))


def list_migrations(session: Session, *, job_id: str | None = None, limit: int = 100) -> list[MigrationRow]:
    """The latest migrations, newest first."""
    query = select(MigrationRow).order_by(MigrationRow.id.desc()).limit(limit)
    return list(session.scalars(query if job_id is None else query.where(MigrationRow.job_id == job_id)))


def rounds_of(session: Session, migration_ids: Sequence[str]) -> dict[str, list[MigrationRoundRow]]:
    """The rounds of some migrations, in order."""
    found: dict[str, list[MigrationRoundRow]] = {migration_id: [] for migration_id in migration_ids}
    query = select(MigrationRoundRow).where(MigrationRoundRow.migration_id.in_(migration_ids))
    for row in session.scalars(query.order_by(MigrationRoundRow.round)):
        found[row.migration_id].append(row)
    return found
