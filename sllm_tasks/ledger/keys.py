"""API keys `sllm_<id>_<secret><check>`: made once, kept as a hash, recognised without leaking time.

`id` is 8 characters and public; `secret` is 256 random bits in 43 characters; `check` is a CRC-32 in 6, so that a
mistyped key is refused without asking the database and a leaked one is recognised by scanners.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.tables import ApiKeyRow, TenantRow
from sllm_tasks.ledger.writes import insert_if_absent, took_place

_BASE62 = string.digits + string.ascii_letters
_FORM = re.compile(r"sllm_(?P<id>[0-9a-z]{8})_(?P<secret>[A-Za-z0-9_-]{43})(?P<check>[0-9A-Za-z]{6})")
#: `last_used_at` is for people; a write per request would cost more than the request.
_LAST_USED_STEP = timedelta(minutes=1)


class Scope(StrEnum):
    """What a key allows."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    MODELS_READ = "models:read"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that was recognised."""

    id: str
    tenant: str
    scopes: frozenset[Scope]


def ensure_tenant(session: Session, tenant: str, *, now: datetime) -> bool:
    """Record a tenant; False if it is recorded already."""
    return insert_if_absent(session, TenantRow, {"id": tenant, "created_at": now})


def new_key_id() -> str:
    """The public part of a key that is yet to be made."""
    return "".join(secrets.choice(string.digits + string.ascii_lowercase) for _ in range(8))


def create_key(  # noqa: PLR0913 - all by keyword, and each is a column
    session: Session,
    *,
    key_id: str | None = None,
    tenant: str,
    name: str,
    scopes: frozenset[Scope],
    now: datetime,
    expires_at: datetime | None = None,
) -> tuple[ApiKeyRow, str]:
    """Make a key and return it with its plain text, which is not kept anywhere."""
    key_id = key_id or new_key_id()
    secret = secrets.token_urlsafe(32)
    row = ApiKeyRow(
        id=key_id,
        tenant=tenant,
        name=name,
        secret_sha256=_hash(secret),
        scopes=sorted(scopes),
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, f"sllm_{key_id}_{secret}{_check(key_id, secret)}"


def verify_key(session: Session, plain: str, *, now: datetime) -> ApiKey | None:
    """Recognise a key; None if it is malformed, unknown, wrong, revoked, expired or its tenant is disabled."""
    match = _FORM.fullmatch(plain)
    if match is None or match["check"] != _check(match["id"], match["secret"]):
        return None
    row = session.scalar(
        select(ApiKeyRow)
        .join(TenantRow, TenantRow.id == ApiKeyRow.tenant)
        .where(
            ApiKeyRow.id == match["id"],
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
            TenantRow.disabled_at.is_(None),
        )
    )
    if row is None or not hmac.compare_digest(row.secret_sha256, _hash(match["secret"])):
        return None
    return ApiKey(id=row.id, tenant=row.tenant, scopes=frozenset(map(Scope, row.scopes)))


def note_key_used(session: Session, key_id: str, *, now: datetime) -> bool:
    """Record a use of a key; False if one was recorded within the last minute."""
    return took_place(
        session,
        update(ApiKeyRow)
        .where(
            ApiKeyRow.id == key_id,
            or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < now - _LAST_USED_STEP),
        )
        .values(last_used_at=now),
    )


def revoke_key(session: Session, key_id: str, *, now: datetime, tenant: str | None = None) -> bool:
    """Revoke a key; False if it is unknown, revoked already or, given a tenant, somebody else's."""
    change = update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
    if tenant is not None:
        change = change.where(ApiKeyRow.tenant == tenant)
    return took_place(session, change.values(revoked_at=now))


def get_key(session: Session, key_id: str) -> ApiKeyRow:
    """Read a key, revoked or not; raises NotFoundError."""
    row = session.get(ApiKeyRow, key_id, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no key {key_id}")
    return row


def list_keys(session: Session, tenant: str | None = None) -> Sequence[ApiKeyRow]:
    """List a tenant's keys, or everybody's for None, oldest first, revoked ones included."""
    query = select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id)
    if tenant is not None:
        query = query.where(ApiKeyRow.tenant == tenant)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def _hash(secret: str) -> bytes:
    # A fast hash is enough: 256 random bits cannot be guessed, whatever a guess costs.
    return hashlib.sha256(secret.encode()).digest()


def _check(key_id: str, secret: str) -> str:
    value = zlib.crc32(f"{key_id}_{secret}".encode())
    digits = []
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
