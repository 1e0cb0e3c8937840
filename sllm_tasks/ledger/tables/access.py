"""Who may do what and who did: tenants, API keys, idempotency keys, audit."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import JSON_VALUE, Base, JsonObject, Message


class TenantRow(Base):
    """Somebody whose jobs and keys are kept apart from everybody else's."""

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("weight > 0", name="weight_positive"),
        CheckConstraint("max_queued_jobs >= 0", name="max_queued_jobs"),
        CheckConstraint("max_running_jobs >= 1", name="max_running_jobs"),
        CheckConstraint("max_requests_per_min >= 0", name="max_requests_per_min"),
        CheckConstraint("max_tokens_per_min >= 0", name="max_tokens_per_min"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    weight: Mapped[float] = mapped_column(default=1.0, comment="share of the cluster when tenants compete")
    max_queued_jobs: Mapped[int | None] = mapped_column(comment="null: the server's default")
    max_running_jobs: Mapped[int | None] = mapped_column(comment="null: the server's default")
    max_requests_per_min: Mapped[int | None] = mapped_column(comment="per key; null: the server's default")
    max_tokens_per_min: Mapped[int | None] = mapped_column(comment="per key; null: the server's default")
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class ApiKeyRow(Base):
    """An API key; its secret is shown once and only its hash is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("length(secret_sha256) = 32", name="secret_sha256_length"),
        Index(None, "tenant"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, comment="the public part of the key")
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(JSON_VALUE)
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None] = mapped_column(comment="to the minute")
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKeyRow(Base):
    """A request that must not take effect twice, and what was answered to it."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("length(fingerprint) = 32", name="fingerprint_length"),
        CheckConstraint("(response_status IS NULL) = (response_body IS NULL)", name="response_whole"),
        Index(None, "expires_at"),
    )

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True, comment="method and path")
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, comment="SHA-256 of the request body")
    target_id: Mapped[str] = mapped_column(comment="the job or operation that the request made")
    response_status: Mapped[int | None] = mapped_column(comment="null while the answer is not known")
    response_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AuditRow(Base):
    """One administrative change: who changed what, from what to what."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "target", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(comment="an API key's id, a user's name, or the part of the system")
    tenant: Mapped[str | None]
    action: Mapped[str] = mapped_column(comment="such as model.put")
    target: Mapped[str]
    before: Mapped[JsonObject | None] = mapped_column(JSON_VALUE)
    after: Mapped[JsonObject | None] = mapped_column(JSON_VALUE)
    request_id: Mapped[str | None]
    note: Mapped[str | None] = mapped_column(Message)
