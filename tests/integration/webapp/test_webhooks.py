"""Webhooks over REST and in the admin UI: who may make them, what is shown of them, and what they are told."""

from __future__ import annotations

import re
from typing import Any

from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from tests.support.admin_ui import Browser
from tests.support.web import MODEL, Web, add_key

ALL = "/api/v1/webhooks"
URL = "https://example.com/hook?a=1"


def _create(web: Web, **headers: str) -> dict[str, Any]:
    response = web.http.post(ALL, json={"url": URL}, headers={**web.auth, **headers})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json
    return made


def _deliveries(web: Web, webhook: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = web.http.get(f"{ALL}/{webhook}/deliveries", headers=web.auth).json["data"]
    return listed


def test_the_secret_of_a_webhook_is_shown_once(web: Web) -> None:
    made = _create(web, **{"Idempotency-Key": "a"})
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made["secret"])
    again = _create(web, **{"Idempotency-Key": "a"})
    assert (again["id"], again["secret"]) == (made["id"], None)
    one = web.http.get(f"{ALL}/{made['id']}", headers=web.auth)
    assert made["secret"] not in one.text
    with web.services.ledger.reading() as session:
        (row,) = list_audit(session, PageRequest()).rows
    assert (row.action, row.target) == ("webhook.create", made["id"])
    assert made["secret"] not in str(row.after)


def test_the_end_of_a_job_waits_to_be_told_and_can_be_told_again(web: Web) -> None:
    webhook = _create(web)["id"]
    job_id = web.submit(webhook={"url": "http://own.example/", "events": ["job.succeeded", "job.failed"]})
    web.worker.run(job_id, ["three"])
    (message,) = _deliveries(web, webhook)
    assert (message["job"], message["event"], message["status"], message["url"]) == (
        job_id, "job.succeeded", "pending", URL
    )  # fmt: skip
    listed = web.http.get(f"/api/v1/jobs/{job_id}/deliveries", headers=web.auth).json["data"]
    assert {each["url"] for each in listed} == {URL, "http://own.example/"}
    again = f"{ALL}/{webhook}/deliveries/{message['id']}/redeliver"
    assert web.http.post(again, headers=web.auth).status_code == 202
    assert web.http.post(again.replace(webhook, "webhook_other"), headers=web.auth).status_code == 404
    other = {"Authorization": f"Bearer {add_key(web.services.ledger, tenant='other')}"}
    assert web.http.get(f"/api/v1/jobs/{job_id}/deliveries", headers=other).status_code == 404


def test_a_disabled_webhook_is_told_nothing_until_it_is_enabled(web: Web) -> None:
    webhook = _create(web)["id"]
    one = f"{ALL}/{webhook}"
    assert web.http.patch(one, json={"enabled": False}, headers=web.auth).json["enabled"] is False
    web.worker.run(web.submit(), ["three"])
    assert web.http.post(f"{one}/test", headers=web.auth).status_code == 409
    assert web.http.patch(one, json={"enabled": True}, headers=web.auth).json["disabled_reason"] is None
    assert web.http.post(f"{one}/test", headers=web.auth).status_code == 202
    assert [message["event"] for message in _deliveries(web, webhook)] == ["webhook.test"]
    assert web.http.delete(one, headers=web.auth).status_code == 204
    assert web.http.get(one, headers=web.auth).status_code == 404


WRONG: tuple[dict[str, Any], ...] = (
    {"url": "ftp://example.com/"}, {"url": "https://"}, {"url": "https://user:pw@example.com/"},
    {"url": "https://example.com:port/"}, {"url": "https://example.com/ a"}, {"url": "https://[::1/"},
    {"url": URL, "events": []}, {"url": URL, "events": ["job.started"]},
    {"url": URL, "events": ["job.failed", "job.failed"]},
)  # fmt: skip


def test_what_can_be_no_webhook_is_refused_and_not_repeated(web: Web) -> None:
    for body in WRONG:
        response = web.http.post(ALL, json=body, headers=web.auth)
        assert (response.status_code, "pw@" in response.text) == (422, False), body
        job = {"model": MODEL, "input": {"prompt": "one"}, "webhook": body}
        assert web.http.post("/api/v1/jobs", json=job, headers=web.auth).status_code == 422, body


def test_an_address_that_no_message_would_be_sent_to_is_refused_where_it_is_given(web: Web) -> None:
    url = "http://127.0.0.1:9/hook"
    refused = web.http.post(ALL, json={"url": url}, headers=web.auth)
    job = {"model": MODEL, "input": {"prompt": "one"}, "webhook": {"url": url}}
    refused_job = web.http.post("/api/v1/jobs", json=job, headers=web.auth)
    pointers = [each.json["errors"][0]["pointer"] for each in (refused, refused_job)]
    assert (refused.status_code, refused_job.status_code, pointers) == (422, 422, ["/url", "/webhook/url"])
    assert "webhook_networks" in refused.text
    form = Browser(web.services, Role.ADMIN).post("/admin/webhooks", url=url, tenant="default", events=["job.failed"])
    assert (form.status_code, "webhook_networks" in form.text) == (422, True)
    assert web.http.get(ALL, headers=web.auth).json["data"] == []


def test_a_tenant_reads_the_secret_of_its_own_jobs_and_nobody_elses(web: Web) -> None:
    mine = web.http.get("/api/v1/webhook-secret", headers=web.auth).json
    other = add_key(web.services.ledger, Scope.JOBS_WRITE, tenant="other")
    theirs = web.http.get("/api/v1/webhook-secret", headers={"Authorization": f"Bearer {other}"}).json
    assert (mine["tenant"], theirs["tenant"]) == ("default", "other")
    assert mine["secret"] != theirs["secret"]
    assert web.http.get(ALL, headers={"Authorization": f"Bearer {other}"}).status_code == 403


def test_an_admin_adds_tests_disables_and_deletes_a_webhook_by_forms(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    refused = browser.post("/admin/webhooks", url="nowhere", tenant="default", events=["job.failed"])
    assert (refused.status_code, "must be a URL" in refused.text) == (422, True)
    shown = browser.post("/admin/webhooks", url=URL, tenant="default", events=["job.failed"], once="x").text
    secret = re.search(r"whsec_[\w+/]{43}=", shown)
    webhook = re.search(r"webhook_\w{26}", shown)
    assert secret is not None
    assert webhook is not None
    assert secret[0] not in browser.get("/admin/webhooks").text
    assert browser.post(f"/admin/webhooks/{webhook[0]}/test").status_code == 303
    page = browser.get(f"/admin/webhooks/deliveries?webhook={webhook[0]}&status=pending").text
    message = re.search(r"/admin/webhooks/deliveries/(msg_\w{26})/redeliver", page)
    assert message is not None
    assert browser.post(message[0]).status_code == 303
    assert browser.post(f"/admin/webhooks/{webhook[0]}/disable").status_code == 303
    assert "by admin" in browser.get("/admin/webhooks").text
    assert "told nothing more" in browser.get(f"/admin/webhooks/{webhook[0]}/delete").text
    assert browser.post(f"/admin/webhooks/{webhook[0]}/delete").status_code == 303
