"""All tables of the ledger.

The code of the revision before this one runs on beside it: add first, remove in a later release.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.String(length=255)
_CODE = sa.String(length=64)
_TEXT = sa.Text()
_BYTES = sa.LargeBinary()
_INT = sa.BigInteger()
_FLOAT: sa.Double[float] = sa.Double()
_BOOL = sa.Boolean()
_AT = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)
_ACTIVE = sa.text("ended_at IS NULL")
_NOT_PURGED = sa.text("purged_at IS NULL")


def _closed(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=32)


def _required(name: str, kind: sa.types.TypeEngine[Any], comment: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def _optional(name: str, kind: sa.types.TypeEngine[Any], comment: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


def upgrade() -> None:
    _create_tenants()
    _create_api_keys()
    _create_idempotency_keys()
    _create_audit()
    _create_webhooks()
    _create_checkpoints()
    _create_models()
    _create_placements()
    _create_measured_loads()
    _create_jobs()
    _create_job_attempts()
    _create_decisions()
    _create_migrations()
    _create_migration_rounds()
    _create_operations()


def downgrade() -> None:
    op.drop_table("operations")
    op.drop_table("migration_rounds")
    op.drop_table("migrations")
    op.drop_table("decisions")
    op.drop_table("job_attempts")
    op.drop_table("jobs")
    op.drop_table("measured_loads")
    op.drop_table("placements")
    op.drop_table("models")
    op.drop_table("checkpoints")
    op.drop_table("webhooks")
    op.drop_table("audit")
    op.drop_table("idempotency_keys")
    op.drop_table("api_keys")
    op.drop_table("tenants")


def _create_tenants() -> None:
    op.create_table(
        "tenants",
        _required("id", _NAME),
        _required("weight", _FLOAT, "share of the cluster when tenants compete"),
        _optional("max_queued_jobs", _INT, "null: the server's default"),
        _optional("max_requests_per_min", _INT, "per key; null: the server's default"),
        _optional("max_tokens_per_min", _INT, "per key; null: the server's default"),
        _required("created_at", _AT),
        _optional("disabled_at", _AT),
        sa.CheckConstraint("max_queued_jobs >= 0", name=op.f("ck_tenants_max_queued_jobs")),
        sa.CheckConstraint("max_requests_per_min >= 0", name=op.f("ck_tenants_max_requests_per_min")),
        sa.CheckConstraint("max_tokens_per_min >= 0", name=op.f("ck_tenants_max_tokens_per_min")),
        sa.CheckConstraint("weight > 0", name=op.f("ck_tenants_weight_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        _required("id", _NAME, "the public part of the key"),
        _required("tenant", _NAME),
        _required("name", _NAME),
        _required("secret_sha256", _BYTES),
        _required("scopes", _JSON),
        _required("created_at", _AT),
        _optional("last_used_at", _AT, "to the minute"),
        _optional("expires_at", _AT),
        _optional("revoked_at", _AT),
        sa.CheckConstraint("length(secret_sha256) = 32", name=op.f("ck_api_keys_secret_sha256_length")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_api_keys_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index(op.f("ix_api_keys_tenant"), "api_keys", ["tenant"])


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        _required("tenant", _NAME),
        _required("route", _NAME, "method and path"),
        _required("key", _NAME),
        _required("fingerprint", _BYTES, "SHA-256 of the request body"),
        _required("target_id", _NAME, "the job or operation that the request made"),
        _optional("response_status", _INT, "null while the answer is not known"),
        _optional("response_body", _BYTES),
        _required("created_at", _AT),
        _required("expires_at", _AT),
        sa.CheckConstraint(
            "(response_status IS NULL) = (response_body IS NULL)", name=op.f("ck_idempotency_keys_response_whole")
        ),
        sa.CheckConstraint("length(fingerprint) = 32", name=op.f("ck_idempotency_keys_fingerprint_length")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_idempotency_keys_tenant_tenants")),
        sa.PrimaryKeyConstraint("tenant", "route", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        _required("id", _NAME),
        _required("at", _AT),
        _required("actor", _NAME, "an API key's id, a user's name, or the part of the system"),
        _optional("tenant", _NAME),
        _required("action", _NAME, "such as model.put"),
        _required("target", _NAME),
        _optional("before", _JSON),
        _optional("after", _JSON),
        _optional("request_id", _NAME),
        _optional("note", _TEXT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_target_id"), "audit", ["target", "id"])


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        _required("id", _NAME),
        _required("tenant", _NAME),
        _required("url", _TEXT),
        _required("events", _JSON),
        _required("secret", _NAME, "signs deliveries, so it cannot be kept as a hash"),
        _required("created_at", _AT),
        _optional("disabled_at", _AT),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_webhooks_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_tenant"), "webhooks", ["tenant"])


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        _required("digest", _NAME, "of the manifest"),
        _required("source", _TEXT, "where it was imported from"),
        _required("architecture", _NAME),
        _required("dtype", _NAME),
        _required("num_bytes", _INT),
        _required("num_parameters", _INT),
        _required("num_partitions", _INT),
        _required("config", _TEXT, "config.json"),
        _optional("generation_config", _TEXT),
        _optional("tokenizer", _TEXT, "tokenizer.json"),
        _optional("tokenizer_config", _TEXT),
        _optional("chat_template", _TEXT),
        _required("eos_token_ids", _JSON),
        _required("created_at", _AT),
        sa.CheckConstraint("num_bytes >= 0 AND num_parameters >= 0", name=op.f("ck_checkpoints_sizes")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_checkpoints")),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        _required("name", _NAME),
        _optional("checkpoint", _NAME, "null until deployed"),
        _required("source", _TEXT, "what was asked for: a path, a URL or a digest"),
        _required("engine", _NAME),
        _required("dtype", _NAME),
        _required("exactness", _closed("exactness", "token", "exact")),
        _required("num_gpus", _INT),
        _required("max_jobs", _INT, "decoded together by one replica"),
        _required("context", _INT, "prompt plus output tokens of one job"),
        _required("keep_alive_s", _FLOAT),
        _required("min_replicas", _INT),
        _required("max_replicas", _INT),
        _required("weights_bytes", _INT, "0 until deployed"),
        _required("kv_bytes_per_token", _INT, "0 until deployed"),
        _required("bytes_per_gpu", _INT, "weights and KV cache; 0 until deployed"),
        _required("state", _closed("state", "deploying", "ready", "failed", "deleting")),
        _optional("error", _TEXT),
        _required("deployment", _NAME, "the operation of the last deployment that was asked for"),
        _required("version", _INT, "grows with every change of the row"),
        _required("created_at", _AT),
        _required("updated_at", _AT),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_models_failed_has_error")),
        sa.CheckConstraint(
            "state = 'deleting' OR (state = 'ready') = (checkpoint IS NOT NULL)",
            name=op.f("ck_models_ready_has_checkpoint"),
        ),
        sa.CheckConstraint(
            "bytes_per_gpu >= 0 AND weights_bytes >= 0 AND kv_bytes_per_token >= 0", name=op.f("ck_models_sizes")
        ),
        sa.CheckConstraint("keep_alive_s >= 0", name=op.f("ck_models_keep_alive_s")),
        sa.CheckConstraint("min_replicas >= 0 AND max_replicas >= min_replicas", name=op.f("ck_models_replicas")),
        sa.CheckConstraint("num_gpus >= 1 AND max_jobs >= 1 AND context >= 1", name=op.f("ck_models_limits")),
        sa.ForeignKeyConstraint(["checkpoint"], ["checkpoints.digest"], name=op.f("fk_models_checkpoint_checkpoints")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_checkpoint"), "models", ["checkpoint"])


def _create_placements() -> None:
    op.create_table(
        "placements",
        _required("checkpoint", _NAME),
        _required("node", _NAME),
        _optional("desired", _closed("desired", "remote", "ssd", "dram", "gpu"), "null: not wanted there"),
        _optional("actual", _closed("actual", "remote", "ssd", "dram", "gpu"), "fastest tier that has all"),
        _required("pinned", _BOOL, "no policy may move or evict it"),
        _required("version", _INT),
        _required("updated_at", _AT),
        _optional("actual_at", _AT, "when the node last reported"),
        sa.CheckConstraint("actual IS NULL OR actual <> 'remote'", name=op.f("ck_placements_actual_is_local")),
        sa.CheckConstraint("desired IS NULL OR desired <> 'remote'", name=op.f("ck_placements_desired_is_local")),
        sa.ForeignKeyConstraint(
            ["checkpoint"],
            ["checkpoints.digest"],
            name=op.f("fk_placements_checkpoint_checkpoints"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("checkpoint", "node", name=op.f("pk_placements")),
    )
    op.create_index(op.f("ix_placements_node"), "placements", ["node"])


def _create_measured_loads() -> None:
    op.create_table(
        "measured_loads",
        _required("id", _NAME),
        _required("checkpoint", _NAME, "a digest: measurements outlive checkpoints"),
        _required("node", _NAME),
        _optional("gpu", _INT, "null: a prefetch into DRAM or the SSD"),
        _required("tier", _closed("tier", "remote", "ssd", "dram", "gpu"), "the slowest tier that was read"),
        _required("num_bytes", _INT),
        _required("seconds", _FLOAT),
        _required("at", _AT),
        sa.CheckConstraint("num_bytes >= 0 AND seconds >= 0", name=op.f("ck_measured_loads_amounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measured_loads")),
    )
    op.create_index(op.f("ix_measured_loads_at"), "measured_loads", ["at"])
    op.create_index(op.f("ix_measured_loads_node_tier_at"), "measured_loads", ["node", "tier", "at"])


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        _required("id", _NAME),
        _required("tenant", _NAME),
        _optional("client_id", _NAME, "chosen by the client (PUT)"),
        _optional("fingerprint", _BYTES, "SHA-256 of the request body that chose the client id"),
        _required("model", _NAME, "a name, not a reference: jobs outlive models"),
        _required("checkpoint", _NAME, "digest at acceptance"),
        _required("shape", _JSON, "of its replicas, at acceptance"),
        _required(
            "status",
            _closed(
                "status", "queued", "starting", "running", "canceling", "succeeded", "failed", "canceled", "expired"
            ),
        ),
        _required("version", _INT, "grows with every change of the row"),
        _required("attempt", _INT),
        _required("max_attempts", _INT),
        _required("worker_losses", _INT, "attempts that ended with a dead worker"),
        _required("priority", _INT),
        _required("job_class", _NAME),
        _optional("group_id", _NAME, "shared by the jobs of one n > 1 request"),
        _optional("group_index", _INT),
        _optional("prompt", _BYTES),
        _optional("messages", _JSON),
        _required("prompt_ids", _BYTES, "little-endian uint32"),
        _required("prompt_tokens", _INT),
        _required("params", _JSON),
        _required("metadata", _JSON),
        _optional("webhook", _JSON),
        _optional("request_id", _NAME),
        _optional("traceparent", _NAME),
        _required("exactness", _closed("exactness", "token", "exact"), "asked for"),
        _optional("exactness_achieved", _closed("exactness_achieved", "token", "exact")),
        _required("created_at", _AT),
        _optional("deadline_at", _AT),
        _optional("started_at", _AT),
        _optional("first_token_at", _AT),
        _optional("ended_at", _AT),
        _required("result_ttl_s", _INT, "content is kept for so long after the end"),
        _optional("expires_at", _AT),
        _optional("purged_at", _AT, "content is gone, the row is a tombstone"),
        _optional("output", _BYTES),
        _optional("finish_reason", _closed("finish_reason", "stop", "length", "canceled")),
        _optional("completion_tokens", _INT),
        _optional("logprobs", _JSON),
        _optional("error_code", _CODE),
        _optional("error_message", _TEXT),
        _optional("error_retryable", _BOOL),
        _optional("timings_ms", _JSON),
        _optional("assignment", _JSON, "node, gpus, start_kind"),
        _required("num_migrations", _INT),
        sa.CheckConstraint("length(fingerprint) = 32", name=op.f("ck_jobs_fingerprint_length")),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (status IN ('canceled', 'expired', 'failed', 'succeeded'))",
            name=op.f("ck_jobs_ended_when_terminal"),
        ),
        sa.CheckConstraint("job_class IN ('interactive', 'batch')", name=op.f("ck_jobs_job_class")),
        sa.CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name=op.f("ck_jobs_failed_has_error")),
        sa.CheckConstraint(
            "status <> 'succeeded' OR (finish_reason IS NOT NULL AND error_code IS NULL)",
            name=op.f("ck_jobs_succeeded_has_reason"),
        ),
        sa.CheckConstraint("(expires_at IS NULL) = (ended_at IS NULL)", name=op.f("ck_jobs_expires_after_end")),
        sa.CheckConstraint("(group_id IS NULL) = (group_index IS NULL)", name=op.f("ck_jobs_group_whole")),
        sa.CheckConstraint("attempt >= 1 AND max_attempts >= 1 AND worker_losses >= 0", name=op.f("ck_jobs_attempts")),
        sa.CheckConstraint("num_migrations >= 0", name=op.f("ck_jobs_num_migrations")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_jobs_priority_range")),
        sa.CheckConstraint("prompt IS NULL OR messages IS NULL", name=op.f("ck_jobs_one_input")),
        sa.CheckConstraint("prompt_tokens >= 0 AND completion_tokens >= 0", name=op.f("ck_jobs_token_counts")),
        sa.CheckConstraint("purged_at IS NULL OR ended_at IS NOT NULL", name=op.f("ck_jobs_purged_after_end")),
        sa.CheckConstraint("result_ttl_s >= 0", name=op.f("ck_jobs_result_ttl_s")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_jobs_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("group_id", "group_index", name=op.f("uq_jobs_group_id_group_index")),
        sa.UniqueConstraint("tenant", "client_id", name=op.f("uq_jobs_tenant_client_id")),
    )
    op.create_index(op.f("ix_jobs_active"), "jobs", ["id"], sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)
    op.create_index(op.f("ix_jobs_active_tenant"), "jobs", ["tenant"], sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)
    op.create_index(op.f("ix_jobs_tenant_id"), "jobs", ["tenant", "id"])
    op.create_index(
        op.f("ix_jobs_unpurged"), "jobs", ["expires_at"], sqlite_where=_NOT_PURGED, postgresql_where=_NOT_PURGED
    )


def _create_job_attempts() -> None:
    op.create_table(
        "job_attempts",
        _required("job_id", _NAME),
        _required("attempt", _INT),
        _required("node", _NAME),
        _required("gpus", _JSON, "indexes on the node, leader first"),
        _required("worker_id", _NAME),
        _required("replica_id", _NAME),
        _required("start_kind", _closed("start_kind", "warm", "cold_dram", "cold_ssd", "cold_remote", "migrated")),
        _required("started_at", _AT),
        _optional("ended_at", _AT),
        _optional("exit_reason", _closed("exit_reason", "job_ended", "worker_lost", "handed_back", "superseded")),
        _required("num_tokens", _INT, "emitted by this attempt"),
        sa.CheckConstraint("(ended_at IS NULL) = (exit_reason IS NULL)", name=op.f("ck_job_attempts_exit_whole")),
        sa.CheckConstraint("attempt >= 1 AND num_tokens >= 0", name=op.f("ck_job_attempts_counts")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_attempts_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_job_attempts")),
    )


def _create_decisions() -> None:
    op.create_table(
        "decisions",
        _required("id", _NAME),
        _required("job_id", _NAME),
        _required("attempt", _INT),
        _required("at", _AT),
        _required("path", _NAME, "warm, load_dram, load_ssd, load_remote, migrate or wait"),
        _required("choice", _JSON),
        _required("candidates", _JSON, "the best ones, best first"),
        _optional("predicted_s", _FLOAT, "start time; null for wait without a forecast"),
        _optional("actual_s", _FLOAT),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_decisions_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_at"), "decisions", ["at"])
    op.create_index(op.f("ix_decisions_job_id_id"), "decisions", ["job_id", "id"])


def _create_migrations() -> None:
    op.create_table(
        "migrations",
        _required("id", _NAME),
        _required("job_id", _NAME),
        _required("attempt", _INT),
        _required("reason", _NAME, "locality, drain, shutdown, defragmentation or operator"),
        _required(
            "state",
            _closed(
                "state",
                "planned",
                "loading",
                "catching_up",
                "handing_over",
                "succeeded",
                "not_needed",
                "failed",
                "aborted",
            ),
        ),
        _required("source_replica_id", _NAME),
        _required("source_node", _NAME),
        _required("source_gpus", _JSON),
        _required("target_replica_id", _NAME),
        _required("target_node", _NAME),
        _required("target_gpus", _JSON),
        _required("reserved_bytes", _INT, "held on each gpu of the target until the end"),
        _optional("predicted_s", _FLOAT),
        _optional("pause_ms", _FLOAT, "last token before to first token after"),
        _optional("error", _TEXT),
        _required("created_at", _AT),
        _optional("ended_at", _AT),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (state IN ('aborted', 'failed', 'not_needed', 'succeeded'))",
            name=op.f("ck_migrations_ended_when_terminal"),
        ),
        sa.CheckConstraint("reserved_bytes >= 0", name=op.f("ck_migrations_reserved_bytes")),
        sa.CheckConstraint("source_replica_id <> target_replica_id", name=op.f("ck_migrations_moves")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_migrations_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_migrations")),
    )
    op.create_index(op.f("ix_migrations_job_id_id"), "migrations", ["job_id", "id"])


def _create_migration_rounds() -> None:
    op.create_table(
        "migration_rounds",
        _required("migration_id", _NAME),
        _required("round", _INT),
        _required("num_tokens", _INT, "prefilled by the target in this pass"),
        _required("seconds", _FLOAT),
        _required("at", _AT),
        sa.CheckConstraint("round >= 1 AND num_tokens >= 0", name=op.f("ck_migration_rounds_counts")),
        sa.ForeignKeyConstraint(
            ["migration_id"],
            ["migrations.id"],
            name=op.f("fk_migration_rounds_migration_id_migrations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("migration_id", "round", name=op.f("pk_migration_rounds")),
    )


def _create_operations() -> None:
    op.create_table(
        "operations",
        _required("id", _NAME),
        _required("kind", _NAME),
        _required("target", _TEXT, "the model, checkpoint or node it is about"),
        _required("args", _JSON),
        _required("status", _closed("status", "pending", "running", "succeeded", "failed", "canceled")),
        _optional("progress", _JSON, "done, total, unit"),
        _optional("result", _JSON),
        _optional("error_code", _CODE),
        _optional("error_message", _TEXT),
        _optional("node", _NAME, "who runs it; null: control, or not decided"),
        _required("attempts", _INT, "how often it was begun; fences stale runners"),
        _required("requested_by", _NAME),
        _required("created_at", _AT),
        _optional("started_at", _AT),
        _required("updated_at", _AT, "last sign of life"),
        _optional("ended_at", _AT),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (status IN ('canceled', 'failed', 'succeeded'))",
            name=op.f("ck_operations_ended_when_terminal"),
        ),
        sa.CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name=op.f("ck_operations_failed_has_error")),
        sa.CheckConstraint(
            "status <> 'running' OR started_at IS NOT NULL", name=op.f("ck_operations_running_has_start")
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_operations_attempts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(op.f("ix_operations_open"), "operations", ["id"], sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)
    op.create_index(op.f("ix_operations_target_id"), "operations", ["target", "id"])
