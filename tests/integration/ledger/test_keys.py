from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from sllm_tasks.ledger import keys
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.tables import ApiKeyRow, TenantRow
from tests.integration.ledger.factories import NOW, TENANT

SCOPES = frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE})


def _create(session: Session, tenant: str = TENANT) -> tuple[ApiKeyRow, str]:
    keys.ensure_tenant(session, tenant, now=NOW)
    return keys.create_key(session, tenant=tenant, name="laptop", scopes=SCOPES, now=NOW)


def test_a_key_is_recognised_with_its_tenant_and_scopes(database: Database) -> None:
    with database.transaction() as session:
        row, plain = _create(session)
    with database.reading() as session:
        found = keys.verify_key(session, plain, now=NOW)
        assert found == keys.ApiKey(id=row.id, tenant=TENANT, scopes=SCOPES)


def test_the_plain_text_of_a_key_is_not_in_the_ledger(database: Database) -> None:
    with database.transaction() as session:
        row, plain = _create(session)
        assert plain.startswith(f"sllm_{row.id}_")
        assert len(plain) == 5 + 8 + 1 + 43 + 6
        secret = plain[14:57]
        assert not any(secret.encode() in repr(value).encode() for value in vars(row).values())


@pytest.mark.parametrize("position", [0, 5, 14, 40, 56, 57, 62])
def test_a_key_with_one_wrong_character_is_refused(database: Database, position: int) -> None:
    with database.transaction() as session:
        _, plain = _create(session)
        wrong = "a" if plain[position] != "a" else "b"
        assert keys.verify_key(session, plain[:position] + wrong + plain[position + 1 :], now=NOW) is None


@pytest.mark.parametrize("plain", ["", "sllm_", "sllm_abcdefgh_" + "x" * 49, "Bearer x", "\0" * 63, "é" * 63])
def test_what_is_not_a_key_is_refused(database: Database, plain: str) -> None:
    with database.reading() as session:
        assert keys.verify_key(session, plain, now=NOW) is None


def test_a_well_formed_secret_of_another_key_is_refused(database: Database) -> None:
    with database.transaction() as session:
        first, _ = _create(session)
        second, plain = _create(session)
        session.execute(update(ApiKeyRow).filter_by(id=second.id).values(secret_sha256=first.secret_sha256))
        assert keys.verify_key(session, plain, now=NOW) is None


def test_a_revoked_key_is_refused_from_then_on(database: Database) -> None:
    with database.transaction() as session:
        row, plain = _create(session)
        assert not keys.revoke_key(session, row.id, now=NOW, tenant="somebody")
        assert keys.revoke_key(session, row.id, now=NOW, tenant=TENANT)
        assert not keys.revoke_key(session, row.id, now=NOW)
        assert keys.verify_key(session, plain, now=NOW) is None


def test_an_expired_key_and_one_of_a_disabled_tenant_are_refused(database: Database) -> None:
    with database.transaction() as session:
        keys.ensure_tenant(session, TENANT, now=NOW)
        end = NOW + timedelta(days=1)
        _, plain = keys.create_key(session, tenant=TENANT, name="x", scopes=SCOPES, now=NOW, expires_at=end)
        assert keys.verify_key(session, plain, now=NOW) is not None
        assert keys.verify_key(session, plain, now=end) is None
        session.execute(update(TenantRow).values(disabled_at=NOW))
        assert keys.verify_key(session, plain, now=NOW) is None


def test_the_use_of_a_key_is_written_down_once_a_minute_at_most(database: Database) -> None:
    with database.transaction() as session:
        row, _ = _create(session)
        assert keys.note_key_used(session, row.id, now=NOW)
        assert not keys.note_key_used(session, row.id, now=NOW + timedelta(seconds=59))
        assert keys.note_key_used(session, row.id, now=NOW + timedelta(seconds=61))


def test_keys_are_listed_by_tenant(database: Database) -> None:
    with database.transaction() as session:
        first, _ = _create(session)
        second, _ = _create(session, "somebody")
        assert [row.id for row in keys.list_keys(session, TENANT)] == [first.id]
        assert {row.id for row in keys.list_keys(session)} == {first.id, second.id}
