"""How often a password may be guessed: counted in the ledger, so that all web processes count together."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sllm_tasks.ledger.tables import LoginFailuresRow
from sllm_tasks.ledger.writes import AS_READ, insert_if_absent, took_place

#: Wrong passwords are forgotten after this time.
WINDOW: Final = timedelta(minutes=15)
#: Of one address for one user; more for one address, and for one user from everywhere: whoever knows an admin's name
#: should not be able to keep them out by a few guesses.
_MAX_OF_BOTH, _MAX_OF_ADDRESS, _MAX_OF_USER = 10, 50, 500


def may_try(session: Session, user: str, address: str, *, now: datetime) -> bool:
    """Whether another password may be tried."""
    limits = _limits(user, address)
    query = select(LoginFailuresRow.bucket, LoginFailuresRow.num_failures).where(
        LoginFailuresRow.bucket.in_(limits), LoginFailuresRow.forgotten_at > now
    )
    return all(row.num_failures < limits[row.bucket] for row in session.execute(query))


def note_failure(session: Session, user: str, address: str, *, now: datetime) -> None:
    """Count a wrong password."""
    for bucket in _limits(user, address):
        anew = {"num_failures": 1, "forgotten_at": now + WINDOW}
        if insert_if_absent(session, LoginFailuresRow, {"bucket": bucket, **anew}):
            continue
        of_bucket = update(LoginFailuresRow).where(LoginFailuresRow.bucket == bucket)
        if not took_place(session, of_bucket.where(LoginFailuresRow.forgotten_at <= now).values(**anew)):
            counted = of_bucket.values(num_failures=LoginFailuresRow.num_failures + 1)
            session.execute(counted, execution_options=AS_READ)


def note_success(session: Session, user: str, address: str) -> None:
    """Forget the wrong passwords of whoever knew the right one."""
    both = next(iter(_limits(user, address)))
    session.execute(delete(LoginFailuresRow).where(LoginFailuresRow.bucket == both), execution_options=AS_READ)


def purge_failures(session: Session, now: datetime) -> None:
    """Forget what no longer counts."""
    session.execute(delete(LoginFailuresRow).where(LoginFailuresRow.forgotten_at <= now), execution_options=AS_READ)


def _limits(user: str, address: str) -> dict[str, int]:
    # Hashed, because what people type as a name is sometimes their password.
    return {
        _bucket("both", user, address): _MAX_OF_BOTH,
        _bucket("address", address): _MAX_OF_ADDRESS,
        _bucket("user", user): _MAX_OF_USER,
    }


def _bucket(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
