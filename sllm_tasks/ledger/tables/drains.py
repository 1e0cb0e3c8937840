"""Gpus that operators have drained (changes of the schema are schema revisions)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import Base


class DrainRow(Base):
    """What takes no work until it is taken back, whatever restarts; what has no row takes work."""

    __tablename__ = "drains"

    name: Mapped[str] = mapped_column(primary_key=True, comment="a node, or one gpu as <node>.<index>")
    drained_by: Mapped[str] = mapped_column(comment="an API key's or a user's id")
    drained_at: Mapped[datetime]
