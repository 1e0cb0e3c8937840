"""Browsers that are signed in: a row each, so that anybody can be signed out at once."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import LoginLinkRow, UserRow, UserSessionRow
from sllm_tasks.ledger.users import token_hash
from sllm_tasks.ledger.writes import AS_READ, took_place

#: A session ends after this time, however much it is used.
SESSION_LIFE: Final = timedelta(days=7)
#: And after so long without a request.
IDLE_LIFE: Final = timedelta(hours=12)
#: A write per request would cost more than the request.
_SEEN_STEP: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A user who has signed in."""

    name: str
    role: Role
    #: To the minute.
    seen_at: datetime


def open_session(session: Session, name: str, *, now: datetime) -> str:
    """Sign a user in and return the token of the session, which is kept nowhere."""
    token = secrets.token_urlsafe(32)
    session.add(
        UserSessionRow(
            token_sha256=token_hash(token), user_name=name, created_at=now, seen_at=now, expires_at=now + SESSION_LIFE
        )
    )
    session.execute(update(UserRow).where(UserRow.name == name).values(signed_in_at=now), execution_options=AS_READ)
    session.flush()
    return token


def find_session(session: Session, token: str, *, now: datetime) -> SignedIn | None:
    """Who a token belongs to; None if nobody, or no more."""
    query = (
        select(UserRow.name, UserRow.role, UserSessionRow.seen_at)
        .join(UserSessionRow, UserSessionRow.user_name == UserRow.name)
        .where(
            UserSessionRow.token_sha256 == token_hash(token),
            UserSessionRow.expires_at > now,
            UserSessionRow.seen_at > now - IDLE_LIFE,
            UserRow.disabled_at.is_(None),
        )
    )
    row = session.execute(query).first()
    return None if row is None else SignedIn(name=row.name, role=row.role, seen_at=row.seen_at)


def is_seen_due(found: SignedIn, now: datetime) -> bool:
    """Whether the use of a session is to be recorded again."""
    return found.seen_at < now - _SEEN_STEP


def note_seen(session: Session, token: str, *, now: datetime) -> bool:
    """Record that a session is used; False if that was recorded within the last minute."""
    change = update(UserSessionRow).where(
        UserSessionRow.token_sha256 == token_hash(token), UserSessionRow.seen_at < now - _SEEN_STEP
    )
    return took_place(session, change.values(seen_at=now))


def end_session(session: Session, token: str) -> None:
    """Sign a browser out; does nothing for one that is not signed in."""
    session.execute(
        delete(UserSessionRow).where(UserSessionRow.token_sha256 == token_hash(token)), execution_options=AS_READ
    )


def purge_sessions(session: Session, now: datetime) -> None:
    """Forget sessions and links that work no more."""
    over = or_(UserSessionRow.expires_at <= now, UserSessionRow.seen_at <= now - IDLE_LIFE)
    session.execute(delete(UserSessionRow).where(over), execution_options=AS_READ)
    session.execute(delete(LoginLinkRow).where(LoginLinkRow.expires_at <= now), execution_options=AS_READ)
