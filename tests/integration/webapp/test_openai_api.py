"""`/v1` where things go wrong: overload, stops, failures; what the package's users see is in the acceptance tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update

from sllm_tasks.errors import UnavailableError
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.job_lists import JobFilter, list_jobs
from sllm_tasks.ledger.keys import revoke_key
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.tables import TenantRow
from tests.support.processes import wait_until
from tests.support.web import MODEL, Web, add_key, add_model
from webapp import keyring

_CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4}


def _post(web: Web, path: str = "chat/completions", headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {**_CHAT, **fields} if path.startswith("chat") else {"model": MODEL, "prompt": "one", **fields}
    return web.http.post(f"/v1/{path}", json=body, headers={**web.auth, **(headers or {})})


def _jobs(web: Web) -> list[Any]:
    with web.services.ledger.reading() as session:
        return list(list_jobs(session, None, JobFilter(), PageRequest(limit=100, newest_first=False)).rows)


@contextmanager
def _played(web: Web, act: Any, num_jobs: int = 1) -> Iterator[None]:
    """Inside the block somebody does `act` with each of the next jobs."""

    def play() -> None:
        try:
            seen: set[str] = set()
            while len(seen) < num_jobs:
                wait_until(lambda: len(_jobs(web)) > len(seen), "a job")
                job_id = next(job.id for job in _jobs(web) if job.id not in seen)
                # Its row is there before its live record is.
                wait_until(lambda job_id=job_id: web.services.live.jobs.view(job_id), "its live record")
                seen.add(job_id)
                act(job_id)
        except BaseException:
            # Nobody would end what the request waits for.
            web.services.stopping.set()
            raise

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "options"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url", {}),
        ("DELETE", "/v1/chat/completions", 405, "method_not_allowed", {}),
        ("GET", "/v1/models", 401, "invalid_api_key", {"headers": {}}),
        ("POST", "/v1/completions", 415, "unsupported_media_type", {"data": "x"}),
        ("POST", "/v1/completions", 400, "malformed_body", {"data": "{", "content_type": "application/json"}),
        (
            "POST",
            "/v1/completions",
            413,
            "body_too_large",
            {"data": b" " * 5_000_000, "content_type": "application/json"},
        ),
        ("POST", "/v1/completions", 400, "missing_required_parameter", {"json": {"model": MODEL}}),
        ("GET", "/v1/files?limit=0", 400, "invalid_value", {}),
        ("GET", "/v1/batches/batch_x", 404, "not_found", {}),
    ],
)
def test_every_error_below_v1_is_one_of_openais(
    web: Web, method: str, path: str, status: int, code: str, options: dict[str, Any]
) -> None:
    response = web.http.open(path, method=method, **{"headers": web.auth, **options})
    assert response.status_code == status
    assert response.json.keys() == {"error"}
    assert response.json["error"].keys() == {"message", "type", "param", "code"}
    assert response.json["error"]["code"] == code
    assert response.headers["X-Request-ID"].startswith("req_")
    assert ("Allow" in response.headers) == (status == 405)


def test_nothing_is_accepted_from_a_client_that_cannot_be_waited_with(web: Web) -> None:
    with ExitStack() as stack:
        while web.services.wait_slots.try_acquire():
            stack.callback(web.services.wait_slots.release)
        refused = _post(web)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json["error"]["code"] == "overloaded"
    assert _jobs(web) == []


def test_a_model_that_is_being_deployed_is_worth_another_try(web: Web) -> None:
    add_model(web.services.ledger, "soon", ready=False)
    refused = _post(web, model="soon")
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "model_not_ready")
    assert refused.headers["Retry-After"] == "1"


def test_a_tenant_that_has_all_it_may_is_told_to_come_back(web: Web) -> None:
    with web.services.ledger.transaction() as session:
        session.execute(update(TenantRow).values(max_queued_jobs=0))
    refused = _post(web)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.json["error"]["type"] == "rate_limit_error"
    assert 0 < int(refused.headers["Retry-After"]) <= 120


def test_a_job_that_fails_is_an_error_that_names_it_and_asks_for_no_retry(web: Web) -> None:
    def stop(job_id: str) -> None:
        web.worker.finish(web.worker.claim(job_id), "", 0, JobStatus.CANCELED)

    with _played(web, stop):
        response = _post(web)
    assert (response.status_code, response.json["error"]["code"]) == (409, "canceled_by_user")
    assert response.headers["X-Should-Retry"] == "false"
    assert response.headers["X-Job-ID"] == _jobs(web)[0].id


def test_of_several_choices_one_that_fails_stops_the_others(web: Web) -> None:
    claims: dict[str, Any] = {}

    def stop_the_first(job_id: str) -> None:
        claims[job_id] = web.worker.claim(job_id)
        if len(claims) == 3:
            (first,) = [job.id for job in _jobs(web) if job.group_index == 0]
            web.worker.finish(claims[first], "", 0, JobStatus.CANCELED)

    with _played(web, stop_the_first, num_jobs=3):
        assert _post(web, n=3).status_code == 409
    assert sorted(job.status for job in _jobs(web)) == [JobStatus.CANCELED, JobStatus.CANCELING, JobStatus.CANCELING]


def test_a_server_that_stops_ends_what_it_waits_for_and_says_come_back(web: Web) -> None:
    with _played(web, lambda _job_id: web.services.stopping.set()):
        response = _post(web)
    assert (response.status_code, response.json["error"]["code"]) == (503, "unavailable")
    assert "X-Should-Retry" not in response.headers
    assert _jobs(web)[0].status.is_terminal or _jobs(web)[0].status is JobStatus.CANCELING


def test_a_stream_of_a_server_that_stops_ends_without_being_done(web: Web) -> None:
    with _played(web, lambda _job_id: web.services.stopping.set()):
        text = _post(web, stream=True).text
    assert '"code":"stream_broken"' in text
    assert "[DONE]" not in text


def test_a_stream_asked_for_again_under_its_key_says_the_same(web: Web) -> None:
    key = {"Idempotency-Key": "again"}
    with _played(web, lambda job_id: web.worker.run(job_id, ["three", "four"])):
        first = _post(web, headers=key, stream=True)
        text = first.text
    second = _post(web, headers=key, stream=True)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.headers["X-Job-ID"] == first.headers["X-Job-ID"]
    for answer in (text, second.text):
        assert '"role":"assistant"' in answer
        assert "three" in answer
        assert answer.endswith("data: [DONE]\n\n")
    assert len(_jobs(web)) == 1


def test_a_group_that_was_accepted_in_part_is_completed_when_it_is_asked_for_again(web: Web) -> None:
    key = {"Idempotency-Key": "group"}
    submit, submitted = web.services.admission.submit, []

    def submit_one(*arguments: Any) -> Any:
        submitted.append(arguments)
        if len(submitted) == 2:
            raise KeyboardInterrupt
        return submit(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web.services.admission, "submit", submit_one)
        with pytest.raises(KeyboardInterrupt):
            _post(web, headers=key, n=3)
    assert len(_jobs(web)) == 1
    with _played(web, lambda job_id: web.worker.run(job_id, ["three"]), num_jobs=3):
        response = _post(web, headers=key, n=3)
    assert [choice["message"]["content"] for choice in response.json["choices"]] == [" three"] * 3
    assert len(_jobs(web)) == 3


def test_a_stream_that_is_never_silent_ends_when_its_key_is_revoked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_MEMORY_S", 0.0)
    other = replace(web, api_key=add_key(web.services.ledger))
    has_ended, was_told = threading.Event(), []

    def speak(job_id: str) -> None:
        claim, index, deadline_s = web.worker.claim(job_id), 0, time.monotonic() + 20
        with web.services.ledger.transaction() as session:
            assert revoke_key(session, other.api_key.split("_")[1], now=datetime.now(UTC))
        while not has_ended.wait(0.001) and time.monotonic() < deadline_s:
            web.worker.emit(claim, ["three"], first=index)
            index += 1
        was_told.append(has_ended.is_set())

    with _played(web, speak):
        text = _post(other, stream=True).text
        has_ended.set()
    assert '"code":"invalid_api_key"' in text
    assert was_told == [True]


def test_a_request_that_is_sent_twice_at_once_has_all_of_its_choices_in_both_answers(web: Web) -> None:
    key = {"Idempotency-Key": "twice"}
    submit, second = web.services.admission.submit, []

    def send_again() -> None:
        other = replace(web, http=web.http.application.test_client())
        second.append(_post(other, headers=key, n=3))

    thread = threading.Thread(target=send_again)

    def submit_and_be_overtaken(*arguments: Any) -> Any:
        accepted = submit(*arguments)
        if not thread.ident:
            thread.start()
            wait_until(lambda: len(_jobs(web)) == 3, "the other sending has accepted the rest")
        return accepted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web.services.admission, "submit", submit_and_be_overtaken)
        with _played(web, lambda job_id: web.worker.run(job_id, ["three"]), num_jobs=3):
            first = _post(web, headers=key, n=3)
    thread.join()
    for answer in (first, *second):
        assert [choice["message"]["content"] for choice in answer.json["choices"]] == [" three"] * 3
    assert len(_jobs(web)) == 3


def test_a_group_whose_rest_could_not_be_accepted_goes_on_when_it_is_sent_again_under_its_key(web: Web) -> None:
    key = {"Idempotency-Key": "outage"}
    submit, submitted = web.services.admission.submit, []

    def submit_one(*arguments: Any) -> Any:
        submitted.append(arguments)
        if len(submitted) == 2:
            raise UnavailableError("the ledger is out")
        return submit(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web.services.admission, "submit", submit_one)
        assert _post(web, headers=key, n=2).status_code == 503
    with _played(web, lambda job_id: web.worker.run(job_id, ["three"]), num_jobs=2):
        response = _post(web, headers=key, n=2)
    assert [choice["message"]["content"] for choice in response.json["choices"]] == [" three"] * 2


def test_token_ids_are_a_prompt_unless_the_model_has_no_such_token(web: Web) -> None:
    job_id = web.http.post(
        "/api/v1/jobs", json={"model": MODEL, "input": {"prompt_ids": [2, 3]}}, headers=web.auth
    ).json["id"]
    assert [job.prompt_ids for job in _jobs(web) if job.id == job_id] == [(2, 3)]
    refused = _post(web, "completions", prompt=[2, 3000])
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "invalid_prompt")
