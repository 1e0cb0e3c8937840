"""Requests that may be sent again: known by a key of the client's, or by the id that the client chose for its job.

Whoever sends the same body again is told what the first request made; another body is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError, ErrorCode, SllmError
from sllm_tasks.ledger.idempotency import RequestKey, Reservation, ReservationState, look_up, reserve
from sllm_tasks.ledger.jobs import get_job_by_client_id

#: How long a key is recognised; a job's own id is for ever.
_KEY_LIFE: Final = timedelta(hours=24)


class IdempotencyMismatchError(SllmError):
    """The key of the request was used before, for a request with another body."""

    code = ErrorCode.INVALID_REQUEST


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request that must take effect once, however often it is sent with its key."""

    key: RequestKey
    #: SHA-256 of its body.
    fingerprint: bytes

    def find(self, session: Session, now: datetime) -> str | None:
        """Id of what an earlier request has made, None if there was none; raises IdempotencyMismatchError."""
        first = look_up(session, self.key, fingerprint=self.fingerprint, now=now)
        return None if first is None else _require_match(first).target_id

    def claim(self, session: Session, target_id: str, now: datetime) -> str | None:
        """Take the key for what this transaction makes, unless an earlier request has; then as `find`."""
        expires_at = now + _KEY_LIFE
        first = reserve(
            session, self.key, fingerprint=self.fingerprint, target_id=target_id, now=now, expires_at=expires_at
        )
        # The key is committed with what it stands for, so whoever finds it finds that as well.
        return None if _require_match(first).state is ReservationState.NEW else first.target_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRequest:
    """A request for a job under an id that the client chose."""

    tenant: str
    client_id: str
    #: SHA-256 of its body.
    fingerprint: bytes

    def find(self, session: Session, _now: datetime) -> str | None:
        """Id of the job of that name, None if there is none; raises ConflictError if it was asked for differently."""
        row = get_job_by_client_id(session, self.tenant, self.client_id)
        if row is None:
            return None
        if row.fingerprint != self.fingerprint:
            raise ConflictError(f"the id {self.client_id} belongs to a job that was put with another body")
        return row.id


RepeatableRequest = KeyedRequest | NamedRequest


def _require_match(first: Reservation) -> Reservation:
    if first.state is ReservationState.MISMATCH:
        raise IdempotencyMismatchError("this Idempotency-Key was used before, for a request with another body")
    return first
