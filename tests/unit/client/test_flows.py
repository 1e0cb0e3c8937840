"""Trying again and waiting, without a server: each test plays the answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sllm_tasks.client import calls, flows
from sllm_tasks.client.answers import Answer, Lost, delay_s
from sllm_tasks.client.errors import (
    ApiError,
    AuthError,
    JobCanceledError,
    JobFailedError,
    JobTimeoutError,
    NotFoundApiError,
    OperationFailedError,
    ServerUnavailableError,
)
from sllm_tasks.client.flows import Attempt, Flow, sending, waiting_for_job, waiting_for_operation
from sllm_tasks.errors import ErrorCode

_JOB: dict[str, Any] = {
    "id": "job_1", "status": "running", "phase": "decoding", "model": "m", "attempt": 1,
    "progress": {"done": 0, "total": 4}, "output": None, "usage": None, "error": None, "created_at": "2026-01-01",
}  # fmt: skip


def _job(status: str, **fields: Any) -> Answer:
    return Answer(200, {}, json.dumps({**_JOB, "status": status, **fields}).encode())


def _succeeded() -> Answer:
    output, usage = {"text": "hi", "finish_reason": "stop"}, {"prompt_tokens": 1, "completion_tokens": 1}
    return _job("succeeded", output=output, usage=usage)


def _problem(status: int, code: str, **headers: str) -> Answer:
    body = {"code": code, "detail": "no", "request_id": "req_1"}
    return Answer(status, headers, json.dumps(body).encode())


def _play(flow: Flow[Any], *answers: Answer | Lost) -> tuple[Any, list[Attempt]]:
    """Run a flow against answers in order; returns its result and what it sent."""
    sent = [next(flow)]
    for answer in answers:
        try:
            sent.append(flow.send(answer))
        except StopIteration as end:
            return end.value, sent
    raise AssertionError(f"the flow wants to send {sent[-1]}")


def test_a_call_that_is_lost_or_refused_for_now_is_sent_again_with_the_same_key() -> None:
    call = calls.submit_job("m", "hi", None, None, {})
    job, sent = _play(sending(call, 3), Lost("gone"), _problem(503, "unavailable"), _job("queued"))
    assert job.id == "job_1"
    assert {attempt.call.headers["Idempotency-Key"] for attempt in sent} == {call.headers["Idempotency-Key"]}
    assert sent[0].after_s == 0


def test_the_server_says_how_long_to_wait_at_least() -> None:
    _, sent = _play(
        sending(calls.get_job("a"), 1), _problem(429, "quota_exceeded", **{"retry-after": "7"}), _job("queued")
    )
    assert 7 <= sent[1].after_s < 8


def test_a_server_that_asks_for_too_much_patience_counts_as_away() -> None:
    with pytest.raises(ServerUnavailableError):
        _play(sending(calls.get_job("a"), 5), _problem(503, "unavailable", **{"retry-after": "3600"}))


def test_a_call_gives_up_after_its_retries() -> None:
    with pytest.raises(ServerUnavailableError, match="gone"):
        _play(sending(calls.get_job("a"), 2), Lost("gone"), Lost("gone"), Lost("gone"))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "unauthorized", AuthError), (403, "forbidden", AuthError), (404, "not_found", NotFoundApiError),
     (422, "model_not_found", ApiError), (500, "internal", ApiError)],
)  # fmt: skip
def test_a_refusal_is_not_tried_again_and_keeps_its_code(status: int, code: str, kind: type[ApiError]) -> None:
    with pytest.raises(kind) as caught:
        _play(sending(calls.get_job("a"), 3), _problem(status, code))
    assert (caught.value.code, caught.value.request_id) == (ErrorCode(code), "req_1")


def test_a_code_that_this_client_does_not_know_is_kept_as_text() -> None:
    with pytest.raises(ApiError) as caught:
        _play(sending(calls.get_job("a"), 0), _problem(418, "teapot"))
    assert (caught.value.code_text, caught.value.code) == ("teapot", ErrorCode.INTERNAL)


def test_an_answer_that_is_no_problem_document_is_still_an_error() -> None:
    with pytest.raises(ServerUnavailableError):
        _play(sending(calls.get_job("a"), 0), Answer(502, {}, b"<html>bad gateway</html>"))


def test_a_server_that_leads_elsewhere_is_not_followed_but_named() -> None:
    moved = Answer(301, {"location": "https://there/"}, b"<html>moved</html>")
    with pytest.raises(ApiError, match="answered 301 and leads to https://there/"):
        _play(sending(calls.get_job("a"), 0), moved)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]", b'"text"', b'{"status": "new"}'])
def test_an_answer_of_another_server_is_an_error_that_names_the_request(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"GET /api/v1/jobs/a .* is it sllm-tasks"):
        _play(sending(calls.get_job("a"), 0), Answer(200, {}, body))


def test_waiting_goes_on_until_the_job_has_ended() -> None:
    result, sent = _play(waiting_for_job("job_1", 10, 0), _job("queued"), _job("running"), _succeeded())
    assert (result.text, result.usage.completion_tokens) == ("hi", 1)
    assert sent[0].call.headers["Prefer"] == "wait=10"
    # The answers came at once, so the server did not hold them back.
    assert sent[1].after_s > 0


def test_waiting_bears_with_a_server_that_restarts() -> None:
    result, _ = _play(waiting_for_job("job_1", None, 0), Lost("gone"), Lost("gone"), _succeeded())
    assert result.text == "hi"


def test_waiting_ends_in_time_without_an_end_of_the_job() -> None:
    with pytest.raises(JobTimeoutError):
        _play(waiting_for_job("job_1", 0, 0), _job("running"))


@pytest.mark.parametrize(
    ("answer", "answered_after_s"),
    [(Lost("no answer came"), 1000.0), (_problem(503, "unavailable", **{"retry-after": "30"}), 0.0)],
)
def test_waiting_ends_in_time_though_the_server_hangs_or_asks_for_more_of_it(
    answer: Answer | Lost, answered_after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(flows, "time", SimpleNamespace(monotonic=lambda: now_s))

    def wait() -> None:
        nonlocal now_s
        flow = waiting_for_job("job_1", 5, 3)
        attempt = next(flow)
        while True:
            now_s += attempt.after_s + min(attempt.patience_s, answered_after_s)
            attempt = flow.send(answer)

    with pytest.raises(JobTimeoutError):
        wait()
    assert 1005 <= now_s <= 1008


def test_a_job_that_ended_without_a_result_raises() -> None:
    error = {"code": "worker_lost", "message": "gone", "retryable": True}
    with pytest.raises(JobFailedError) as failed:
        _play(waiting_for_job("job_1", 1, 0), _job("failed", error=error, output={"text": "par"}))
    assert (failed.value.code, failed.value.retryable, failed.value.text) == (ErrorCode.WORKER_LOST, True, "par")
    with pytest.raises(JobCanceledError):
        _play(waiting_for_job("job_1", 1, 0), _job("canceled"))


def test_an_operation_that_failed_raises_with_its_reason() -> None:
    operation = {"id": "op_1", "kind": "deploy", "target": "m", "status": "running", "error": None}
    failed = {**operation, "status": "failed", "error": {"code": "checkpoint_corrupt", "message": "bad shard"}}
    answers = [Answer(200, {}, json.dumps(body).encode()) for body in (operation, failed)]
    with pytest.raises(OperationFailedError, match="bad shard") as caught:
        _play(waiting_for_operation("op_1", 10, 0), *answers)
    assert caught.value.code is ErrorCode.CHECKPOINT_CORRUPT


def test_delays_grow_up_to_a_limit() -> None:
    for num_failures in range(1, 30):
        pause_s = delay_s(num_failures)
        assert pause_s is not None
        assert 0 <= pause_s <= min(8, 0.25 * 2 ** (num_failures - 1))
