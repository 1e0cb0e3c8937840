from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError
from sllm_tasks.ledger import idempotency
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.idempotency import RequestKey, Reservation, ReservationState
from sllm_tasks.ledger.keys import ensure_tenant
from tests.integration.ledger.factories import NOW, TENANT

KEY = RequestKey(tenant=TENANT, route="POST /api/v1/jobs", key="k")
EXPIRY = NOW + timedelta(hours=24)
FINGERPRINT = hashlib.sha256(b"body").digest()
OTHER = hashlib.sha256(b"other body").digest()


@pytest.fixture(autouse=True)
def _tenant(database: Database) -> None:
    with database.transaction() as session:
        ensure_tenant(session, TENANT, now=NOW)


def _reserve(
    session: Session, target_id: str, *, fingerprint: bytes = FINGERPRINT, now: datetime = NOW, key: RequestKey = KEY
) -> Reservation:
    return idempotency.reserve(
        session, key, fingerprint=fingerprint, target_id=target_id, now=now, expires_at=now + timedelta(hours=24)
    )


def test_a_repeated_request_learns_what_the_first_one_made(database: Database) -> None:
    with database.transaction() as session:
        assert _reserve(session, "job_1").state is ReservationState.NEW
    with database.transaction() as session:
        assert _reserve(session, "job_2") == Reservation(state=ReservationState.IN_FLIGHT, target_id="job_1")


def test_a_repeated_request_gets_the_stored_answer_byte_for_byte(database: Database) -> None:
    with database.transaction() as session:
        _reserve(session, "job_1")
        assert idempotency.store_answer(session, KEY, status=202, body=b'{"id": "\0"}')
        assert not idempotency.store_answer(session, KEY, status=500, body=b"later")
    with database.transaction() as session:
        answer = _reserve(session, "job_2")
        assert answer.state is ReservationState.ANSWERED
        assert (answer.target_id, answer.status, answer.body) == ("job_1", 202, b'{"id": "\0"}')


def test_a_key_used_for_another_body_is_a_mismatch_answered_or_not(database: Database) -> None:
    with database.transaction() as session:
        _reserve(session, "job_1")
        assert _reserve(session, "job_2", fingerprint=OTHER).state is ReservationState.MISMATCH
        idempotency.store_answer(session, KEY, status=202, body=b"")
        assert _reserve(session, "job_2", fingerprint=OTHER).state is ReservationState.MISMATCH


def test_a_transaction_that_fails_leaves_its_key_unused(database: Database) -> None:
    def _reserve_and_fail(session: Session) -> None:
        _reserve(session, "job_1")
        raise ConflictError

    with pytest.raises(ConflictError), database.transaction() as session:
        _reserve_and_fail(session)
    with database.transaction() as session:
        assert _reserve(session, "job_2").state is ReservationState.NEW


def test_keys_of_other_routes_and_tenants_are_other_keys(database: Database) -> None:
    with database.transaction() as session:
        ensure_tenant(session, "somebody", now=NOW)
        _reserve(session, "job_1")
        for key in (
            RequestKey(tenant="somebody", route=KEY.route, key=KEY.key),
            RequestKey(tenant=TENANT, route="POST /v1/completions", key=KEY.key),
        ):
            assert _reserve(session, "job_2", key=key).state is ReservationState.NEW


def test_a_key_that_outlived_its_life_is_unused_again(database: Database) -> None:
    with database.transaction() as session:
        _reserve(session, "job_1")
        assert _reserve(session, "job_2", now=EXPIRY, fingerprint=OTHER).state is ReservationState.NEW


def test_old_keys_are_purged_and_young_ones_kept(database: Database) -> None:
    with database.transaction() as session:
        _reserve(session, "job_1")
        assert idempotency.purge_keys(session, EXPIRY - timedelta(seconds=1)) == 0
        assert idempotency.purge_keys(session, EXPIRY) == 1
