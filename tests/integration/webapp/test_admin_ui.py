"""Pages of the admin UI over a real ledger and live state, without a browser: who may what, and what changes."""

from __future__ import annotations

import html
import json
import re
import shlex

import pytest
from sqlalchemy import delete

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.inventory import delete_checkpoint, get_model
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import JobRow, ModelRow
from tests.support.admin_ui import PASSWORD, Browser, add_user
from tests.support.web import DIGEST, MODEL, Web

PAGES = (
    "", "/models", "/checkpoints", "/placements", f"/placements/{DIGEST}/node0", "/jobs", "/failed", "/decisions",
    "/migrations", "/operations", "/audit", "/settings", "/events", "/charts?window=1d",
)  # fmt: skip
ADMIN_PAGES = ("/keys", "/users", "/tenants", "/webhooks", "/webhooks/deliveries", f"/models/{MODEL}/delete")
#: Every change, with the least role that may make it.
CHANGES = (
    ("/models", Role.ADMIN), (f"/models/{MODEL}/delete", Role.ADMIN), ("/keys", Role.ADMIN),
    ("/keys/abcdefgh/revoke", Role.ADMIN), ("/users", Role.ADMIN), ("/users/x/link", Role.ADMIN),
    ("/users/x/role", Role.ADMIN), ("/users/x/disable", Role.ADMIN), ("/jobs", Role.OPERATOR),
    ("/jobs/job_1/cancel", Role.OPERATOR), ("/jobs/job_1/retry", Role.OPERATOR), ("/failed/retry", Role.OPERATOR),
    (f"/placements/{DIGEST}/node0", Role.OPERATOR), (f"/checkpoints/{DIGEST}/verify", Role.OPERATOR),
    ("/nodes/node0/calibrate", Role.OPERATOR), ("/nodes/node0/drain", Role.OPERATOR),
    ("/jobs/job_1/move", Role.OPERATOR), ("/migrations/migration_1/abort", Role.OPERATOR),
    (f"/queues/{MODEL}/pause", Role.OPERATOR), ("/sign-out", Role.VIEWER),
    ("/jobs/cancel", Role.OPERATOR), ("/operations/op_1/cancel", Role.OPERATOR), ("/tenants", Role.ADMIN),
    ("/webhooks", Role.ADMIN), ("/webhooks/webhook_1/test", Role.ADMIN), ("/webhooks/webhook_1/disable", Role.ADMIN),
    ("/webhooks/webhook_1/delete", Role.ADMIN), ("/webhooks/deliveries/msg_1/redeliver", Role.ADMIN),
)  # fmt: skip


def _audit(web: Web) -> list[tuple[str, str, str]]:
    with web.services.ledger.reading() as session:
        rows = list_audit(session, PageRequest(limit=100, newest_first=False)).rows
    return [(row.actor, row.action, row.target) for row in rows]


@pytest.mark.parametrize("role", list(Role))
def test_every_page_opens_for_those_who_may_see_it(web: Web, role: Role) -> None:
    browser, job_id = Browser(web.services, role), web.submit()
    for path in (*PAGES, f"/jobs/{job_id}", *ADMIN_PAGES):
        response = browser.get(f"/admin{path}")
        may = role is Role.ADMIN or path not in ADMIN_PAGES
        assert response.status_code == (200 if may else 403), (path, response.text)
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-store"
        assert "Times are UTC." in response.text
        assert not re.search(r"<[^>]*\son\w+=|<style|\sstyle=|<script>", response.text), path


def test_who_is_not_signed_in_is_sent_to_sign_in_and_back(web: Web) -> None:
    for path in (*PAGES, *ADMIN_PAGES):
        response = web.http.get(f"/admin{path}")
        assert (response.status_code, response.headers["Location"].partition("?")[0]) == (303, "/admin/sign-in")
    add_user(web.services.ledger, "ada", Role.VIEWER)
    form = {"name": "ada", "password": PASSWORD}
    response = web.http.post("/admin/sign-in?next=/admin/jobs?q=status:active", data=form)
    assert (response.status_code, response.headers["Location"]) == (303, "/admin/jobs?q=status:active")
    assert web.http.get("/admin/jobs").status_code == 200
    elsewhere = web.http.post("/admin/sign-in?next=https://evil.example/admin", data=form)
    assert elsewhere.headers["Location"] == "/admin"


