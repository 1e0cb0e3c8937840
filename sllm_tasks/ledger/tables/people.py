"""People who sign in to the admin UI, and how they do."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from sllm_tasks.ledger.columns import Base, by_value
from sllm_tasks.ledger.states import Role


class UserRow(Base):
    """Somebody with a name and a role; without a password until the first link was followed."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[Role] = mapped_column(by_value(Role, "role"))
    password_hash: Mapped[str | None] = mapped_column(comment="scrypt, with its parameters and salt")
    created_at: Mapped[datetime]
    signed_in_at: Mapped[datetime | None] = mapped_column(comment="last time")
    disabled_at: Mapped[datetime | None]


class UserSessionRow(Base):
    """A browser that is signed in; deleting the row signs it out."""

    __tablename__ = "user_sessions"
    __table_args__ = (
        CheckConstraint("length(token_sha256) = 32", name="token_sha256_length"),
        Index(None, "user_name"),
        Index(None, "expires_at"),
    )

    token_sha256: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True, comment="of the cookie")
    user_name: Mapped[str] = mapped_column(ForeignKey("users.name", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(comment="to the minute")
    expires_at: Mapped[datetime] = mapped_column(comment="whatever happens")


class LoginLinkRow(Base):
    """A link that lets its holder set a user's password, once."""

    __tablename__ = "login_links"
    __table_args__ = (
        CheckConstraint("length(token_sha256) = 32", name="token_sha256_length"),
        Index(None, "user_name"),
    )

    token_sha256: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_name: Mapped[str] = mapped_column(ForeignKey("users.name", ondelete="CASCADE"))
    expires_at: Mapped[datetime]


class LoginFailuresRow(Base):
    """Wrong passwords of late, counted by who typed them and for whom."""

    __tablename__ = "login_failures"
    __table_args__ = (CheckConstraint("num_failures >= 1", name="num_failures"),)

    bucket: Mapped[str] = mapped_column(primary_key=True, comment="hash of an address, of a user, or of both")
    num_failures: Mapped[int]
    forgotten_at: Mapped[datetime] = mapped_column(comment="when counting begins anew")
