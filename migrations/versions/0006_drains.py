"""What operators drain stays drained; migrations tell what was expected of them and what they took.

The code of the revision before this one runs on beside it: add first, remove in a later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drains",
        sa.Column("name", sa.String(length=255), nullable=False, comment="a node, or one gpu as <node>.<index>"),
        sa.Column("drained_by", sa.String(length=255), nullable=False, comment="an API key's or a user's id"),
        sa.Column("drained_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_drains")),
    )
    with op.batch_alter_table("migrations") as migrations:
        migrations.add_column(sa.Column("predicted_pause_s", sa.Double(), nullable=True))
        migrations.add_column(
            sa.Column("batch", sa.BigInteger(), nullable=True, comment="jobs on the target, this one included")
        )
        migrations.add_column(
            sa.Column("num_bytes", sa.BigInteger(), nullable=True, comment="what the source has sent")
        )


def downgrade() -> None:
    with op.batch_alter_table("migrations") as migrations:
        migrations.drop_column("num_bytes")
        migrations.drop_column("batch")
        migrations.drop_column("predicted_pause_s")
    op.drop_table("drains")
