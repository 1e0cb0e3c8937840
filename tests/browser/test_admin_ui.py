"""The admin UI in a real browser over a real cluster: every page, what each role can do, live updates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import ConsoleMessage, Page, Route, expect

from sllm_tasks.client import Job, calls
from sllm_tasks.cluster import GpuId, GpuState, NodeInfo
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.states import Role
from tests.support.admin_ui import PASSWORD, add_user
from tests.support.cluster import MODEL, Cluster
from tests.support.processes import wait_until
from tests.support.receiver import receiving

pytestmark = pytest.mark.slow

_AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
_TIMEOUT_MS = 30_000
#: Of a job that a person does something about while it runs.
_TOKENS = 240
PAGES = (
    "Overview", "Charts", "Models", "Checkpoints", "Placements", "Jobs", "Failed jobs", "Scheduler", "Migrations",
    "Operations", "Events", "Audit", "Settings",
)  # fmt: skip
ADMIN_PAGES = ("Tenants", "API keys", "Webhooks", "Users")


@contextmanager
def _page(chromium: Chromium, cluster: Cluster, *, scripts: bool = True) -> Iterator[Page]:
    """A fresh browser profile; whatever a page complains of on its console fails the test.

    A test has to see the answer to its last click before it ends: a page that is closed while the answer arrives may
    stay open, and closing waits for ever (microsoft/playwright issue 42366).
    """
    # Without motion colours change at once, so that contrast is measured of what stays.
    context = chromium.new_context(base_url=_url(cluster), java_script_enabled=scripts, reduced_motion="reduce")
    context.set_default_timeout(_TIMEOUT_MS)
    page = context.new_page()
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(f"{page.url}: {message.text}")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    yield page
    context.close()
    assert complaints == []


def _url(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.settings.port}"


def _sign_in(page: Page, name: str) -> None:
    page.goto("/admin")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


@pytest.fixture(scope="module", autouse=True)
def users(cluster: Cluster) -> None:
    """A user of each role; the first admin, called so, is yet to choose a password."""
    ledger = Database(cluster.settings.ledger_url)
    for name, role in (("viewer", Role.VIEWER), ("operator", Role.OPERATOR), ("second-admin", Role.ADMIN)):
        add_user(ledger, name, role)
    ledger.close()


def _running_job(cluster: Cluster) -> Job:
    """A job that has tokens, and some seconds to go."""
    job = cluster.client.submit(model=MODEL, prompt="one two three", max_tokens=_TOKENS, ignore_eos=True)
    wait_until(lambda: (view := cluster.live.jobs.view(job.id)) is not None and view.num_tokens, "the first token")
    return job


def _gpu_of(cluster: Cluster, job: Job) -> GpuId | None:
    view = cluster.live.jobs.view(job.id)
    return None if view is None else view.gpu


def _nodes(cluster: Cluster) -> list[NodeInfo]:
    return cluster.live.fleet.nodes(cluster.live.now_ms())


def _violations(page: Page) -> list[str]:
    page.evaluate(_AXE.read_text())
    found: dict[str, Any] = page.evaluate("axe.run()")
    return [f"{page.url} {each['id']}: {each['nodes'][0]['html']}" for each in found["violations"]]


def test_the_printed_link_leads_the_first_admin_to_every_page(chromium: Chromium, cluster: Cluster) -> None:
    link = re.search(r"admin UI: (http://\S+)", cluster.log("up"))
    assert link is not None
    with _page(chromium, cluster) as page:
        page.goto(link[1])
        assert _violations(page) == []
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("Once more").fill(PASSWORD)
        page.get_by_role("button", name="Set it and sign in").click()
        for name in (*PAGES, *ADMIN_PAGES):
            page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
            expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
            if name == "Charts":
                expect(page.locator("canvas")).to_have_count(4)
            else:
                expect(page.locator("#live-state")).to_be_visible(timeout=_TIMEOUT_MS)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert _violations(page) == [], scheme


def test_an_operator_submits_a_job_and_watches_its_tokens_come(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        _sign_in(page, "operator")
        page.get_by_role("link", name="Jobs", exact=True).click()
        page.get_by_text("Submit a job").click()
        page.locator("select[name=model]").select_option(MODEL)
        page.get_by_label("Tokens, at most").fill("200")
        page.get_by_label("Prompt").fill("one two three")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Job")
        output = page.locator("#output")
        expect(output).not_to_be_empty(timeout=_TIMEOUT_MS)
        seen = output.inner_text()
        expect(output).not_to_have_text(seen, timeout=_TIMEOUT_MS)
        assert output.inner_text().startswith(seen)
        assert _violations(page) == []
        page.get_by_role("button", name="Cancel it").click()
        expect(page.get_by_role("status")).to_contain_text("asked to stop")
        expect(page.locator("#live .state").first).to_have_text("canceled", timeout=_TIMEOUT_MS)
        expect(page.get_by_role("button", name="Submit it again")).to_be_visible()


def test_an_admin_deploys_a_model_and_makes_and_revokes_a_key(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        _sign_in(page, "second-admin")
        page.get_by_role("link", name="Models", exact=True).click()
        page.get_by_text("Deploy a model").click()
        page.get_by_label("Name").fill("second")
        page.get_by_label("Source").fill(str(cluster.home / "source" / MODEL))
        page.get_by_label("Context, tokens").fill("128")
        page.get_by_role("button", name="Deploy").click()
        operation = calls.get_operation(page.url.rpartition("/")[2])
        cluster.client.wait_for(cluster.client.run(operation), timeout=120)
        expect(page.locator("#live .state").first).to_have_text("succeeded", timeout=_TIMEOUT_MS)
        page.get_by_role("link", name="API keys").click()
        page.get_by_text("Make a key").click()
        page.get_by_label("Name").fill("robot")
        page.get_by_role("button", name="Make it").click()
        assert page.locator("#new-key").inner_text().startswith("sllm_")
        page.get_by_role("row", name="robot").get_by_role("link", name="Revoke").click()
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("row", name="robot")).to_contain_text("revoked")


def test_an_admin_adds_a_webhook_and_sees_its_test_arrive(chromium: Chromium, cluster: Cluster) -> None:
    with receiving() as receiver, _page(chromium, cluster) as page:
        _sign_in(page, "second-admin")
        page.get_by_role("link", name="Webhooks", exact=True).click()
        page.get_by_text("Add a webhook").click()
        page.get_by_label("URL").fill(receiver.url)
        page.get_by_role("button", name="Add it").click()
        assert page.locator("#new-secret").inner_text().startswith("whsec_")
        page.get_by_role("button", name="Send a test").click()
        expect(page.get_by_role("row", name="webhook.test")).to_contain_text("delivered", timeout=_TIMEOUT_MS)
        assert [json.loads(body)["type"] for _, body in receiver.got] == ["webhook.test"]
        assert _violations(page) == []
        page.get_by_role("link", name="All webhooks").click()
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("Nobody is told")).to_be_visible()


def test_an_operator_moves_a_job_and_drains_the_node_where_it_went(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        _sign_in(page, "operator")
        job = _running_job(cluster)
        source = _gpu_of(cluster, job)
        page.goto(f"/admin/jobs/{job.id}")
        page.get_by_role("button", name="Move it").click()
        expect(page.locator("#live")).to_contain_text("Moved", timeout=_TIMEOUT_MS)
        wait_until(lambda: _gpu_of(cluster, job) not in {None, source}, "the job is on another gpu")
        target = _gpu_of(cluster, job)
        assert target is not None
        page.get_by_role("link", name="Migrations", exact=True).click()
        expect(page.locator("#live tbody tr").first).to_contain_text(str(target), timeout=_TIMEOUT_MS)
        page.get_by_role("link", name="Overview", exact=True).click()
        page.get_by_role("region", name=target.node).get_by_role("link", name="Drain").click()
        page.get_by_role("button", name="Drain it").click()
        expect(page.get_by_role("region", name=target.node)).to_contain_text("draining", timeout=_TIMEOUT_MS)
        wait_until(lambda: _gpu_of(cluster, job) != target, "the job has left the node that is drained")
        assert cluster.gpus()[str(target)].state is GpuState.DRAINING
        assert job.result(timeout=60).usage.completion_tokens == _TOKENS
        page.get_by_role("region", name=target.node).get_by_role("button", name="Take it back").click()
        expect(page.get_by_role("status")).to_contain_text("takes work again")
        wait_until(lambda: cluster.gpus()[str(target)].state is GpuState.UP, "the node is taken back")


def test_a_live_page_has_every_token_although_the_web_process_was_killed(chromium: Chromium, cluster: Cluster) -> None:
    # What the browser says of the connection that it lost is no mistake of the page.
    context = chromium.new_context(base_url=_url(cluster))
    page = context.new_page()
    _sign_in(page, "operator")
    job = _running_job(cluster)
    page.goto(f"/admin/jobs/{job.id}")
    output = page.locator("#output")
    expect(output).not_to_be_empty(timeout=_TIMEOUT_MS)
    before = cluster.kill("web")
    cluster.wait_restarted("web", before)
    text = job.result(timeout=60).text
    expect(output).to_have_text(text, timeout=_TIMEOUT_MS)
    expect(page.locator("#live .state").first).to_have_text("succeeded", timeout=_TIMEOUT_MS)
    context.close()


def test_the_tokens_of_a_job_come_although_its_stream_was_refused_at_first(
    chromium: Chromium, cluster: Cluster
) -> None:
    # The refusal is on the console; it is no mistake of the page.
    context = chromium.new_context(base_url=_url(cluster))
    page = context.new_page()
    _sign_in(page, "operator")
    job = _running_job(cluster)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(route.request.url)
            route.fulfill(status=503)

    page.route(re.compile("/events$"), refuse_once)
    page.goto(f"/admin/jobs/{job.id}")
    expect(page.locator("#output")).to_have_text(job.result(timeout=60).text, timeout=_TIMEOUT_MS)
    assert len(refused) == 1
    context.close()


def test_a_page_whose_server_cannot_tell_how_things_are_is_called_stale(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        _sign_in(page, "viewer")
        told = "event: stale\ndata:\n\n"
        page.route(re.compile("live=1"), lambda route: route.fulfill(content_type="text/event-stream", body=told))
        page.goto("/admin/jobs")
        expect(page.locator("#live-state")).to_have_text("stale", timeout=_TIMEOUT_MS)
        expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
        page.unroute_all()
        expect(page.locator("#live-state")).to_have_text("live", timeout=_TIMEOUT_MS)


def test_who_is_no_admin_any_more_is_told_so_by_the_page_that_was_open(chromium: Chromium, cluster: Cluster) -> None:
    ledger = Database(cluster.settings.ledger_url)
    add_user(ledger, "passing-admin", Role.ADMIN)
    ledger.close()
    # The refusal is on the console; it is no mistake of the page.
    context = chromium.new_context(base_url=_url(cluster))
    page = context.new_page()
    _sign_in(page, "passing-admin")
    page.goto("/admin/users")
    expect(page.locator("#live-state")).to_have_text("live", timeout=_TIMEOUT_MS)
    cluster.client.run(calls.set_role("passing-admin", "viewer"))
    expect(page.get_by_text("this needs the role admin; you are viewer")).to_be_visible(timeout=_TIMEOUT_MS)
    context.close()


def test_updates_go_on_after_a_pause_without_a_form_being_sent_again(chromium: Chromium, cluster: Cluster) -> None:
    cluster.client.run(calls.create_user("newcomer", "viewer"))
    with _page(chromium, cluster) as page:
        _sign_in(page, "second-admin")
        page.goto("/admin/users")
        row = page.locator("tr", has=page.get_by_role("rowheader", name="newcomer", exact=True))
        row.get_by_role("button", name="New link").click()
        link = page.locator("#new-link").inner_text()
        pill = page.locator("#live-state")
        expect(pill).to_have_text("live", timeout=_TIMEOUT_MS)
        pill.click()
        expect(pill).to_have_text("paused")
        pill.click()
        expect(pill).to_have_text("live", timeout=_TIMEOUT_MS)
        expect(page.locator("#new-link")).to_have_count(0)
    assert httpx2.get(link).status_code == 200


def test_a_stream_ends_when_an_admin_revokes_its_key(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        _sign_in(page, "second-admin")
        page.get_by_role("link", name="API keys").click()
        page.get_by_text("Make a key").click()
        page.get_by_label("Name").fill("reader")
        page.get_by_role("button", name="Make it").click()
        key = page.locator("#new-key").inner_text()
        job = _running_job(cluster)
        with httpx2.stream(
            "GET", f"{_url(cluster)}/api/v1/jobs/{job.id}/events", headers={"Authorization": f"Bearer {key}"}
        ) as answer:
            lines = answer.iter_lines()
            assert answer.status_code == 200
            assert any(line == "event: token" for line in lines)
            page.get_by_role("row", name="reader").get_by_role("link", name="Revoke").click()
            page.get_by_role("button", name="Revoke").click()
            assert "event: completed" not in list(lines)
            expect(page.get_by_role("row", name="reader")).to_contain_text("revoked")
        assert not job.refresh().status.is_terminal
        job.cancel()


def test_a_viewer_sees_everything_and_changes_nothing(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        _sign_in(page, "viewer")
        for name in PAGES:
            page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
            expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
            buttons = page.locator("main form[method=post] button")
            assert buttons.count() == 0, name
        for name in ADMIN_PAGES:
            assert page.get_by_role("link", name=name, exact=True).count() == 0
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_without_scripts_pages_show_and_forms_work(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster, scripts=False) as page:
        _sign_in(page, "operator")
        page.get_by_role("link", name="Placements", exact=True).click()
        page.locator("table.matrix a").first.click()
        page.get_by_label("In DRAM as well").check()
        page.get_by_label("Pinned").check()
        page.get_by_role("button", name="Want it so").click()
        expect(page.get_by_role("status")).to_contain_text("reconciler")
        expect(page.locator("dl.facts")).to_contain_text("DRAM, pinned")
        wait_until(lambda: any(node.kept_in_dram for node in _nodes(cluster)), "a node keeps it in DRAM")
        page.locator("input[name=tier][value=ssd]").check()
        page.get_by_role("button", name="Want it so").click()
        wait_until(lambda: not any(node.kept_in_dram for node in _nodes(cluster)), "no node keeps it in DRAM")
        page.get_by_role("link", name="Jobs", exact=True).click()
        page.get_by_role("searchbox").fill("status:active")
        page.get_by_role("button", name="Search").click()
        assert page.url.endswith("/admin/jobs?q=status%3Aactive")
        page.get_by_role("link", name="Charts", exact=True).click()
        page.get_by_text("As a table").first.click()
        expect(page.locator("figure.chart table").first.locator("tbody tr")).to_have_count(60)


def test_a_page_becomes_live_however_late_its_scripts_come(chromium: Chromium, cluster: Cluster) -> None:
    def delay(route: Route) -> None:
        page.wait_for_timeout(300)
        route.continue_()

    with _page(chromium, cluster) as page:
        page.route("**/hx-sse-*.js", delay)
        _sign_in(page, "viewer")
        expect(page.locator("#live-state")).to_be_visible(timeout=_TIMEOUT_MS)


def test_who_is_disabled_while_looking_is_sent_to_sign_in(chromium: Chromium, cluster: Cluster) -> None:
    ledger = Database(cluster.settings.ledger_url)
    add_user(ledger, "leaver", Role.VIEWER)
    ledger.close()
    context = chromium.new_context(base_url=_url(cluster))
    page = context.new_page()
    _sign_in(page, "leaver")
    # Shown once the stream is open.
    expect(page.locator("#live-state")).to_be_visible(timeout=_TIMEOUT_MS)
    cluster.client.run(calls.disable_user("leaver"))
    expect(page.get_by_role("button", name="Sign in")).to_be_visible(timeout=_TIMEOUT_MS)
    context.close()


def test_who_is_disabled_before_the_page_is_live_is_sent_to_sign_in_too(chromium: Chromium, cluster: Cluster) -> None:
    ledger = Database(cluster.settings.ledger_url)
    add_user(ledger, "early-leaver", Role.VIEWER)
    ledger.close()
    context = chromium.new_context(base_url=_url(cluster))
    page = context.new_page()

    def disable_first(route: Route) -> None:
        cluster.client.run(calls.disable_user("early-leaver"))
        route.continue_()

    page.route("**/*live=1*", disable_first, times=1)
    _sign_in(page, "early-leaver")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible(timeout=_TIMEOUT_MS)
    context.close()


def test_a_link_in_the_description_of_the_api_opens_what_it_leads_to(chromium: Chromium, cluster: Cluster) -> None:
    with _page(chromium, cluster) as page:
        page.set_viewport_size({"width": 400, "height": 900})
        page.goto("/api/v1/openapi.html")
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        page.evaluate("document.querySelector('details:has(#Checkpoint)').open = false")
        page.locator("a[href='#Checkpoint']").first.click()
        expect(page.locator("#Checkpoint")).to_be_visible()


def test_a_form_that_is_refused_is_in_sight_below_a_long_list(chromium: Chromium, cluster: Cluster) -> None:
    jobs = [cluster.client.submit(model=MODEL, prompt="one", max_tokens=1) for _ in range(30)]
    for job in jobs:
        job.result(timeout=60)
    # The refusal is on the console; it is no mistake of the page.
    context = chromium.new_context(base_url=_url(cluster))
    page = context.new_page()
    _sign_in(page, "operator")
    page.goto("/admin/jobs")
    page.get_by_text("Submit a job").click()
    page.locator("select[name=model]").select_option(MODEL)
    page.get_by_label("Prompt").fill("x" * 400)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("do not fit into")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    expect(page.get_by_label("Prompt")).to_have_value("x" * 400)
    context.close()


def test_the_longest_name_of_a_model_pushes_nothing_off_the_screen(chromium: Chromium, cluster: Cluster) -> None:
    name = "m" * 128
    cluster.deploy(name)
    with _page(chromium, cluster) as page:
        page.set_viewport_size({"width": 1400, "height": 900})
        _sign_in(page, "operator")
        for path in ("/admin", "/admin/models", "/admin/checkpoints", "/admin/placements", "/admin/operations"):
            page.goto(path)
            expect(page.locator("#live").get_by_text(name).first).to_be_visible()
            hidden = (
                "[...document.querySelectorAll('.table')].filter((each) => each.scrollWidth > each.clientWidth).length"
            )
            assert page.evaluate(hidden) == 0, path
    cluster.client.wait_for(cluster.client.run(calls.delete_model(name)), timeout=60)
