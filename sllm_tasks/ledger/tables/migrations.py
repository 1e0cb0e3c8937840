"""Live migrations of running jobs and their rounds (changes of the schema are schema revisions)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import JSON_VALUE, Base, Message, by_value
from sllm_tasks.migration.states import MigrationState


class MigrationRow(Base):
    """A running job's move from one replica to another."""

    __tablename__ = "migrations"
    __table_args__ = (
        CheckConstraint("source_replica_id <> target_replica_id", name="moves"),
        CheckConstraint("reserved_bytes >= 0", name="reserved_bytes"),
        CheckConstraint(
            "(ended_at IS NOT NULL) = (state IN ('aborted', 'failed', 'not_needed', 'succeeded'))",
            name="ended_when_terminal",
        ),
        Index(None, "job_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    reason: Mapped[str] = mapped_column(comment="locality, drain, shutdown, defragmentation or operator")
    state: Mapped[MigrationState] = mapped_column(by_value(MigrationState, "state"))
    source_replica_id: Mapped[str]
    source_node: Mapped[str]
    source_gpus: Mapped[list[int]] = mapped_column(JSON_VALUE)
    target_replica_id: Mapped[str]
    target_node: Mapped[str]
    target_gpus: Mapped[list[int]] = mapped_column(JSON_VALUE)
    reserved_bytes: Mapped[int] = mapped_column(comment="held on each gpu of the target until the end")
    #: From its begin until the target goes on.
    predicted_s: Mapped[float | None]
    predicted_pause_s: Mapped[float | None]
    pause_ms: Mapped[float | None] = mapped_column(comment="last token before to first token after")
    batch: Mapped[int | None] = mapped_column(comment="jobs on the target, this one included")
    num_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="what the source has sent")
    error: Mapped[str | None] = mapped_column(Message)
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class MigrationRoundRow(Base):
    """One catch-up pass."""

    __tablename__ = "migration_rounds"
    __table_args__ = (CheckConstraint("round >= 1 AND num_tokens >= 0", name="counts"),)

    migration_id: Mapped[str] = mapped_column(ForeignKey("migrations.id", ondelete="CASCADE"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    num_tokens: Mapped[int] = mapped_column(comment="prefilled by the target in this pass")
    seconds: Mapped[float]
    at: Mapped[datetime]
