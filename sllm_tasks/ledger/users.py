"""Users of the admin UI: made without a password, which each sets by a link that works once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import LoginLinkRow, UserRow, UserSessionRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent, took_place

#: A link that nobody followed is worth nothing after this time.
LINK_LIFE: Final = timedelta(hours=24)


def create_user(session: Session, name: str, role: Role, *, now: datetime) -> None:
    """Record a user who cannot sign in yet; raises ConflictError for a name that is taken."""
    if not insert_if_absent(session, UserRow, {"name": name, "role": role, "created_at": now}):
        raise ConflictError(f"there is a user {name} already")


def get_user(session: Session, name: str) -> UserRow:
    """Read a user; raises NotFoundError."""
    row = session.get(UserRow, name, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no user {name}")
    return row


def list_users(session: Session) -> Sequence[UserRow]:
    """List users by name, disabled ones included."""
    return session.scalars(select(UserRow).order_by(UserRow.name).execution_options(populate_existing=True)).all()


def has_users(session: Session) -> bool:
    """Whether anybody can sign in: somebody who is not disabled has set a password."""
    query = select(exists().where(UserRow.disabled_at.is_(None), UserRow.password_hash.is_not(None)))
    return bool(session.scalar(query))


def set_role(session: Session, name: str, role: Role) -> None:
    """Give a user another role; raises NotFoundError, or ConflictError for the last admin."""
    row = get_user(session, name)
    if row.role is Role.ADMIN and role is not Role.ADMIN:
        _keep_an_admin(session, name)
    session.execute(update(UserRow).where(UserRow.name == name).values(role=role), execution_options=AS_READ)


def disable_user(session: Session, name: str, *, now: datetime) -> None:
    """Sign a user out everywhere, for good; raises NotFoundError, or ConflictError for the last admin."""
    if get_user(session, name).role is Role.ADMIN:
        _keep_an_admin(session, name)
    session.execute(
        update(UserRow).where(UserRow.name == name).values(disabled_at=now, password_hash=None),
        execution_options=AS_READ,
    )
    _sign_out_everywhere(session, name)
    session.execute(delete(LoginLinkRow).where(LoginLinkRow.user_name == name), execution_options=AS_READ)


def make_link(session: Session, name: str, *, now: datetime) -> str:
    """Make the token of a link by which a user sets a password; links made before no longer work.

    It takes a disabled user back. Raises NotFoundError.
    """
    get_user(session, name)
    session.execute(update(UserRow).where(UserRow.name == name).values(disabled_at=None), execution_options=AS_READ)
    session.execute(delete(LoginLinkRow).where(LoginLinkRow.user_name == name), execution_options=AS_READ)
    token = secrets.token_urlsafe(32)
    session.add(LoginLinkRow(token_sha256=token_hash(token), user_name=name, expires_at=now + LINK_LIFE))
    session.flush()
    return token


def user_of_link(session: Session, token: str, *, now: datetime) -> str | None:
    """Whose password a link sets; None if it was followed, has expired or never was."""
    query = select(LoginLinkRow.user_name).where(
        LoginLinkRow.token_sha256 == token_hash(token), LoginLinkRow.expires_at > now
    )
    return session.scalar(query)


def use_link(session: Session, token: str, password_hash: str, *, now: datetime) -> str | None:
    """Set the password of a link's user, who is signed out everywhere; None if the link works no more."""
    statement = (
        delete(LoginLinkRow)
        .where(LoginLinkRow.token_sha256 == token_hash(token), LoginLinkRow.expires_at > now)
        .returning(LoginLinkRow.user_name)
    )
    name = session.scalar(statement, execution_options=AS_READ)
    if name is None:
        return None
    change = update(UserRow).where(UserRow.name == name, UserRow.disabled_at.is_(None))
    if not took_place(session, change.values(password_hash=password_hash)):
        return None
    _sign_out_everywhere(session, name)
    return name


def token_hash(token: str) -> bytes:
    """What is kept of a token: a fast hash is enough, for 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _keep_an_admin(session: Session, but: str) -> None:
    admins = select(UserRow.name).where(UserRow.role == Role.ADMIN, UserRow.disabled_at.is_(None))
    # All of them are locked, in one order: of two admins who take each other's place away the later one finds out.
    if not set(session.scalars(admins.order_by(UserRow.name).with_for_update())) - {but}:
        raise ConflictError(f"{but} is the last admin; make another one first")


def _sign_out_everywhere(session: Session, name: str) -> None:
    session.execute(delete(UserSessionRow).where(UserSessionRow.user_name == name), execution_options=AS_READ)
