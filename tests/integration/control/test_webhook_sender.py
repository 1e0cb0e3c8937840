"""Jobs that end tell those who want to know: once per message id, signed, again after failures, never to nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from sllm_tasks.control.webhook_sender import WebhookSender
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.jobs import end_jobs
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.outbox import Tried, due_message, list_messages, note_try, send_again, take_message
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import DeliveryStatus, WebhookEvent
from sllm_tasks.ledger.tables import WebhookDeliveryRow, WebhookRow
from sllm_tasks.ledger.webhooks import NewWebhook, add_webhook, delete_webhook, disable_webhook, get_webhook
from sllm_tasks.networks import parse_networks
from sllm_tasks.webhooks.signatures import new_secret, signed_headers, tenant_secret
from tests.integration.ledger.factories import TENANT, add_job, failure, make_job, success
from tests.support.receiver import Receiver, receiving

SECRET = new_secret()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def sender(database: Database) -> WebhookSender:
    return WebhookSender(database, "the cluster's", parse_networks("127.0.0.1"))


def _add_webhook(database: Database, url: str, *events: WebhookEvent) -> str:
    webhook_id, now = new_id("webhook"), datetime.now(UTC)
    with database.transaction() as session:
        ensure_tenant(session, TENANT, now=now)
        new = NewWebhook(
            id=webhook_id, tenant=TENANT, url=url, events=events or WebhookEvent, secret=SECRET, created_at=now
        )
        add_webhook(session, new)
    return webhook_id


def _end_a_job(database: Database, webhook: dict[str, object] | None = None) -> str:
    with database.transaction() as session:
        job_id = add_job(session, make_job(webhook=webhook))
        end_jobs(session, [replace(success(job_id), at=datetime.now(UTC)), failure(job_id)])
    return job_id


def _messages(database: Database) -> tuple[WebhookDeliveryRow, ...]:
    with database.reading() as session:
        return list_messages(session, PageRequest(newest_first=False)).rows


def _send_all(sender: WebhookSender) -> None:
    while sender.send_next():
        pass


def test_the_end_of_a_job_is_told_once_and_signed(
    database: Database, sender: WebhookSender, receiver: Receiver
) -> None:
    _add_webhook(database, receiver.url)
    _add_webhook(database, receiver.url, WebhookEvent.JOB_FAILED)
    job_id = _end_a_job(database)
    _send_all(sender)
    (message,) = _messages(database)
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["type"], told["data"]["id"], told["data"]["status"]) == ("job.succeeded", job_id, "succeeded")
    assert told["data"]["metadata"] == {"a": "b"}
    assert "hi" not in told["data"].values()
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    assert signed_headers(SECRET, message.id, body, now=at).items() <= headers.items()
    assert (message.status, message.num_attempts, message.http_status) == (DeliveryStatus.DELIVERED, 1, 204)


def test_a_job_may_bring_a_url_of_its_own_which_its_tenants_secret_signs(
    database: Database, sender: WebhookSender, receiver: Receiver
) -> None:
    _end_a_job(database, {"url": receiver.url, "events": ["job.failed"]})
    _end_a_job(database, {"url": receiver.url, "events": ["job.succeeded"]})
    _send_all(sender)
    ((headers, body),) = receiver.got
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    secret = tenant_secret("the cluster's", TENANT)
    assert (
        headers["webhook-signature"] == signed_headers(secret, headers["webhook-id"], body, now=at)["webhook-signature"]
    )


def test_a_message_that_was_refused_is_tried_again_under_its_id(
    database: Database, sender: WebhookSender, receiver: Receiver
) -> None:
    receiver.statuses = [500, 204]
    webhook_id = _add_webhook(database, receiver.url)
    _end_a_job(database)
    # Once: on a slow machine it may be due again soon after.
    assert sender.send_next()
    (message,) = _messages(database)
    assert (message.status, message.http_status, message.error) == (
        DeliveryStatus.PENDING, 500, "the receiver answered 500"
    )  # fmt: skip
    assert message.due_at is not None
    assert message.due_at > datetime.now(UTC)
    with database.transaction() as session:
        assert get_webhook(session, webhook_id).failing_since is not None
        send_again(session, message.id, now=datetime.now(UTC))
    assert sender.send_next()
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [message.id] * 2
    with database.reading() as session:
        assert get_webhook(session, webhook_id).failing_since is None


def test_a_receiver_that_has_gone_hears_nothing_more(
    database: Database, sender: WebhookSender, receiver: Receiver
) -> None:
    receiver.statuses = [410]
    webhook_id = _add_webhook(database, receiver.url)
    _end_a_job(database)
    _send_all(sender)
    _end_a_job(database)
    with database.reading() as session:
        assert get_webhook(session, webhook_id).disabled_reason == "the receiver answered 410 Gone"
    assert [message.status for message in _messages(database)] == [DeliveryStatus.FAILED]


def test_an_address_that_is_not_public_is_refused_and_the_log_says_so(database: Database, receiver: Receiver) -> None:
    _add_webhook(database, receiver.url)
    _end_a_job(database)
    assert WebhookSender(database, "", ()).send_next()
    assert receiver.got == []
    assert "may not reach" in (_messages(database)[0].error or "")


def test_a_try_whose_sender_died_is_made_again_and_the_dead_one_cannot_speak(
    database: Database, sender: WebhookSender, receiver: Receiver
) -> None:
    _add_webhook(database, receiver.url)
    _end_a_job(database)
    (message,) = _messages(database)
    before = datetime.now(UTC) - timedelta(minutes=2)
    with database.transaction() as session:
        session.merge(message).due_at = before
    (message,) = _messages(database)
    with database.transaction() as session:
        assert take_message(session, message, now=before)
        assert not take_message(session, message, now=before)
    _send_all(sender)
    assert len(receiver.got) == 1
    with database.transaction() as session:
        late = Tried(delivery_id=message.id, attempt=1, at=before, http_status=None, error="late")
        assert not note_try(session, late)


def test_a_webhook_to_which_nothing_gets_for_three_days_is_disabled_with_what_waits(database: Database) -> None:
    webhook_id = _add_webhook(database, "http://127.0.0.1:1/")
    _end_a_job(database)
    now = datetime.now(UTC)
    for days in (0, 2, 4):
        at = now + timedelta(days=days)
        with database.transaction() as session:
            assert get_webhook(session, webhook_id).disabled_at is None
            row = list_messages(session, PageRequest()).rows[0]
            assert take_message(session, row, now=at)
            tried = Tried(
                delivery_id=row.id, attempt=row.num_attempts + 1, at=at, http_status=None, error="refused", next_at=at
            )
            assert note_try(session, tried)
    with database.transaction() as session:
        assert "nothing arrived since" in (get_webhook(session, webhook_id).disabled_reason or "")
        assert not disable_webhook(session, webhook_id, "again", now=now)
    assert _messages(database)[0].status is DeliveryStatus.FAILED


def test_a_busy_receiver_and_a_busy_tenant_leave_room_for_others(database: Database) -> None:
    slow, other = "http://127.0.0.1:1/slow", "http://127.0.0.1:1/other"
    for url in (slow, other):
        _add_webhook(database, url)
    _end_a_job(database)
    now = datetime.now(UTC)
    with database.reading() as session:
        found = due_message(session, busy_urls={slow}, busy_tenants=(), now=now)
        assert found is not None
        assert found.url == other
        assert due_message(session, busy_urls=(), busy_tenants={TENANT}, now=now) is None


def test_a_webhook_that_is_deleted_while_a_message_to_it_is_sent_ends_nobody(
    database: Database, sender: WebhookSender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_webhook(database, receiver.url)
    _end_a_job(database)

    def delete_first(_: Session, wanted: str) -> WebhookRow:
        with database.transaction() as session:
            delete_webhook(session, wanted)
        with database.reading() as session:
            return get_webhook(session, wanted)

    monkeypatch.setattr("sllm_tasks.control.webhook_sender.get_webhook", delete_first)
    assert sender.send_next()
    assert not sender.send_next()
    assert receiver.got == []
