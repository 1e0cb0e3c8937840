"""Requests that are sent again take effect once, and are answered as the first time whatever happened since."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from sllm_tasks.ledger.tables import IdempotencyKeyRow
from tests.support.web import MODEL, Web

_BODY = {"model": MODEL, "input": {"prompt": "one two"}}


def _post(web: Web, key: str = "k", **fields: Any) -> Any:
    return web.http.post("/api/v1/jobs", json={**_BODY, **fields}, headers={**web.auth, "Idempotency-Key": key})


def _put(web: Web, **fields: Any) -> Any:
    return web.http.put("/api/v1/jobs/my-own-id", json={**_BODY, **fields}, headers=web.auth)


def _withdraw_model(web: Web) -> None:
    assert web.http.delete(f"/api/v1/models/{MODEL}", headers=web.auth).status_code == 202
    deadline_s = time.monotonic() + 20
    while web.http.post("/api/v1/jobs", json=_BODY, headers=web.auth).status_code == 202:
        assert time.monotonic() < deadline_s, "the model still takes jobs"
        time.sleep(0.1)


@pytest.mark.parametrize("send", [_post, _put])
def test_a_request_that_was_accepted_is_answered_again_when_its_model_is_gone(
    web: Web, send: Callable[..., Any]
) -> None:
    first = send(web)
    _withdraw_model(web)
    again = send(web)
    assert (again.status_code, again.json["id"]) == (200 if send is _put else 202, first.json["id"])
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(("send", "status"), [(_post, 422), (_put, 409)])
def test_another_body_is_told_apart_from_the_first_when_its_model_is_gone(
    web: Web, send: Callable[..., Any], status: int
) -> None:
    send(web)
    _withdraw_model(web)
    other = send(web, priority=1)
    assert other.status_code == status
    assert "another body" in other.json["detail"]
    assert _post(web, key="new").json["code"] == "model_not_ready"


def test_another_body_is_told_apart_even_where_it_could_not_be_accepted(web: Web) -> None:
    _post(web)
    other = _post(web, priority=99)
    assert (other.status_code, "another body" in other.json["detail"]) == (422, True)


def test_a_retry_that_was_accepted_is_answered_again_when_the_model_is_gone(web: Web) -> None:
    path = f"/api/v1/jobs/{web.submit()}"
    web.http.post(f"{path}/cancel", headers=web.auth)
    keyed = {**web.auth, "Idempotency-Key": "k"}
    first = web.http.post(f"{path}/retry", headers=keyed)
    _withdraw_model(web)
    again = web.http.post(f"{path}/retry", headers=keyed)
    assert (first.status_code, again.status_code, again.json["id"]) == (202, 202, first.json["id"])


def test_a_key_is_forgotten_after_a_day_and_an_id_never(web: Web) -> None:
    posted, put = _post(web), _put(web)
    with web.services.ledger.transaction() as session:
        session.execute(update(IdempotencyKeyRow).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert _post(web).json["id"] != posted.json["id"]
    again, other = _put(web), _put(web, priority=1)
    assert (again.status_code, again.json["id"]) == (200, put.json["id"])
    assert (other.status_code, other.json["code"]) == (409, "conflict")


def test_an_id_whose_job_was_deleted_stays_taken(web: Web) -> None:
    _put(web)
    web.http.post("/api/v1/jobs/my-own-id/cancel", headers=web.auth)
    assert web.http.delete("/api/v1/jobs/my-own-id", headers=web.auth).status_code == 204
    assert _put(web).status_code == 410
    assert _put(web, priority=1).status_code == 409


def test_putting_another_body_is_not_blamed_on_an_idempotency_key(web: Web) -> None:
    _put(web)
    other = _put(web, priority=1)
    assert other.status_code == 409
    assert "my-own-id" in other.json["detail"]
    assert "key" not in other.json["detail"].lower()
