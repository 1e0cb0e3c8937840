"""Webhooks, and the messages to them: the outbox that is filled when jobs end, and the log of what became of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import JSON_VALUE, Base, Message, by_value
from sllm_tasks.ledger.states import DeliveryStatus

_TO_BE_SENT = text("due_at IS NOT NULL")


class WebhookRow(Base):
    """Where a tenant wants to hear about its jobs."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "tenant"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JSON_VALUE)
    secret: Mapped[str] = mapped_column(comment="signs deliveries, so it cannot be kept as a hash")
    created_at: Mapped[datetime]
    failing_since: Mapped[datetime | None] = mapped_column(comment="first failed try since the last that worked")
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(Message)


class WebhookDeliveryRow(Base):
    """One message: to be sent, sent or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("(due_at IS NOT NULL) = (status = 'pending')", name="due_while_pending"),
        CheckConstraint("num_attempts >= 0", name="num_attempts"),
        Index("ix_webhook_deliveries_due", "due_at", sqlite_where=_TO_BE_SENT, postgresql_where=_TO_BE_SENT),
        Index(None, "webhook_id", "id"),
        Index(None, "job_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, comment="the receiver's webhook-id, the same in every try")
    webhook_id: Mapped[str | None] = mapped_column(
        ForeignKey("webhooks.id", ondelete="CASCADE"), comment="null: the URL is the job's own"
    )
    tenant: Mapped[str]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), comment="null: a test")
    event: Mapped[str]
    url: Mapped[str] = mapped_column(Text)
    status: Mapped[DeliveryStatus] = mapped_column(by_value(DeliveryStatus, "status"))
    num_attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(comment="next try; while one is under way, when it counts as lost")
    created_at: Mapped[datetime]
    attempted_at: Mapped[datetime | None] = mapped_column(comment="last try")
    http_status: Mapped[int | None] = mapped_column(comment="of the last try; null: no answer")
    error: Mapped[str | None] = mapped_column(Message, comment="of the last try")
