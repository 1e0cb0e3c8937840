"""What the web process answers while what it depends on is away."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sllm_tasks.config import Settings
from sllm_tasks.ledger import schema
from sllm_tasks.ledger.states import Role
from tests.support.admin_ui import Browser
from tests.support.valkey import ValkeyServer
from tests.support.web import MODEL, Web

_BODY = {"model": MODEL, "input": {"prompt": "one two"}}


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server that the test may break."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, own_valkey: ValkeyServer) -> Settings:
    """Settings with a live state that nobody else uses."""
    settings = Settings(home=tmp_path, redis_url=own_valkey.url, web_threads=40)
    schema.upgrade(settings.ledger_url)
    return settings


def test_a_job_is_accepted_and_readable_while_the_live_state_is_away(web: Web, own_valkey: ValkeyServer) -> None:
    own_valkey.kill()
    response = web.http.post("/api/v1/jobs", json=_BODY, headers=web.auth)
    assert (response.status_code, response.json["status"]) == (202, "queued")
    assert web.http.get(response.headers["Location"], headers=web.auth).json["phase"] == "waiting_gpu"
    assert web.http.get("/healthz").status_code == 200
    ready = web.http.get("/readyz")
    assert (ready.status_code, ready.json["code"]) == (503, "unavailable")
    nodes = web.http.get("/api/v1/nodes", headers=web.auth)
    assert (nodes.status_code, nodes.headers["Retry-After"]) == (503, "1")


def test_a_live_page_says_so_while_what_it_shows_is_of_before(web: Web, own_valkey: ValkeyServer) -> None:
    response = Browser(web.services, Role.VIEWER).http.get("/admin?live=1", buffered=False)
    stream = response.iter_encoded()
    shown = next(stream)
    own_valkey.kill()
    assert next(stream) == b"event: stale\ndata:\n\n"
    own_valkey.start()
    # Also where nothing has changed: the page is told that it is up to date.
    assert next(stream).startswith(shown[:20])
    response.close()


def test_metrics_say_what_is_away_and_show_the_rest(web: Web, own_valkey: ValkeyServer) -> None:
    own_valkey.kill()
    text = web.http.get("/metrics", headers=web.auth).text
    assert 'sllm_up{store="live_state"} 0.0' in text
    assert 'sllm_up{store="ledger"} 1.0' in text
    assert "sllm_queue_depth" not in text


def test_a_stream_outlives_a_restart_of_the_live_state(web: Web, own_valkey: ValkeyServer) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one"])
    stream = web.http.get(f"/api/v1/jobs/{job_id}/events", headers=web.auth, buffered=False)
    chunks = stream.iter_encoded()
    seen = b""
    while b"event: token" not in seen:
        seen += next(chunks)
    own_valkey.kill()
    own_valkey.start()
    web.worker.emit(claim, ["two"], first=1)
    web.worker.finish(claim, " one two", 2)
    seen += b"".join(chunks)
    assert (seen.count(b"event: token"), seen.count(b"event: snapshot")) == (2, 0)
    assert seen.count(b"event: completed") == 1


def test_nothing_is_accepted_while_the_live_state_has_no_memory(web: Web, own_valkey: ValkeyServer) -> None:
    with own_valkey.client() as redis:
        redis.config_set("maxmemory", "1")
        response = web.http.post("/api/v1/jobs", json=_BODY, headers=web.auth)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert web.http.get("/api/v1/jobs", headers=web.auth).json["data"] == []
        redis.config_set("maxmemory", "0")


def test_nothing_is_accepted_while_the_ledger_cannot_be_written(web: Web, settings: Settings) -> None:
    web.submit()
    locker = sqlite3.connect(settings.ledger_url.removeprefix("sqlite:///"), isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    response = web.http.post("/api/v1/jobs", json=_BODY, headers=web.auth)
    assert (response.status_code, response.json["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"] == "1"
    locker.execute("ROLLBACK")
    locker.close()
    assert web.http.post("/api/v1/jobs", json=_BODY, headers=web.auth).status_code == 202


def test_refusals_of_a_kind_are_logged_together(
    web: Web, own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.kill()
    for _ in range(5):
        assert web.http.get("/readyz").status_code == 503
    refused = [record for record in caplog.records if "/readyz" in record.getMessage()]
    assert [record.levelname for record in refused] == ["WARNING"]


def test_an_error_that_nobody_foresaw_is_told_in_one_word_and_logged(
    web: Web, caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    web.submit()
    with sqlite3.connect(settings.ledger_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE job_attempts")
    database.close()
    job_id = web.http.get("/api/v1/jobs", headers=web.auth).json["data"][0]["id"]
    response = web.http.get(f"/api/v1/jobs/{job_id}/attempts", headers=web.auth)
    assert (response.status_code, response.json["code"]) == (500, "internal")
    assert "job_attempts" not in response.text
    assert response.json["request_id"] in caplog.text
