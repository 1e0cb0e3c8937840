"""The event stream of a job: what a reader sees, whatever happens to what it reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.encoding import job_spec
from sllm_tasks.ledger.jobs import get_job
from tests.support.valkey import ValkeyServer
from tests.support.web import Web, add_key
from webapp.job_events import stream_events
from webapp.job_follower import parse_event_id
from webapp.job_views import find_job


@dataclass(frozen=True)
class Event:
    """One event as it arrives; comments are left out."""

    id: str | None
    kind: str
    data: Any


def _read(web: Web, job_id: str, after: str | None = None) -> Iterator[Event]:
    headers = web.auth if after is None else {**web.auth, "Last-Event-ID": after}
    response = web.http.get(f"/api/v1/jobs/{job_id}/events", headers=headers, buffered=False)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    for chunk in response.iter_encoded():
        for block in chunk.decode().split("\n\n"):
            fields = dict(line.split(": ", maxsplit=1) for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))


def test_a_stream_shows_every_change_and_token_and_ends_with_the_job(web: Web) -> None:
    job_id = web.submit()
    web.worker.run(job_id, ["one", "two"])
    events = list(_read(web, job_id))
    statuses = [event.data["status"] for event in events if event.kind == "status"]
    assert list(dict.fromkeys(statuses)) == ["queued", "starting", "running"]
    tokens = [(event.data["index"], event.data["text"]) for event in events if event.kind == "token"]
    assert tokens == [(0, " one"), (1, " two")]
    assert events[-1].kind == "completed"
    assert events[-1].data["status"] == "succeeded"
    assert len({event.id for event in events}) == len(events)


def test_a_reader_that_comes_back_gets_what_it_has_not_seen(web: Web) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one", "two"])
    seen = next(event for event in _read(web, job_id) if event.kind == "token")
    web.worker.finish(claim, " one two", 2)
    rest = list(_read(web, job_id, seen.id))
    assert [event.data["text"] for event in rest if event.kind == "token"] == [" two"]
    by_query = web.http.get(f"/api/v1/jobs/{job_id}/events?after={seen.id}", headers=web.auth)
    assert by_query.text.count("event: token") == 1


def test_a_reader_that_has_seen_the_end_is_told_not_to_come_back(web: Web) -> None:
    job_id = web.submit()
    web.worker.run(job_id, ["one"])
    *_, last = _read(web, job_id)
    headers = {**web.auth, "Last-Event-ID": last.id or ""}
    assert web.http.get(f"/api/v1/jobs/{job_id}/events", headers=headers).status_code == 204


def test_a_reader_whose_stream_was_lost_gets_a_snapshot_and_then_the_new_attempt(
    web: Web, valkey_server: ValkeyServer
) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one", "two"])
    events = _read(web, job_id)
    seen = list(itertools.islice((event for event in events if event.kind == "token"), 2))
    with valkey_server.client() as redis:
        redis.flushall()
    web.worker.register()
    with web.services.ledger.reading() as session:
        row = get_job(session, job_id)
        assert row is not None
        web.services.live.jobs.create(job_spec(row), attempt=2, again=True)
    again = web.worker.claim(job_id, attempt=2)
    web.worker.emit(again, ["three"])
    web.worker.finish(again, " three", 1)
    for rest in (list(events), list(_read(web, job_id, seen[-1].id))):
        first, *more = (event for event in rest if event.kind in {"snapshot", "token"})
        assert first.kind == "snapshot"
        assert first.data["text"] + "".join(event.data["text"] for event in more) == " three"
        assert rest[-1].kind == "completed"


def test_a_reader_of_tokens_that_a_dying_server_lost_sees_none_twice(web: Web, valkey_server: ValkeyServer) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one", "two", "three"])
    events = _read(web, job_id)
    *_, last = itertools.islice((event for event in events if event.kind == "token"), 3)
    assert last.id
    with valkey_server.client() as redis:
        stream = f"sllm:job:{job_id}:events"
        redis.xdel(stream, *(entry_id for entry_id, _ in redis.xrevrange(stream, count=2)))
        redis.hset(f"sllm:job:{job_id}", "num_tokens", 1)
    # One that comes back before anything new does, one that comes later, and one that stayed.
    early = next(_read(web, job_id, last.id))
    assert (early.kind, early.data, early.id) == ("snapshot", {"text": " one", "num_tokens": 1}, None)
    web.worker.emit(claim, ["two"], 1)
    web.worker.finish(claim, " one two", 2)
    for rest in (list(_read(web, job_id, last.id)), list(events)):
        (snapshot,) = (event for event in rest if event.kind in {"snapshot", "token"})
        assert (snapshot.kind, snapshot.data) == ("snapshot", {"text": " one two", "num_tokens": 2})
        assert all(parse_event_id(event.id) > parse_event_id(last.id) for event in rest if event.id)
        assert rest[-1].kind == "completed"


def test_the_end_of_a_job_is_told_from_the_ledger_when_the_stream_is_gone(
    web: Web, valkey_server: ValkeyServer
) -> None:
    job_id = web.submit()
    web.worker.run(job_id, ["one"])
    *_, last = _read(web, job_id)
    with valkey_server.client() as redis:
        redis.flushall()
    for after in (None, last.id):
        snapshot, completed = _read(web, job_id, after)
        assert (snapshot.kind, snapshot.data, snapshot.id) == ("snapshot", {"text": " one", "num_tokens": 1}, None)
        assert (completed.kind, completed.data["status"]) == ("completed", "succeeded")


def test_a_reader_from_the_future_of_a_stream_gets_a_snapshot_of_it(web: Web) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one", "two"])
    snapshot = next(_read(web, job_id, "99999999999999-0"))
    assert (snapshot.kind, snapshot.data) == ("snapshot", {"text": " one two", "num_tokens": 2})
    web.worker.finish(claim, " one two", 2)
    assert [event.kind for event in _read(web, job_id, snapshot.id)][-1] == "completed"


def test_a_reader_from_the_future_of_a_stream_that_has_ended_gets_one_snapshot_and_the_end_at_once(web: Web) -> None:
    job_id = web.submit()
    web.worker.run(job_id, ["one", "two"])
    snapshot, completed = _read(web, job_id, "99999999999999-0")
    assert (snapshot.kind, snapshot.data) == ("snapshot", {"text": " one two", "num_tokens": 2})
    assert (completed.kind, completed.data["status"]) == ("completed", "succeeded")


def test_a_reader_from_the_future_hears_once_of_an_end_that_came_while_it_connected(web: Web) -> None:
    job_id = web.submit()
    claim = web.worker.claim(job_id)
    web.worker.emit(claim, ["one"])
    view = find_job(web.services, "default", job_id)
    web.worker.finish(claim, " one", 1)
    stream = b"".join(stream_events(web.services, view, "99999999999999-0", lambda: None))
    assert (stream.count(b"event: snapshot"), stream.count(b"event: completed")) == (1, 1)


def test_an_id_that_is_none_is_refused(web: Web) -> None:
    job_id = web.submit()
    for bad in ("abc", "1-2-3", "-5", "1-x", "1_0", str(2**70)):
        response = web.http.get(f"/api/v1/jobs/{job_id}/events?after={bad}", headers=web.auth)
        assert response.status_code == 422, bad


def test_a_stream_whose_job_is_canceled_ends(web: Web) -> None:
    job_id = web.submit()
    web.http.post(f"/api/v1/jobs/{job_id}/cancel", headers=web.auth)
    assert list(_read(web, job_id))[-1].data["status"] == JobStatus.CANCELED


def test_a_stream_ends_when_the_process_stops(web: Web) -> None:
    events = _read(web, web.submit())
    next(events)
    web.services.stopping.set()
    assert "completed" not in [event.kind for event in events]


def test_streams_take_no_more_threads_than_they_may(web: Web) -> None:
    job_id = web.submit()
    streams = [web.http.get(f"/api/v1/jobs/{job_id}/events", headers=web.auth) for _ in range(20)]
    refused = web.http.get(f"/api/v1/jobs/{job_id}/events", headers=web.auth)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert web.http.get("/healthz").status_code == 200
    waiting = web.http.get(f"/api/v1/jobs/{job_id}", headers={**web.auth, "Prefer": "wait=30"})
    assert "Preference-Applied" not in waiting.headers
    for stream in streams:
        stream.close()
    freed = web.http.get(f"/api/v1/jobs/{job_id}/events", headers=web.auth)
    assert freed.status_code == 200
    freed.close()


def test_a_key_that_is_revoked_ends_its_streams(web: Web) -> None:
    key = add_key(web.services.ledger)
    job_id = web.submit()
    stream = web.http.get(f"/api/v1/jobs/{job_id}/events", headers={"Authorization": f"Bearer {key}"}, buffered=False)
    chunks = stream.iter_encoded()
    next(chunks)
    key_id = key.split("_")[1]
    assert web.http.delete(f"/api/v1/keys/{key_id}", headers=web.auth).status_code == 204
    assert b"completed" not in b"".join(chunks)
