"""Files of requests, and the batches that work them off."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, text
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import JSON_VALUE, Base, JsonObject, Message, by_value, sql_list
from sllm_tasks.ledger.states import ENDED_BATCH_STATUSES, BatchStatus

_OPEN = text("ended_at IS NULL")


class FileRow(Base):
    """A file of a tenant; it counts from the moment in which all of it is there."""

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint("num_bytes >= 0", name="num_bytes"),
        CheckConstraint("purpose IN ('batch', 'batch_output')", name="purpose"),
        Index(None, "tenant", "id"),
        Index(None, "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    filename: Mapped[str] = mapped_column(Message, comment="as its sender calls it; never a path of ours")
    purpose: Mapped[str]
    num_bytes: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    complete_at: Mapped[datetime | None] = mapped_column(comment="null: it is being written, or was given up")


class FilePartRow(Base):
    """A piece of a file: what one transaction writes."""

    __tablename__ = "file_parts"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True, comment="from 0; all but the last have the same length")
    content: Mapped[bytes] = mapped_column(LargeBinary)


class BatchRow(Base):
    """The requests of a file, to be answered within a time; its jobs are the group of its id."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint(
            f"(ended_at IS NOT NULL) = (status IN {sql_list(ENDED_BATCH_STATUSES)})", name="ended_when_terminal"
        ),
        CheckConstraint("num_requests >= 0 AND next_line >= 0 AND next_offset >= 0", name="counts"),
        CheckConstraint("num_completed >= 0 AND num_failed >= 0", name="results"),
        Index(None, "tenant", "id"),
        Index("ix_batches_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    status: Mapped[BatchStatus] = mapped_column(by_value(BatchStatus, "status"))
    problems: Mapped[list[JsonObject] | None] = mapped_column(JSON_VALUE, comment="why its file was refused")
    user_metadata: Mapped[JsonObject | None] = mapped_column("metadata", JSON_VALUE)
    num_requests: Mapped[int] = mapped_column(default=0, comment="lines of its file; 0 until it was read")
    next_line: Mapped[int] = mapped_column(default=0, comment="lines before it have their jobs, or were refused")
    next_offset: Mapped[int] = mapped_column(default=0, comment="where that line begins, in bytes")
    num_completed: Mapped[int] = mapped_column(default=0)
    num_failed: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(comment="the end of its completion window")
    in_progress_at: Mapped[datetime | None]
    canceling_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class BatchRefusalRow(Base):
    """A line of a batch that could not become a job, and what its client is told."""

    __tablename__ = "batch_refusals"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[int] = mapped_column(comment="of HTTP")
    body: Mapped[JsonObject] = mapped_column(JSON_VALUE)
