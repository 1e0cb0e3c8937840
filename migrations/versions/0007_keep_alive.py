"""A model's keep-alive can be adaptive.

The code of the revision before this one runs on beside it, with the keep-alive in seconds that is there all the same.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    auto: sa.Column[bool] = sa.Column(
        "keep_alive_auto",
        sa.Boolean(),
        nullable=False,
        server_default=sa.false(),
        comment="as its jobs come; keep_alive_s is not used",
    )
    op.add_column("models", auto)


def downgrade() -> None:
    op.drop_column("models", "keep_alive_auto")
