"""What the admin UI does to many things at once, and to tenants and operations: cancel, export, limit."""

from __future__ import annotations

import csv
import io
import json

from sllm_tasks.ledger.inventory import get_model
from sllm_tasks.ledger.jobs import get_job
from sllm_tasks.ledger.states import ModelState, Role
from tests.support.admin_ui import Browser
from tests.support.web import MODEL, Web


def _statuses(web: Web, *job_ids: str) -> list[str]:
    with web.services.ledger.reading() as session:
        return [str(row.status) for job_id in job_ids if (row := get_job(session, job_id))]


def test_all_jobs_that_a_search_finds_are_canceled_and_no_others(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    waiting, done = [web.submit(), web.submit()], web.submit()
    web.worker.run(done, ["three"])
    for nothing in ("model:other", "status:succeeded", "status:nonsense"):
        assert "Cancel 0 jobs?" in browser.get(f"/admin/jobs/cancel?q={nothing}").text
        assert browser.post(f"/admin/jobs/cancel?q={nothing}").status_code == 303
    assert set(_statuses(web, *waiting)) == {"queued"}
    assert "Cancel 2 jobs?" in browser.get(f"/admin/jobs/cancel?q=model:{MODEL}").text
    assert browser.post(f"/admin/jobs/cancel?q=model:{MODEL}").status_code == 303
    assert set(_statuses(web, *waiting)) <= {"canceling", "canceled"}
    assert _statuses(web, done) == ["succeeded"]


def test_a_search_for_running_jobs_cancels_those_that_run_and_one_for_starting_jobs_does_not(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    waiting, running = web.submit(), web.submit()
    web.worker.emit(web.worker.claim(running), ["three"])
    assert "Cancel 0 jobs?" in browser.get("/admin/jobs/cancel?q=status:starting").text
    assert browser.post("/admin/jobs/cancel?q=status:starting").status_code == 303
    assert "canceling" not in _statuses(web, waiting, running)
    shown = browser.get("/admin/jobs?q=status:running").text
    assert running in shown
    assert waiting not in shown
    assert "Cancel 1 jobs?" in browser.get("/admin/jobs/cancel?q=status:running").text
    assert browser.post("/admin/jobs/cancel?q=status:running").status_code == 303
    assert _statuses(web, waiting, running) == ["queued", "canceling"]


def test_the_audit_trail_is_exported_whole_and_without_formulas(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    browser.post("/admin/tenants", name="acme", weight="2")
    browser.post("/admin/keys", name="=1+1", scopes=["jobs:read"], once="a")
    lines = [json.loads(line) for line in browser.get("/admin/audit/export.jsonl").text.splitlines()]
    assert [(line["actor"], line["action"], line["target"]) for line in lines] == [
        ("admin", "tenant.put", "acme"), ("admin", "key.create", "=1+1")
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(browser.get("/admin/audit/export.csv?actor=admin").text)))
    assert [row["target"] for row in rows] == ["acme", "'=1+1"]
    assert json.loads(rows[0]["after"])["weight"] == 2
    assert browser.get("/admin/audit/export.csv?actor=nobody").text.count("\n") == 1
    assert browser.get("/admin/audit/export.xml").status_code == 404


def test_limits_of_a_tenant_are_set_and_taken_back_by_a_form(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    assert browser.post("/admin/tenants", name="acme", weight="2.5", max_queued_jobs="7").status_code == 303
    assert 'value="7"' in browser.get("/admin/tenants?name=acme").text
    assert browser.post("/admin/tenants", name="acme", weight="2.5").status_code == 303
    assert 'value="7"' not in browser.get("/admin/tenants?name=acme").text
    assert browser.post("/admin/tenants", name="A B", weight="1").status_code == 422
    assert browser.post("/admin/tenants", name="acme", weight="0").status_code == 422


def test_a_deployment_that_is_canceled_ends_its_model_and_stays_canceled(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    path = browser.post("/admin/models", name="second", source="/models/second").headers["Location"]
    assert "Cancel it" in browser.get(path).text
    assert browser.post(f"{path}/cancel").status_code == browser.post(f"{path}/cancel").status_code == 303
    page = browser.get(path).text
    assert ("state-canceled" in page, "Cancel it" in page) == (True, False)
    with web.services.ledger.reading() as session:
        assert get_model(session, "second").state is ModelState.FAILED
    deleting = browser.post(f"/admin/models/{MODEL}/delete").headers["Location"]
    assert browser.post(f"{deleting}/cancel").status_code == 409
    answer = web.http.post(f"/api/v1/operations/{path.rpartition('/')[2]}/cancel", headers=web.auth)
    assert (answer.status_code, answer.json["status"]) == (200, "canceled")