@pytest.mark.parametrize("role", list(Role))
def test_a_change_needs_its_role(web: Web, role: Role) -> None:
    browser = Browser(web.services, role)
    token = browser.csrf_token()
    for path, needed in CHANGES:
        if not role.includes(needed):
            response = browser.http.post(f"/admin{path}", data={"csrf_token": token})
            assert response.status_code == 403, path
            assert needed in response.text
    assert _audit(web) == []


def test_a_change_needs_the_token_of_its_session_and_an_origin_of_ours(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    token, audit = browser.csrf_token(), _audit(web)
    for path, _ in CHANGES:
        for form, headers in (
            ({}, {}),
            ({"csrf_token": "0" * 64}, {}),
            ({"csrf_token": token}, {"Origin": "https://evil.example"}),
            ({"csrf_token": token}, {"Sec-Fetch-Site": "cross-site"}),
        ):
            assert browser.http.post(f"/admin{path}", data=form, headers=headers).status_code == 403, path
    assert _audit(web) == audit


def test_a_session_cookie_is_for_no_script_and_no_other_site(web: Web) -> None:
    add_user(web.services.ledger, "ada", Role.VIEWER)
    form = {"name": "ada", "password": PASSWORD}
    plain = web.http.post("/admin/sign-in", data=form)
    cookie = plain.headers.getlist("Set-Cookie")[-1]
    assert {"HttpOnly", "SameSite=Lax", "Path=/admin"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    secure = web.http.post("/admin/sign-in", data=form, base_url="https://localhost")
    assert "Secure" in secure.headers.getlist("Set-Cookie")[-1].split("; ")


def test_signing_in_again_makes_a_new_session_and_ends_the_old_one(web: Web) -> None:
    browser = Browser(web.services, Role.VIEWER)
    browser.http.post("/admin/sign-in", data={"name": "viewer", "password": PASSWORD})
    assert browser.get("/admin").status_code == 200
    browser.http.set_cookie("sllm_session", browser.token, path="/admin")
    assert browser.get("/admin").status_code == 303


def test_wrong_passwords_are_refused_alike_and_after_ten_not_even_looked_at(web: Web) -> None:
    add_user(web.services.ledger, "ada", Role.ADMIN)

    def sign_in(name: str, password: str) -> tuple[int, str]:
        response = web.http.post("/admin/sign-in", data={"name": name, "password": password})
        return response.status_code, response.text

    assert sign_in("ada", "wrong") == sign_in("nobody", "wrong")
    assert [sign_in("ada", f"wrong {number}")[0] for number in range(9)] == [403] * 9
    assert sign_in("ada", PASSWORD)[0] == 429
    assert web.http.get("/admin").status_code == 303


def test_a_user_who_is_disabled_is_signed_out_at_once(web: Web) -> None:
    admin, viewer = Browser(web.services, Role.ADMIN), Browser(web.services, Role.VIEWER)
    assert viewer.get("/admin").status_code == 200
    assert admin.post("/admin/users/viewer/disable").status_code == 303
    assert viewer.get("/admin").status_code == 303
    assert viewer.get("/admin?live=1").status_code == 401


def test_an_invited_user_chooses_a_password_by_a_link_that_works_once(web: Web) -> None:
    admin = Browser(web.services, Role.ADMIN)
    shown = admin.post("/admin/users", name="ada", role="operator").text
    link = re.search(r"http://localhost(/admin/link/[\w-]+)", shown)
    assert link is not None
    assert web.http.get(link[1]).status_code == web.http.get(link[1]).status_code == 200
    for refused in ({"password": "short", "again": "short"}, {"password": PASSWORD, "again": "another password"}):
        assert web.http.post(link[1], data=refused).status_code == 422
    assert web.http.post(link[1], data={"password": PASSWORD, "again": PASSWORD}).headers["Location"] == "/admin"
    assert "ada <small>(operator)" in web.http.get("/admin").text
    assert web.http.get(link[1]).status_code == 410
    assert _audit(web) == [
        ("admin", "user.create", "ada"),
        ("ada", "user.password", "ada"),
        ("ada", "user.sign_in", "ada"),
    ]


def test_a_model_is_deployed_and_deleted_by_forms(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    form = {"name": "second", "source": "/models/second", "context": "32", "keep_alive_s": "2.5", "once": "first"}
    first, again = browser.post("/admin/models", **form), browser.post("/admin/models", **form)
    assert first.headers["Location"] == again.headers["Location"]
    with web.services.ledger.reading() as session:
        row = get_model(session, "second")
    assert (row.source, row.context, row.keep_alive_s) == ("/models/second", 32, 2.5)
    assert "second" in browser.get(first.headers["Location"]).text
    refused = browser.post("/admin/models", name="third", source="nowhere", context="3")
    assert (refused.status_code, 'value="nowhere"' in refused.text) == (422, True)
    assert "source must be the absolute path" in refused.text
    assert browser.post(f"/admin/models/{MODEL}/delete").status_code == 303
    assert [entry for entry in _audit(web) if entry[1].startswith("model")] == [
        ("admin", "model.put", "second"), ("admin", "model.delete", MODEL)
    ]  # fmt: skip


def test_a_job_is_submitted_watched_canceled_and_submitted_again(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    path = browser.post("/admin/jobs", model=MODEL, prompt="one two", max_tokens="8", once="a").headers["Location"]
    job_id = path.rpartition("/")[2]
    assert (
        browser.post("/admin/jobs", model=MODEL, prompt="one two", max_tokens="8", once="a").headers["Location"] == path
    )
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["three", "four"])
    page = browser.get(path).text
    assert (" three four</pre>" in page, "running" in page, "Cancel it" in page) == (True, True, True)
    assert browser.post(f"{path}/cancel").status_code == 303
    web.worker.finish(claim, " three four", 2, JobStatus.CANCELED)
    assert "Submit it again" in browser.get(path).text
    second = browser.post(f"{path}/retry").headers["Location"]
    assert second != path
    assert browser.get("/admin/jobs?q=status:canceled").text.count("state-canceled") == 1
    assert [entry[:2] for entry in _audit(web)] == [
        ("operator", "job.submit"), ("operator", "job.cancel"), ("operator", "job.retry")
    ]  # fmt: skip


def test_what_users_and_models_say_is_shown_as_text(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    evil = "<img src=x onerror=alert(1)>"
    path = browser.post("/admin/jobs", model=MODEL, prompt=evil).headers["Location"]
    assert evil not in browser.get(path).text
    assert evil not in browser.get(f"/admin/jobs?q={evil}").text
    assert "&lt;img" in browser.get(path).text


def test_a_job_is_shown_as_a_request_that_asks_for_the_same(web: Web) -> None:
    browser = Browser(web.services, Role.VIEWER)
    params = {"max_tokens": 3, "temperature": 0, "seed": 0, "top_p": 0.5, "stop": ["-x y"]}
    inputs = [{"prompt": "--one"}, {"prompt_ids": [2, 3]}, {"messages": [{"role": "user", "content": "one"}]}]
    asked = "--max-tokens 3 --temperature 0.0 --top-p 0.5 --top-k 0 --seed 0 '--stop=-x y'"
    commands = [f"sllm run {asked} -- {MODEL} --one", None, f"sllm run --chat {asked} -- {MODEL} one"]
    for given, command in zip(inputs, commands, strict=True):
        response = web.http.post(
            "/api/v1/jobs", json={"model": MODEL, "input": given, "params": params}, headers=web.auth
        )
        page = html.unescape(browser.get(f"/admin/jobs/{response.json['id']}").text)
        curl = page.partition('id="as-curl">')[2].partition("</pre>")[0]
        body = json.loads(shlex.split(curl)[-1])
        assert body["input"] == given
        assert {**body["params"], **params} == body["params"]
        assert page.partition('id="as-command">')[2].partition("</pre>")[0] == (command or "")


def test_a_group_of_more_failed_jobs_than_a_request_retries_is_retried_by_several(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.admin.failed._MAX_RETRIED", 2)
    browser = Browser(web.services, Role.OPERATOR)
    _fail(web, [web.submit() for _ in range(3)])
    group = f"/admin/failed/retry?code=worker_lost&model={MODEL}"
    for num_retried, num_jobs in ((2, 5), (1, 6), (0, 6)):
        assert f"Retry {num_retried} jobs?" in browser.get(group).text
        assert browser.post(group).status_code == 303
        with web.services.ledger.reading() as session:
            assert session.query(JobRow).count() == num_jobs


def _fail(web: Web, job_ids: list[str]) -> None:
    with web.services.ledger.transaction() as session:
        for job_id in job_ids:
            row = session.get(JobRow, job_id)
            assert row is not None
            row.status, row.ended_at, row.expires_at = JobStatus.FAILED, row.created_at, row.created_at
            row.error_code, row.error_message = ErrorCode.WORKER_LOST, "gone"


def test_failed_jobs_are_grouped_and_retried_once(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    _fail(web, [web.submit(), web.submit()])
    assert "worker lost" in browser.get("/admin/failed").text
    group = f"/admin/failed/retry?code=worker_lost&model={MODEL}"
    assert "Retry 2 jobs?" in browser.get(group).text
    for _ in range(2):
        assert browser.post(group).status_code == 303
    with web.services.ledger.reading() as session:
        assert session.query(JobRow).count() == 4


def test_a_placement_says_what_a_change_would_do_and_does_it(web: Web) -> None:
    browser, path = Browser(web.services, Role.OPERATOR), f"/admin/placements/{DIGEST}/node7"
    assert "No node has a copy that node7 could fetch" in browser.get(path).text
    assert browser.post(path, tier="dram", pinned="1").status_code == 303
    assert "DRAM, pinned" in browser.get(path).text
    assert browser.post(path, tier="gpu").status_code == 422
    assert browser.post(path, tier="none").status_code == 303
    assert [entry[1] for entry in _audit(web)] == ["placement.put", "placement.delete"]


def test_a_queue_is_paused_and_resumed(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    assert browser.post(f"/admin/queues/{MODEL}/pause").status_code == 303
    assert "Resume" in browser.get("/admin").text
    assert browser.post(f"/admin/queues/{MODEL}/resume").status_code == 303
    assert "Resume" not in browser.get("/admin").text


def test_a_node_is_drained_and_taken_back(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    assert "take no more work" in browser.get("/admin/nodes/node0/drain").text
    assert browser.post("/admin/nodes/node0/drain").status_code == 303
    assert "Take it back" in browser.get("/admin").text
    assert browser.post("/admin/nodes/node0/undrain").status_code == 303
    assert [entry[1] for entry in _audit(web)] == ["node.drain", "node.undrain"]
    assert browser.post("/admin/nodes/nobody/drain").status_code == 404


def test_a_key_is_shown_once_and_works_until_it_is_revoked(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    shown = browser.post("/admin/keys", name="robot", tenant="default", scopes=["jobs:read"], once="x").text
    key = re.search(r"sllm_([0-9a-z]{8})_[\w-]+", shown)
    assert key is not None
    auth = {"Authorization": f"Bearer {key[0]}"}
    assert web.http.get("/api/v1/jobs", headers=auth).status_code == 200
    assert key[0] not in browser.get("/admin/keys").text
    assert (
        "was shown the first time"
        in browser.post("/admin/keys", name="robot", tenant="default", scopes=["jobs:read"], once="x").text
    )
    assert browser.post(f"/admin/keys/{key[1]}/revoke").status_code == 303
    assert [entry[1] for entry in _audit(web)] == ["key.create", "key.revoke"]


def test_a_form_that_is_refused_is_shown_as_it_was_sent(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    key = browser.post("/admin/keys", name="robot", tenant="NO SUCH", scopes=["jobs:read"])
    assert (key.status_code, _ticked(key.text)) == (422, ["jobs:read"])
    hook = browser.post("/admin/webhooks", url="http://localhost", events=["job.failed"])
    assert (hook.status_code, _ticked(hook.text)) == (422, ["job.failed"])
    user = browser.post("/admin/users", name="NOT A NAME", role="operator")
    assert user.status_code == 422
    assert "<option selected>operator" in user.text.partition("Invite somebody")[2]
    browser.post("/admin/tenants", name="default", max_running_jobs="7")
    # The limit is given up, which is no reason to show it again.
    tenant = browser.post("/admin/tenants", name="default", max_running_jobs="", weight="-1")
    assert tenant.status_code == 422
    assert 'name="max_running_jobs" value=""' in tenant.text


def test_a_job_that_cannot_be_accepted_leaves_its_prompt_in_the_form(web: Web) -> None:
    browser = Browser(web.services, Role.OPERATOR)
    refused = browser.post("/admin/jobs", model=MODEL, prompt="one two", max_tokens="1000000")
    assert refused.status_code == 422
    assert "do not fit into" in refused.text
    assert ">one two</textarea>" in refused.text
    unknown = browser.post("/admin/jobs", model="nothing", prompt="one two", max_tokens="2")
    assert (unknown.status_code, ">one two</textarea>" in unknown.text) == (422, True)


def _ticked(page: str) -> list[str]:
    return re.findall(r'type="checkbox" name="\w+" value="([^"]*)" checked', page)


def test_the_live_part_of_a_page_is_sent_when_it_changes_until_the_session_ends(web: Web) -> None:
    admin, viewer = Browser(web.services, Role.ADMIN), Browser(web.services, Role.VIEWER)
    response = viewer.http.get("/admin/jobs?live=1", buffered=False)
    assert response.mimetype == "text/event-stream"
    stream = response.iter_encoded()
    assert b"No job was submitted yet" in next(stream)
    job_id = web.submit()
    assert job_id[-8:].encode() in next(stream)
    admin.post("/admin/users/viewer/disable")
    assert list(stream) == []
    response.close()


def test_the_live_part_of_a_page_ends_when_the_role_that_it_needs_is_taken(web: Web) -> None:
    admin = Browser(web.services, Role.ADMIN)
    add_user(web.services.ledger, "other", Role.ADMIN)
    response = admin.http.get("/admin/users?live=1", buffered=False)
    stream = response.iter_encoded()
    assert b"other" in next(stream)
    assert admin.post("/admin/users/admin/role", role="viewer").status_code == 303
    assert list(stream) == []
    response.close()


def test_the_live_part_of_a_placement_ends_when_its_checkpoint_is_forgotten(web: Web) -> None:
    response = Browser(web.services, Role.VIEWER).http.get(f"/admin/placements/{DIGEST}/node0?live=1", buffered=False)
    stream = response.iter_encoded()
    assert DIGEST.encode() in next(stream)
    with web.services.ledger.transaction() as session:
        session.execute(delete(ModelRow))
        assert delete_checkpoint(session, DIGEST)
    assert list(stream) == []
    response.close()


@pytest.mark.parametrize("path", ["/admin/jobs?q=a%26b+c&endpoint=x&_external=1", f"/admin/placements/{DIGEST}/node0"])
def test_a_page_knows_where_its_live_part_is_whatever_is_asked_of_it(web: Web, path: str) -> None:
    browser = Browser(web.services, Role.VIEWER)
    assert _live_url(browser.get(path).text) == f"{path}{'&' if '?' in path else '?'}live=1"


def test_the_page_with_a_new_link_is_live_as_the_list_of_users_is(web: Web) -> None:
    browser = Browser(web.services, Role.ADMIN)
    response = browser.post("/admin/users/admin/link")
    assert (response.status_code, _live_url(response.text)) == (200, "/admin/users?live=1")


def _live_url(page: str) -> str:
    found = re.search(r'hx-sse:connect="([^"]*)"', page)
    assert found is not None
    return html.unescape(found[1])


def test_a_page_that_is_not_there_is_a_page_and_the_bare_address_leads_to_the_overview(web: Web) -> None:
    response = Browser(web.services, Role.VIEWER).get("/admin/nothing")
    assert (response.status_code, response.mimetype) == (404, "text/html")
    assert web.http.get("/").headers["Location"] == "/admin"


def test_settings_are_shown_without_secrets(web: Web) -> None:
    page = Browser(web.services, Role.VIEWER).get("/admin/settings").text
    assert "max_queued_jobs" in page
    assert "ledger_url" not in page
