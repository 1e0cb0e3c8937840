"""Webhooks: which of them fail, and the messages to them. Lost workers are found without looking at all attempts.

The code of the revision before this one runs on beside it: add first, remove in a later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NAME = sa.String(length=255)
_AT = sa.DateTime(timezone=True)
_TO_BE_SENT = sa.text("due_at IS NOT NULL")
_LOST = sa.text("exit_reason = 'worker_lost'")


def upgrade() -> None:
    with op.batch_alter_table("webhooks") as webhooks:
        webhooks.add_column(
            sa.Column("failing_since", _AT, nullable=True, comment="first failed try since the last that worked")
        )
        webhooks.add_column(sa.Column("disabled_reason", sa.Text(), nullable=True))
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", _NAME, nullable=False, comment="the receiver's webhook-id, the same in every try"),
        sa.Column("webhook_id", _NAME, nullable=True, comment="null: the URL is the job's own"),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("job_id", _NAME, nullable=True, comment="null: a test"),
        sa.Column("event", _NAME, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("num_attempts", sa.BigInteger(), nullable=False),
        sa.Column("due_at", _AT, nullable=True, comment="next try; while one is under way, when it counts as lost"),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("attempted_at", _AT, nullable=True, comment="last try"),
        sa.Column("http_status", sa.BigInteger(), nullable=True, comment="of the last try; null: no answer"),
        sa.Column("error", sa.Text(), nullable=True, comment="of the last try"),
        sa.CheckConstraint(
            "(due_at IS NOT NULL) = (status = 'pending')", name=op.f("ck_webhook_deliveries_due_while_pending")
        ),
        sa.CheckConstraint("num_attempts >= 0", name=op.f("ck_webhook_deliveries_num_attempts")),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_webhook_deliveries_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["due_at"],
        sqlite_where=_TO_BE_SENT,
        postgresql_where=_TO_BE_SENT,
    )
    op.create_index(op.f("ix_webhook_deliveries_webhook_id_id"), "webhook_deliveries", ["webhook_id", "id"])
    op.create_index(op.f("ix_webhook_deliveries_job_id"), "webhook_deliveries", ["job_id"])

    op.create_index("ix_job_attempts_lost", "job_attempts", ["job_id"], sqlite_where=_LOST, postgresql_where=_LOST)


def downgrade() -> None:
    op.drop_index("ix_job_attempts_lost", table_name="job_attempts")
    op.drop_table("webhook_deliveries")
    with op.batch_alter_table("webhooks") as webhooks:
        webhooks.drop_column("disabled_reason")
        webhooks.drop_column("failing_since")
