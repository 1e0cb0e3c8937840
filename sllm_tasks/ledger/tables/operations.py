"""Administrative work that takes a while."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.errors import ErrorCode
from sllm_tasks.ledger.columns import JSON_VALUE, Base, JsonObject, Message, by_value, sql_list
from sllm_tasks.ledger.states import ENDED_OPERATION_STATUSES, OperationStatus
from sllm_tasks.ledger.tables.jobs import ERROR_CODE

_OPEN = text("ended_at IS NULL")


class OperationRow(Base):
    """A deploy, import, drain or the like: started by REST, run by a node agent or control."""

    __tablename__ = "operations"
    __table_args__ = (
        CheckConstraint(
            f"(ended_at IS NOT NULL) = (status IN {sql_list(ENDED_OPERATION_STATUSES)})",
            name="ended_when_terminal",
        ),
        CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="failed_has_error"),
        CheckConstraint("status <> 'running' OR started_at IS NOT NULL", name="running_has_start"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index(None, "target", "id"),
        Index("ix_operations_open", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    target: Mapped[str] = mapped_column(Text, comment="the model, checkpoint or node it is about")
    args: Mapped[JsonObject] = mapped_column(JSON_VALUE)
    status: Mapped[OperationStatus] = mapped_column(by_value(OperationStatus, "status"))
    progress: Mapped[JsonObject | None] = mapped_column(JSON_VALUE, comment="done, total, unit")
    result: Mapped[JsonObject | None] = mapped_column(JSON_VALUE)
    error_code: Mapped[ErrorCode | None] = mapped_column(ERROR_CODE)
    error_message: Mapped[str | None] = mapped_column(Message)
    node: Mapped[str | None] = mapped_column(comment="who runs it; null: control, or not decided")
    attempts: Mapped[int] = mapped_column(default=0, comment="how often it was begun; fences stale runners")
    requested_by: Mapped[str]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(comment="last sign of life")
    ended_at: Mapped[datetime | None]
