"""Queues whose jobs are held back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import Base


class PausedQueueRow(Base):
    """A queue whose jobs are accepted and not started; a queue without a row is not paused."""

    __tablename__ = "paused_queues"

    name: Mapped[str] = mapped_column(primary_key=True, comment="a model, also one that is deleted; * for all")
    paused_by: Mapped[str] = mapped_column(comment="an API key's id")
    paused_at: Mapped[datetime]
