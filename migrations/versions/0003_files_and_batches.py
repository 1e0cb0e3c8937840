"""Files of requests, and batches of them.

The code of the revision before this one runs on beside it: add first, remove in a later release.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAME = sa.String(length=255)
_TEXT = sa.Text()
_BYTES = sa.LargeBinary()
_INT = sa.BigInteger()
_AT = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True)
_OPEN = sa.text("ended_at IS NULL")
_STATUSES = (
    *("validating", "in_progress", "finalizing", "canceling"),
    *("completed", "failed", "expired", "canceled"),
)


def _required(name: str, kind: sa.types.TypeEngine[Any], comment: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def _optional(name: str, kind: sa.types.TypeEngine[Any], comment: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


def upgrade() -> None:
    _create_files()
    _create_file_parts()
    _create_batches()
    _create_batch_refusals()


def downgrade() -> None:
    op.drop_table("batch_refusals")
    op.drop_table("batches")
    op.drop_table("file_parts")
    op.drop_table("files")


def _create_files() -> None:
    op.create_table(
        "files",
        _required("id", _NAME),
        _required("tenant", _NAME),
        _required("filename", _TEXT, "as its sender calls it; never a path of ours"),
        _required("purpose", _NAME),
        _required("num_bytes", _INT),
        _required("created_at", _AT),
        _required("expires_at", _AT),
        _optional("complete_at", _AT, "null: it is being written, or was given up"),
        sa.CheckConstraint("num_bytes >= 0", name=op.f("ck_files_num_bytes")),
        sa.CheckConstraint("purpose IN ('batch', 'batch_output')", name=op.f("ck_files_purpose")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_files_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_tenant_id"), "files", ["tenant", "id"])
    op.create_index(op.f("ix_files_expires_at"), "files", ["expires_at"])


def _create_file_parts() -> None:
    op.create_table(
        "file_parts",
        _required("file_id", _NAME),
        _required("part", _INT, "from 0; all but the last have the same length"),
        _required("content", _BYTES),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_file_parts_file_id_files"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("file_id", "part", name=op.f("pk_file_parts")),
    )


def _create_batches() -> None:
    op.create_table(
        "batches",
        _required("id", _NAME),
        _required("tenant", _NAME),
        _required("endpoint", _NAME),
        _required("input_file_id", _NAME),
        _optional("output_file_id", _NAME),
        _optional("error_file_id", _NAME),
        _required("status", sa.Enum(*_STATUSES, name="status", native_enum=False, create_constraint=True, length=32)),
        _optional("problems", _JSON, "why its file was refused"),
        _optional("metadata", _JSON),
        _required("num_requests", _INT, "lines of its file; 0 until it was read"),
        _required("next_line", _INT, "lines before it have their jobs, or were refused"),
        _required("next_offset", _INT, "where that line begins, in bytes"),
        _required("num_completed", _INT),
        _required("num_failed", _INT),
        _required("created_at", _AT),
        _required("expires_at", _AT, "the end of its completion window"),
        _optional("in_progress_at", _AT),
        _optional("canceling_at", _AT),
        _optional("finalizing_at", _AT),
        _optional("ended_at", _AT),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (status IN ('canceled', 'completed', 'expired', 'failed'))",
            name=op.f("ck_batches_ended_when_terminal"),
        ),
        sa.CheckConstraint("num_requests >= 0 AND next_line >= 0 AND next_offset >= 0", name=op.f("ck_batches_counts")),
        sa.CheckConstraint("num_completed >= 0 AND num_failed >= 0", name=op.f("ck_batches_results")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_batches_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(op.f("ix_batches_tenant_id"), "batches", ["tenant", "id"])
    op.create_index("ix_batches_open", "batches", ["id"], sqlite_where=_OPEN, postgresql_where=_OPEN)


def _create_batch_refusals() -> None:
    op.create_table(
        "batch_refusals",
        _required("batch_id", _NAME),
        _required("line", _INT),
        _required("status", _INT, "of HTTP"),
        _required("body", _JSON),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_refusals_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_refusals")),
    )
