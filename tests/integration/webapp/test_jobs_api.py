"""Submitting, reading and stopping jobs over HTTP."""

from __future__ import annotations

from tests.support.web import Web


def test_a_submitted_job_is_accepted_and_says_where_to_ask(web: Web) -> None:
    body = {"model": "words", "input": {"prompt": "one two"}, "params": {"max_tokens": 3}}
    response = web.http.post("/api/v1/jobs", json=body, headers=web.auth)
    assert response.status_code == 202, response.text
    assert response.headers["Location"] == f"/api/v1/jobs/{response.json['id']}"
    assert response.headers["Retry-After"] == "1"
    assert response.headers["X-Request-ID"].startswith("req_")
    assert response.json["status"] == "queued"
    claim = web.worker.claim(response.json["id"])
    assert claim.spec.prompt_ids == (0, 2, 3)
    assert claim.spec.params.max_tokens == 3


def test_a_job_shows_its_progress_and_then_its_result(web: Web) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["three"])
    running = web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json
    assert (running["status"], running["progress"]["done"], running["output"]) == ("running", 1, None)
    web.worker.finish(claim, " three", 1)
    done = web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json
    assert (done["status"], done["output"]) == ("succeeded", {"text": " three", "finish_reason": "stop"})
