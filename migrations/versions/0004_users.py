"""Users of the admin UI, their sessions, the links by which they set a password, and wrong passwords of late.

The code of the revision before this one runs on beside it: add first, remove in a later release.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NAME = sa.String(length=255)
_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("password_hash", _NAME, nullable=True, comment="scrypt, with its parameters and salt"),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("signed_in_at", _AT, nullable=True, comment="last time"),
        sa.Column("disabled_at", _AT, nullable=True),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
    )
    op.create_table(
        "user_sessions",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False, comment="of the cookie"),
        sa.Column("user_name", _NAME, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("seen_at", _AT, nullable=False, comment="to the minute"),
        sa.Column("expires_at", _AT, nullable=False, comment="whatever happens"),
        sa.CheckConstraint("length(token_sha256) = 32", name=op.f("ck_user_sessions_token_sha256_length")),
        sa.ForeignKeyConstraint(
            ["user_name"], ["users.name"], name=op.f("fk_user_sessions_user_name_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_user_sessions")),
    )
    op.create_index(op.f("ix_user_sessions_user_name"), "user_sessions", ["user_name"])
    op.create_index(op.f("ix_user_sessions_expires_at"), "user_sessions", ["expires_at"])
    op.create_table(
        "login_links",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("user_name", _NAME, nullable=False),
        sa.Column("expires_at", _AT, nullable=False),
        sa.CheckConstraint("length(token_sha256) = 32", name=op.f("ck_login_links_token_sha256_length")),
        sa.ForeignKeyConstraint(
            ["user_name"], ["users.name"], name=op.f("fk_login_links_user_name_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_login_links")),
    )
    op.create_index(op.f("ix_login_links_user_name"), "login_links", ["user_name"])
    op.create_table(
        "login_failures",
        sa.Column("bucket", _NAME, nullable=False, comment="hash of an address, of a user, or of both"),
        sa.Column("num_failures", sa.BigInteger(), nullable=False),
        sa.Column("forgotten_at", _AT, nullable=False, comment="when counting begins anew"),
        sa.CheckConstraint("num_failures >= 1", name=op.f("ck_login_failures_num_failures")),
        sa.PrimaryKeyConstraint("bucket", name=op.f("pk_login_failures")),
    )


def downgrade() -> None:
    for table in ("login_failures", "login_links", "user_sessions", "users"):
        op.drop_table(table)
