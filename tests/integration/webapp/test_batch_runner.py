"""Batches are worked off line by line, each once, whoever crashes and however many work on them."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from sllm_tasks.errors import UnavailableError
from sllm_tasks.jobs import FinishReason, JobStatus, Outcome, Usage
from sllm_tasks.ledger.batches import end_batch
from sllm_tasks.ledger.jobs import Ending, end_jobs
from sllm_tasks.ledger.tables import BatchRow, FileRow, JobRow
from tests.support.web import MODEL, Web, add_model
from webapp.openai import batch_writer
from webapp.openai.batch_runner import BatchRunner


@pytest.fixture
def runner(web: Web) -> BatchRunner:
    services = web.services
    return BatchRunner(services.ledger, services.admission, services.job_maker, services.live, 10_000)


def _start(web: Web, num_lines: int, **fields: Any) -> str:
    lines = [
        {"custom_id": f"{n}", "url": "/v1/completions", "body": {"model": MODEL, "prompt": "one", **fields}}
        for n in range(num_lines)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    form = {"purpose": "batch", "file": (io.BytesIO(content), "lines.jsonl")}
    file = web.http.post("/v1/files", data=form, headers=web.auth).json
    body = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch = web.http.post("/v1/batches", json=body, headers=web.auth).json
    return str(batch["id"])


def _batch(web: Web, batch_id: str) -> Any:
    return web.http.get(f"/v1/batches/{batch_id}", headers=web.auth).json


def _jobs(web: Web, batch_id: str) -> list[JobRow]:
    with web.services.ledger.reading() as session:
        return list(session.scalars(select(JobRow).filter_by(group_id=batch_id).order_by(JobRow.group_index)))


def _run_jobs(web: Web, batch_id: str) -> None:
    """End the jobs of a batch as control would."""
    usage = Usage(prompt_tokens=2, completion_tokens=1)
    outcome = Outcome(status=JobStatus.SUCCEEDED, text=" two", finish_reason=FinishReason.STOP, usage=usage)
    jobs = _jobs(web, batch_id)
    with web.services.ledger.transaction() as session:
        end_jobs(session, [Ending(job_id=job.id, outcome=outcome, at=datetime.now(UTC)) for job in jobs])


def _work_off(web: Web, runner: BatchRunner, batch_id: str) -> Any:
    for _ in range(30):
        runner.step()
        _run_jobs(web, batch_id)
        if _batch(web, batch_id)["status"] in {"completed", "failed", "cancelled", "expired"}:
            return _batch(web, batch_id)
    raise AssertionError(_batch(web, batch_id))


def _answered(web: Web, batch: Any) -> list[str]:
    content = web.http.get(f"/v1/files/{batch['output_file_id']}/content", headers=web.auth).text
    return [json.loads(line)["custom_id"] for line in content.splitlines()]


def test_a_batch_gets_its_answers_in_the_order_of_its_lines(web: Web, runner: BatchRunner) -> None:
    batch = _work_off(web, runner, _start(web, 5))
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert _answered(web, batch) == ["0", "1", "2", "3", "4"]


def test_jobs_of_a_batch_are_of_its_class_and_only_so_many_at_once(web: Web, runner: BatchRunner) -> None:
    batch_id = _start(web, 50)
    for _ in range(4):
        runner.step()
    jobs = _jobs(web, batch_id)
    assert len(jobs) == 32
    assert {job.job_class for job in jobs} == {"batch"}
    assert all(job.deadline_at is not None for job in jobs)


def test_lines_are_not_submitted_twice_after_a_crash_before_the_place_was_noted(web: Web, runner: BatchRunner) -> None:
    batch_id = _start(web, 6, n=2)
    runner.step()
    runner.step()
    before = [(job.id, job.group_index) for job in _jobs(web, batch_id)]
    with web.services.ledger.transaction() as session:
        session.execute(update(BatchRow).values(next_line=0, next_offset=0))
    runner.step()
    assert [(job.id, job.group_index) for job in _jobs(web, batch_id)] == before
    assert len(before) == 12
    assert _answered(web, _work_off(web, runner, batch_id)) == [str(number) for number in range(6)]


def test_two_runners_at_once_make_each_job_once_and_one_set_of_results(web: Web, runner: BatchRunner) -> None:
    batch_id = _start(web, 40)
    services = web.services
    other = BatchRunner(services.ledger, services.admission, services.job_maker, services.live, 10_000)
    for _ in range(12):
        threads = [threading.Thread(target=one.step) for one in (runner, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _run_jobs(web, batch_id)
    batch = _batch(web, batch_id)
    assert batch["status"] == "completed"
    assert len(_jobs(web, batch_id)) == 40
    assert _answered(web, batch) == [str(number) for number in range(40)]
    files = web.http.get("/v1/files?purpose=batch_output", headers=web.auth).json["data"]
    assert [file["id"] for file in files] == [batch["output_file_id"]]


def test_results_that_a_crash_left_half_written_are_not_seen(
    web: Web, runner: BatchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = _start(web, 2)

    def crash(*_: object, **__: object) -> bool:
        raise UnavailableError("crash")

    monkeypatch.setattr(batch_writer, "end_batch", crash)
    for _ in range(5):
        runner_failed = False
        try:
            runner.step()
        except UnavailableError:
            runner_failed = True
        _run_jobs(web, batch_id)
    assert runner_failed
    assert web.http.get("/v1/files?purpose=batch_output", headers=web.auth).json["data"] == []
    monkeypatch.setattr(batch_writer, "end_batch", end_batch)
    assert _work_off(web, runner, batch_id)["status"] == "completed"
    with web.services.ledger.reading() as session:
        written = session.scalars(select(FileRow).filter_by(purpose="batch_output")).all()
    assert sum(row.complete_at is not None for row in written) == 1


def test_lines_wait_for_a_model_that_is_being_deployed_and_are_refused_where_there_is_none(
    web: Web, runner: BatchRunner
) -> None:
    add_model(web.services.ledger, "soon", ready=False)
    waits, refused = _start(web, 1, model="soon"), _start(web, 1, model="nobody")
    for _ in range(4):
        runner.step()
    assert _batch(web, waits)["status"] == "in_progress"
    assert _batch(web, waits)["request_counts"] == {"total": 1, "completed": 0, "failed": 0}
    assert _batch(web, refused)["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert _batch(web, refused)["output_file_id"] is None
    assert _batch(web, refused)["error_file_id"] is not None


def test_a_batch_at_which_the_runner_has_a_bug_does_not_keep_it_from_the_others(
    web: Web, runner: BatchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = _start(web, 1, seed=1), _start(web, 1)
    with web.services.ledger.transaction() as session:
        session.execute(update(BatchRow).filter_by(id=broken).values(endpoint="/v1/none", status="in_progress"))
        session.execute(update(BatchRow).filter_by(id=broken).values(num_requests=1, next_offset=7))
    assert _work_off(web, runner, sound)["status"] == "completed"
    assert _batch(web, broken)["status"] != "failed"


def test_a_file_that_is_too_large_is_refused_before_it_is_read(web: Web) -> None:
    length = {"CONTENT_LENGTH": str(web.services.settings.max_file_bytes + 100_000)}
    headers = {**web.auth, "Content-Type": "multipart/form-data; boundary=x"}
    response = web.http.post("/v1/files", headers=headers, environ_overrides=length)
    assert (response.status_code, response.json["error"]["code"]) == (413, "body_too_large")
    assert web.http.get("/v1/files", headers=web.auth).json["data"] == []


def test_a_batch_asked_for_again_under_its_key_is_the_same(web: Web) -> None:
    form = {"purpose": "batch", "file": (io.BytesIO(b"{}"), "f")}
    file = web.http.post("/v1/files", data=form, headers=web.auth).json
    body = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "1h"}
    headers = {**web.auth, "Idempotency-Key": "batch"}
    first, second = (web.http.post("/v1/batches", json=body, headers=headers) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(web.http.get("/v1/batches", headers=web.auth).json["data"]) == 1
