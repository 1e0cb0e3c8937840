"""Jobs, their attempts, and why the router put them where it did."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import TERMINAL_STATUSES, Exactness, FinishReason, JobStatus, StartKind
from sllm_tasks.ledger.columns import (
    JSON_VALUE,
    Base,
    JsonObject,
    Message,
    TokenIds,
    Utf8,
    by_value,
    sql_list,
)
from sllm_tasks.ledger.states import AttemptExit

#: Error codes grow with the code, so no CHECK holds them to today's list.
ERROR_CODE = Enum(
    ErrorCode,
    native_enum=False,
    create_constraint=False,
    length=64,
    values_callable=lambda members: [member.value for member in members],
)

# Written with `ended_at` because planners match it to the partial indexes; ck_jobs_ended_when_terminal makes it
# mean the same as a terminal status.
_ACTIVE = text("ended_at IS NULL")
_NOT_PURGED = text("purged_at IS NULL")
#: Spelled out in queries too: SQLite matches no bound value to a partial index.
WORKER_LOST = text("exit_reason = 'worker_lost'")


class JobRow(Base):
    """One inference request from acceptance to tombstone."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "client_id"),
        UniqueConstraint("group_id", "group_index"),
        CheckConstraint(
            f"(ended_at IS NOT NULL) = (status IN {sql_list(TERMINAL_STATUSES)})", name="ended_when_terminal"
        ),
        CheckConstraint(
            "status <> 'succeeded' OR (finish_reason IS NOT NULL AND error_code IS NULL)",
            name="succeeded_has_reason",
        ),
        CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="failed_has_error"),
        CheckConstraint("purged_at IS NULL OR ended_at IS NOT NULL", name="purged_after_end"),
        CheckConstraint("(expires_at IS NULL) = (ended_at IS NULL)", name="expires_after_end"),
        CheckConstraint("prompt IS NULL OR messages IS NULL", name="one_input"),
        CheckConstraint("(group_id IS NULL) = (group_index IS NULL)", name="group_whole"),
        CheckConstraint("length(fingerprint) = 32", name="fingerprint_length"),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority_range"),
        CheckConstraint("job_class IN ('interactive', 'batch')", name="job_class"),
        CheckConstraint("attempt >= 1 AND max_attempts >= 1 AND worker_losses >= 0", name="attempts"),
        CheckConstraint("prompt_tokens >= 0 AND completion_tokens >= 0", name="token_counts"),
        CheckConstraint("num_migrations >= 0", name="num_migrations"),
        CheckConstraint("result_ttl_s >= 0", name="result_ttl_s"),
        Index(None, "tenant", "id"),
        Index("ix_jobs_active", "id", sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
        Index("ix_jobs_active_tenant", "tenant", sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
        Index("ix_jobs_unpurged", "expires_at", sqlite_where=_NOT_PURGED, postgresql_where=_NOT_PURGED),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    client_id: Mapped[str | None] = mapped_column(comment="chosen by the client (PUT)")
    fingerprint: Mapped[bytes | None] = mapped_column(
        LargeBinary, comment="SHA-256 of the request body that chose the client id"
    )
    model: Mapped[str] = mapped_column(comment="a name, not a reference: jobs outlive models")
    checkpoint: Mapped[str] = mapped_column(comment="digest at acceptance")
    shape: Mapped[JsonObject] = mapped_column(JSON_VALUE, comment="of its replicas, at acceptance")
    status: Mapped[JobStatus] = mapped_column(by_value(JobStatus, "status"))
    version: Mapped[int] = mapped_column(default=1, comment="grows with every change of the row")
    attempt: Mapped[int] = mapped_column(default=1)
    max_attempts: Mapped[int]
    worker_losses: Mapped[int] = mapped_column(default=0, comment="attempts that ended with a dead worker")
    priority: Mapped[int]
    job_class: Mapped[str]
    group_id: Mapped[str | None] = mapped_column(comment="shared by the jobs of one n > 1 request")
    group_index: Mapped[int | None]

    prompt: Mapped[str | None] = mapped_column(Utf8)
    messages: Mapped[list[JsonObject] | None] = mapped_column(JSON_VALUE)
    prompt_ids: Mapped[tuple[int, ...]] = mapped_column(TokenIds, comment="little-endian uint32")
    prompt_tokens: Mapped[int]
    params: Mapped[JsonObject] = mapped_column(JSON_VALUE)
    user_metadata: Mapped[JsonObject] = mapped_column("metadata", JSON_VALUE)
    webhook: Mapped[JsonObject | None] = mapped_column(JSON_VALUE)
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]
    exactness: Mapped[Exactness] = mapped_column(by_value(Exactness, "exactness"), comment="asked for")
    exactness_achieved: Mapped[Exactness | None] = mapped_column(by_value(Exactness, "exactness_achieved"))

    created_at: Mapped[datetime]
    deadline_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    first_token_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    result_ttl_s: Mapped[int] = mapped_column(comment="content is kept for so long after the end")
    expires_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None] = mapped_column(comment="content is gone, the row is a tombstone")

    output: Mapped[str | None] = mapped_column(Utf8)
    finish_reason: Mapped[FinishReason | None] = mapped_column(by_value(FinishReason, "finish_reason"))
    completion_tokens: Mapped[int | None]
    logprobs: Mapped[list[JsonObject] | None] = mapped_column(JSON_VALUE)
    error_code: Mapped[ErrorCode | None] = mapped_column(ERROR_CODE)
    error_message: Mapped[str | None] = mapped_column(Message)
    error_retryable: Mapped[bool | None]
    timings_ms: Mapped[JsonObject | None] = mapped_column(JSON_VALUE)
    assignment: Mapped[JsonObject | None] = mapped_column(JSON_VALUE, comment="node, gpus, start_kind")
    num_migrations: Mapped[int] = mapped_column(default=0)


class JobAttemptRow(Base):
    """One try of a job on one worker."""

    __tablename__ = "job_attempts"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (exit_reason IS NULL)", name="exit_whole"),
        CheckConstraint("attempt >= 1 AND num_tokens >= 0", name="counts"),
        Index("ix_job_attempts_lost", "job_id", sqlite_where=WORKER_LOST, postgresql_where=WORKER_LOST),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    node: Mapped[str]
    gpus: Mapped[list[int]] = mapped_column(JSON_VALUE, comment="indexes on the node, leader first")
    worker_id: Mapped[str]
    replica_id: Mapped[str]
    start_kind: Mapped[StartKind] = mapped_column(by_value(StartKind, "start_kind"))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    exit_reason: Mapped[AttemptExit | None] = mapped_column(by_value(AttemptExit, "exit_reason"))
    num_tokens: Mapped[int] = mapped_column(default=0, comment="emitted by this attempt")


class DecisionRow(Base):
    """Why an attempt went where it went; bounded, with a life."""

    __tablename__ = "decisions"
    __table_args__ = (
        ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        Index(None, "job_id", "id"),
        Index(None, "at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    attempt: Mapped[int]
    at: Mapped[datetime]
    path: Mapped[str] = mapped_column(comment="warm, load_dram, load_ssd, load_remote, migrate or wait")
    choice: Mapped[JsonObject] = mapped_column(JSON_VALUE)
    candidates: Mapped[list[JsonObject]] = mapped_column(JSON_VALUE, comment="the best ones, best first")
    predicted_s: Mapped[float | None] = mapped_column(comment="start time; null for wait without a forecast")
    actual_s: Mapped[float | None]
