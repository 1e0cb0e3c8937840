"""Requests that must not take effect twice.

`reserve` runs in the transaction that makes the job or operation: either both are committed or neither, and of two
requests with one key the second waits for the first and then sees what it made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ScalarResult, delete, select, update
from sqlalchemy.orm import Session

from sllm_tasks.ledger.tables import IdempotencyKeyRow
from sllm_tasks.ledger.writes import AS_READ, delete_some, insert_if_absent, took_place


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """What makes a request the same one."""

    tenant: str
    #: Method and path.
    route: str
    key: str


class ReservationState(StrEnum):
    """What to do with a request."""

    #: It is the first: go on.
    NEW = "new"
    #: The first has not been answered yet.
    IN_FLIGHT = "in_flight"
    #: The first has been answered: give the same answer.
    ANSWERED = "answered"
    #: The key was used for a request with another body.
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What is known of a request's key."""

    state: ReservationState
    #: What the first request made: a job, an operation or an API key.
    target_id: str
    status: int | None = None
    body: bytes | None = None


def reserve(
    session: Session, key: RequestKey, *, fingerprint: bytes, target_id: str, now: datetime, expires_at: datetime
) -> Reservation:
    """Claim a key for `target_id`, unless it was claimed before; `fingerprint` is the SHA-256 of the body."""
    # A key that outlived its life is as good as unused; two that find it so are told apart by the insert.
    session.execute(
        delete(IdempotencyKeyRow).filter_by(**asdict(key)).where(IdempotencyKeyRow.expires_at <= now),
        execution_options=AS_READ,
    )
    values = {"fingerprint": fingerprint, "target_id": target_id, "created_at": now, "expires_at": expires_at}
    if insert_if_absent(session, IdempotencyKeyRow, {**asdict(key), **values}):
        return Reservation(state=ReservationState.NEW, target_id=target_id)
    return _seen(_read(session, key).one(), fingerprint)


def look_up(session: Session, key: RequestKey, *, fingerprint: bytes, now: datetime) -> Reservation | None:
    """What is known of a key that may have been claimed before; None if it was not, or has outlived its life."""
    first = _read(session, key).one_or_none()
    return None if first is None or first.expires_at <= now else _seen(first, fingerprint)


def _read(session: Session, key: RequestKey) -> ScalarResult[IdempotencyKeyRow]:
    return session.scalars(select(IdempotencyKeyRow).filter_by(**asdict(key)).execution_options(populate_existing=True))


def _seen(first: IdempotencyKeyRow, fingerprint: bytes) -> Reservation:
    if first.fingerprint != fingerprint:
        return Reservation(state=ReservationState.MISMATCH, target_id=first.target_id)
    if first.response_status is None:
        return Reservation(state=ReservationState.IN_FLIGHT, target_id=first.target_id)
    return Reservation(
        state=ReservationState.ANSWERED,
        target_id=first.target_id,
        status=first.response_status,
        body=first.response_body,
    )


def store_answer(session: Session, key: RequestKey, *, status: int, body: bytes) -> bool:
    """Keep the answer for repetitions of the request; False if one is kept already or the key is gone."""
    return took_place(
        session,
        update(IdempotencyKeyRow)
        .filter_by(**asdict(key))
        .where(IdempotencyKeyRow.response_status.is_(None))
        .values(response_status=status, response_body=body),
    )


def purge_keys(session: Session, now: datetime, limit: int = 500) -> int:
    """Forget up to `limit` keys that have outlived their life; returns how many."""
    return delete_some(session, IdempotencyKeyRow, IdempotencyKeyRow.expires_at <= now, limit)
