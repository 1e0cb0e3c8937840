"""Queues over REST: who waits, holding jobs back, and how many may wait."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete

from sllm_tasks.cluster import EVERY_MODEL
from sllm_tasks.config import Settings
from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.tables import ModelRow
from tests.support.web import MODEL, Web, add_key

MOVES = ("pause", "resume")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two jobs of a tenant may wait."""
    return settings.model_copy(update={"max_queued_jobs": 2})


def queues(web: Web) -> dict[str, dict[str, Any]]:
    response = web.http.get("/api/v1/queues", headers=web.auth)
    assert response.status_code == 200, response.text
    return {queue["id"]: queue for queue in response.json["data"]}


def move(web: Web, name: str, verb: str) -> dict[str, Any]:
    response = web.http.post(f"/api/v1/queues/{name}/{verb}", headers=web.auth)
    assert response.status_code == 200, response.text
    moved: dict[str, Any] = response.json
    return moved


def place_of(web: Web, job_id: str) -> object:
    view = web.services.live.jobs.view(job_id)
    assert view is not None
    return view.gpu


@pytest.mark.parametrize("name", [MODEL, EVERY_MODEL])
def test_jobs_of_a_paused_queue_are_accepted_and_wait_although_a_replica_is_warm(web: Web, name: str) -> None:
    paused = move(web, name, "pause")
    assert (paused["paused"], paused["paused_by"]) == (True, web.api_key.split("_")[1])
    job_id = web.submit()
    assert place_of(web, job_id) is None
    shown = queues(web)
    assert {each: shown[each]["depth"] for each in (MODEL, EVERY_MODEL)} == {MODEL: 1, EVERY_MODEL: 1}
    assert shown[MODEL]["oldest_age_ms"] >= 0
    web.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=web.auth)
    assert move(web, name, "resume")["paused"] is False
    assert place_of(web, web.submit()) is not None


def test_a_queue_that_outlives_its_model_is_resumed_and_shown_for_the_last_time(web: Web) -> None:
    move(web, MODEL, "pause")
    with web.services.ledger.transaction() as session:
        session.execute(delete(ModelRow))
    assert queues(web)[MODEL]["paused"] is True
    assert move(web, MODEL, "resume")["paused"] is False
    assert list(queues(web)) == [EVERY_MODEL]


def test_a_job_takes_no_place_by_itself_while_others_wait_for_its_model(web: Web) -> None:
    move(web, MODEL, "pause")
    web.submit()
    move(web, MODEL, "resume")
    assert place_of(web, web.submit()) is None


def test_pausing_twice_changes_nothing_more_and_leaves_one_audit_row(web: Web) -> None:
    for verb in (*MOVES, *MOVES):
        first, second = move(web, MODEL, verb), move(web, MODEL, verb)
        assert first["paused_at"] == second["paused_at"]
    with web.services.ledger.reading() as session:
        rows = list_audit(session, PageRequest(newest_first=False), target=MODEL).rows
    assert [row.action for row in rows] == ["queue.pause", "queue.resume"] * 2


@pytest.mark.parametrize("verb", MOVES)
def test_a_queue_that_is_neither_paused_nor_a_models_is_not_found(web: Web, verb: str) -> None:
    response = web.http.post(f"/api/v1/queues/nobody/{verb}", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (404, "not_found")


@pytest.mark.parametrize("verb", MOVES)
def test_moving_queues_takes_the_right_to_write(web: Web, verb: str) -> None:
    reader = add_key(web.services.ledger, Scope.ADMIN_READ)
    response = web.http.post(f"/api/v1/queues/{MODEL}/{verb}", headers={"Authorization": f"Bearer {reader}"})
    assert response.status_code == 403


def test_a_tenant_with_too_many_waiting_jobs_is_told_to_come_again_and_others_are_not(web: Web) -> None:
    move(web, MODEL, "pause")
    accepted = [web.submit(), web.submit()]
    body = {"model": MODEL, "input": {"prompt": "one"}}
    refused = web.http.post("/api/v1/jobs", json=body, headers=web.auth)
    assert (refused.status_code, refused.json["code"]) == (429, "quota_exceeded")
    assert refused.mimetype == "application/problem+json"
    assert int(refused.headers["Retry-After"]) >= 1
    other = add_key(web.services.ledger, tenant="other")
    response = web.http.post("/api/v1/jobs", json=body, headers={"Authorization": f"Bearer {other}"})
    assert response.status_code == 202
    web.http.post(f"/api/v1/jobs/{accepted[0]}/cancel", headers=web.auth)
    web.submit()


def test_a_request_that_was_accepted_is_answered_again_although_the_quota_is_full(web: Web) -> None:
    move(web, MODEL, "pause")
    headers, body = {**web.auth, "Idempotency-Key": "once"}, {"model": MODEL, "input": {"prompt": "one"}}
    first = web.http.post("/api/v1/jobs", json=body, headers=headers)
    web.submit()
    again = web.http.post("/api/v1/jobs", json=body, headers=headers)
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
