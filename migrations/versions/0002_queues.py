"""Queues can be paused, and tenants may run only so many jobs at once.

The code of the revision before this one runs on beside it: add first, remove in a later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paused_queues",
        sa.Column(
            "name", sa.String(length=255), nullable=False, comment="a model, also one that is deleted; * for all"
        ),
        sa.Column("paused_by", sa.String(length=255), nullable=False, comment="an API key's id"),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_paused_queues")),
    )
    with op.batch_alter_table("tenants") as tenants:
        tenants.add_column(
            sa.Column("max_running_jobs", sa.BigInteger(), nullable=True, comment="null: the server's default")
        )
        tenants.create_check_constraint(op.f("ck_tenants_max_running_jobs"), "max_running_jobs >= 1")


def downgrade() -> None:
    with op.batch_alter_table("tenants") as tenants:
        tenants.drop_constraint(op.f("ck_tenants_max_running_jobs"), type_="check")
        tenants.drop_column("max_running_jobs")
    op.drop_table("paused_queues")
