"""Submitting, reading, listing, stopping and forgetting jobs over HTTP."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import update

from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.tables import CheckpointRow
from tests.support.web import CONTEXT, MODEL, Web, add_key, add_model

#: A model that is loaded nowhere.
_COLD = "cold"
_BODY = {"model": MODEL, "input": {"prompt": "one two"}}


def test_a_submitted_job_is_accepted_and_says_where_to_ask(web: Web) -> None:
    response = web.http.post("/api/v1/jobs", json={**_BODY, "params": {"max_tokens": 3}}, headers=web.auth)
    assert response.status_code == 202, response.text
    assert response.headers["Location"] == f"/api/v1/jobs/{response.json['id']}"
    assert response.headers["Retry-After"] == "1"
    assert response.headers["X-Request-ID"].startswith("req_")
    assert response.json["status"] == "queued"
    claim = web.worker.claim(response.json["id"])
    assert claim.spec.prompt_ids == (0, 2, 3)
    assert claim.spec.params.max_tokens == 3


def test_what_a_user_leaves_out_is_filled_in_and_the_seed_is_always_set(web: Web) -> None:
    first, second = (web.worker.claim(web.submit()).spec.params for _ in range(2))
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**63
    assert (first.temperature, first.max_tokens) == (0.0, CONTEXT - 3)


def test_messages_go_through_the_chat_template_without_further_special_tokens(web: Web) -> None:
    messages = [{"role": "user", "content": "hello"}]
    response = web.http.post("/api/v1/jobs", json={"model": MODEL, "input": {"messages": messages}}, headers=web.auth)
    # user : hello assistant :
    assert web.worker.claim(response.json["id"]).spec.prompt_ids == (7, 9, 6, 8, 9)


def test_a_checkpoint_with_a_broken_chat_template_takes_prompts_and_says_so_of_messages(web: Web) -> None:
    with web.services.ledger.transaction() as session:
        session.execute(update(CheckpointRow).values(chat_template="{% if %}"))
    assert web.worker.claim(web.submit("one two three")).spec.prompt_ids
    body = {"model": MODEL, "input": {"messages": [{"role": "user", "content": "hello"}]}}
    refused = web.http.post("/api/v1/jobs", json=body, headers=web.auth)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_request")
    assert "chat template of the checkpoint is broken" in refused.json["detail"]


def test_a_job_shows_its_progress_and_then_its_result(web: Web) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["three"])
    running = web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json
    assert (running["status"], running["progress"]["done"], running["output"]) == ("running", 1, None)
    assert running["assignment"] == {"node": "node0", "gpus": [0], "start_kind": "warm"}
    web.worker.finish(claim, " three", 1)
    done = web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth)
    assert (done.json["status"], done.json["output"]) == ("succeeded", {"text": " three", "finish_reason": "stop"})
    assert done.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 1}
    assert "Retry-After" not in done.headers


def test_a_job_that_waits_says_why_until_it_has_a_place(web: Web) -> None:
    add_model(web.services.ledger, _COLD)
    job_id = web.submit(model=_COLD)
    path = f"/api/v1/jobs/{job_id}"
    before = web.http.get(path, headers=web.auth)
    assert before.json["status_reason"] is None
    web.services.live.router.note_wait(job_id, 1, "no gpu has the memory")
    waiting = web.http.get(path, headers=web.auth)
    assert (waiting.json["status"], waiting.json["status_reason"]) == ("queued", "no gpu has the memory")
    assert waiting.headers["ETag"] != before.headers["ETag"]
    listed = web.http.get("/api/v1/jobs", headers=web.auth).json["data"]
    assert [job["status_reason"] for job in listed] == ["no gpu has the memory"]
    web.http.post(f"{path}/cancel", headers=web.auth)
    assert web.http.get(path, headers=web.auth).json["status_reason"] is None


def test_the_result_is_there_when_the_job_has_succeeded_and_not_before(web: Web) -> None:
    job_id = web.submit()
    early = web.http.get(f"/api/v1/jobs/{job_id}/result", headers=web.auth)
    assert (early.status_code, early.headers["Retry-After"]) == (202, "1")
    web.worker.run(job_id, ["four"])
    late = web.http.get(f"/api/v1/jobs/{job_id}/result", headers=web.auth)
    assert (late.status_code, late.json["output"]["text"]) == (200, " four")


def test_the_result_of_a_job_that_was_canceled_is_a_problem(web: Web) -> None:
    job_id = web.submit()
    web.worker.finish(web.worker.claim(job_id), "", 0, JobStatus.CANCELED)
    response = web.http.get(f"/api/v1/jobs/{job_id}/result", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (422, "canceled_by_user")


def test_a_job_that_has_not_changed_is_not_sent_again(web: Web) -> None:
    path = f"/api/v1/jobs/{web.submit()}"
    first = web.http.get(path, headers=web.auth)
    known = {**web.auth, "If-None-Match": first.headers["ETag"]}
    assert web.http.get(path, headers=known).status_code == 304
    web.worker.emit(web.worker.claim(path.rpartition("/")[2]), ["one"])
    assert web.http.get(path, headers=known).status_code == 200


def test_a_long_poll_answers_at_the_next_change_of_status(web: Web) -> None:
    job_id = web.submit()
    threading.Timer(0.3, web.worker.claim, (job_id,)).start()
    response = web.http.get(f"/api/v1/jobs/{job_id}", headers={**web.auth, "Prefer": "wait=20"})
    assert (response.json["status"], response.headers["Preference-Applied"]) == ("starting", "wait=20")


def test_a_long_poll_of_a_job_that_has_ended_answers_at_once(web: Web) -> None:
    job_id = web.submit()
    web.worker.run(job_id, ["one"])
    started_s = time.monotonic()
    assert web.http.get(f"/api/v1/jobs/{job_id}", headers={**web.auth, "Prefer": "wait=30"}).status_code == 200
    assert time.monotonic() - started_s < 15


def test_a_submit_that_waits_answers_with_the_end(web: Web) -> None:
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.05):
            for job in web.http.application.test_client().get("/api/v1/jobs", headers=web.auth).json["data"]:
                if job["status"] == "queued":
                    web.worker.run(job["id"], ["one"])

    server = threading.Thread(target=serve)
    server.start()
    response = web.http.post("/api/v1/jobs", json=_BODY, headers={**web.auth, "Prefer": "wait=20"})
    stop.set()
    server.join()
    assert (response.status_code, response.json["status"]) == (200, "succeeded")


def test_a_request_with_the_same_key_makes_one_job(web: Web) -> None:
    keyed = {**web.auth, "Idempotency-Key": "k"}
    first, second = (web.http.post("/api/v1/jobs", json=_BODY, headers=keyed) for _ in range(2))
    assert (second.status_code, second.json["id"]) == (202, first.json["id"])
    assert second.headers["Idempotency-Replayed"] == "true"
    other = web.http.post("/api/v1/jobs", json={**_BODY, "priority": 1}, headers=keyed)
    assert (other.status_code, other.json["code"]) == (422, "invalid_request")
    stranger = {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='other')}", "Idempotency-Key": "k"}
    assert web.http.post("/api/v1/jobs", json=_BODY, headers=stranger).json["id"] != first.json["id"]


def test_putting_a_job_twice_makes_one_and_another_body_is_refused(web: Web) -> None:
    path = "/api/v1/jobs/my-own-id"
    first, second = (web.http.put(path, json=_BODY, headers=web.auth) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json["id"] == second.json["id"]
    assert web.http.put(path, json={**_BODY, "priority": 1}, headers=web.auth).status_code == 409
    assert web.http.get(path, headers=web.auth).json["client_id"] == "my-own-id"
    for bad in ("short", "UPPERCASE-ID", "job_01m7xzzzzzzz"):
        assert web.http.put(f"/api/v1/jobs/{bad}", json=_BODY, headers=web.auth).status_code == 422


def test_a_queued_job_that_is_canceled_ends_at_once_and_stays_ended(web: Web) -> None:
    job_id = web.submit()
    for _ in range(2):
        response = web.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=web.auth)
        assert (response.status_code, response.json["status"]) == (200, "canceled")
    assert response.json["error"]["code"] == "canceled_by_user"


def test_a_running_job_that_is_canceled_ends_when_its_worker_has_stopped(web: Web) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one"])
    response = web.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=web.auth)
    assert (response.status_code, response.json["status"]) == (202, "canceling")
    web.worker.finish(claim, " one", 1, JobStatus.CANCELED)
    ended = web.http.get(f"/api/v1/jobs/{job_id}", headers=web.auth).json
    assert (ended["status"], ended["output"]["text"]) == ("canceled", " one")


def test_a_job_that_did_not_succeed_can_be_retried_as_a_new_job(web: Web) -> None:
    job_id = web.submit(params={"seed": 5})
    web.worker.emit(web.worker.claim(job_id), ["one"])
    early = web.http.post(f"/api/v1/jobs/{job_id}/retry", headers=web.auth)
    assert (early.status_code, early.json["detail"].split(";")[0]) == (409, "the job is running")
    job_id = web.submit(params={"seed": 5})
    web.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=web.auth)
    response = web.http.post(f"/api/v1/jobs/{job_id}/retry", headers=web.auth)
    assert response.status_code == 202
    assert response.json["id"] != job_id
    assert web.worker.claim(response.json["id"]).spec.params.seed == 5


def test_a_deleted_job_is_gone_and_one_that_runs_cannot_be_deleted(web: Web) -> None:
    path = f"/api/v1/jobs/{web.submit()}"
    assert web.http.delete(path, headers=web.auth).status_code == 409
    web.http.post(f"{path}/cancel", headers=web.auth)
    assert web.http.delete(path, headers=web.auth).status_code == 204
    for sub in ("", "/result", "/events"):
        response = web.http.get(path + sub, headers=web.auth)
        assert (response.status_code, response.json["code"]) == (410, "gone")
    assert web.http.get("/api/v1/jobs", headers=web.auth).json["data"] == []


def test_a_list_comes_in_pages_newest_first(web: Web) -> None:
    ids = [web.submit() for _ in range(5)]
    seen: list[str] = []
    after = ""
    for has_more in (True, True, False):
        page = web.http.get(f"/api/v1/jobs?limit=2{after}", headers=web.auth).json
        assert page["has_more"] is has_more
        seen += [job["id"] for job in page["data"]]
        after = f"&after={page['last_id']}"
    assert sorted(seen, reverse=True) == seen
    assert set(seen) == set(ids)


def test_a_page_may_begin_after_a_job_that_is_not_listed_any_more(web: Web) -> None:
    first, second, third = (web.submit() for _ in range(3))
    web.http.post(f"/api/v1/jobs/{second}/cancel", headers=web.auth)
    web.http.delete(f"/api/v1/jobs/{second}", headers=web.auth)
    rest = web.http.get(f"/api/v1/jobs?after={second}", headers=web.auth).json["data"]
    assert [job["id"] for job in rest] == [first]
    assert third not in str(rest)


def test_a_list_can_be_restricted(web: Web) -> None:
    canceled, _ = web.submit(), web.submit()
    web.http.post(f"/api/v1/jobs/{canceled}/cancel", headers=web.auth)
    by_status = web.http.get("/api/v1/jobs?status=canceled", headers=web.auth).json["data"]
    assert [job["id"] for job in by_status] == [canceled]
    assert web.http.get("/api/v1/jobs?model=other", headers=web.auth).json["data"] == []
    future = web.http.get("/api/v1/jobs?created_after=2999-01-01T00:00:00Z", headers=web.auth).json
    assert (future["data"], future["first_id"], future["has_more"]) == ([], None, False)


def test_a_list_of_one_status_holds_the_jobs_that_show_it_also_those_that_the_ledger_does_not_follow(web: Web) -> None:
    queued, done, *running = (web.submit() for _ in range(5))
    starting = web.submit()
    web.worker.run(done, ["three"])
    web.worker.claim(starting)
    for job_id in running:
        web.worker.emit(web.worker.claim(job_id), ["three"])

    def listed(query: str) -> list[str]:
        page = web.http.get(f"/api/v1/jobs?{query}", headers=web.auth).json
        return [f"{job['id']} {job['status']}" for job in page["data"]] + ["more"] * page["has_more"]

    assert listed("status=queued") == [f"{queued} queued"]
    assert listed("status=starting") == [f"{starting} starting"]
    assert listed("status=succeeded") == [f"{done} succeeded"]
    newest = [f"{job_id} running" for job_id in sorted(running, reverse=True)]
    assert listed("status=running") == newest
    assert listed("status=running&limit=2") == [*newest[:2], "more"]
    assert listed(f"status=running&limit=2&after={newest[1].split()[0]}") == newest[2:]
    assert listed("status=running&order=asc&limit=1") == [newest[-1], "more"]
    stranger = {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='other')}"}
    assert web.http.get("/api/v1/jobs?status=running", headers=stranger).json["data"] == []


@pytest.mark.parametrize(
    ("method", "sub"),
    [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("GET", "/attempts"), ("POST", "/cancel"), ("POST", "/retry"),
     ("DELETE", "")],
)  # fmt: skip
def test_another_tenants_job_does_not_exist(web: Web, method: str, sub: str) -> None:
    path = f"/api/v1/jobs/{web.submit()}{sub}"
    stranger = {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='other')}"}
    assert web.http.open(path, method=method, headers=stranger).status_code == 404
    assert web.http.get("/api/v1/jobs", headers=stranger).json["data"] == []


def test_the_attempts_of_a_job_are_listed(web: Web) -> None:
    job_id = web.submit()
    web.worker.run(job_id, ["one", "two"])
    (attempt,) = web.http.get(f"/api/v1/jobs/{job_id}/attempts", headers=web.auth).json["data"]
    assert (attempt["node"], attempt["worker"], attempt["exit_reason"]) == ("node0", "worker_test", "job_ended")
    assert attempt["tokens"] == 2
