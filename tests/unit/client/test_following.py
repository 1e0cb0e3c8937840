"""What a reader of a stream remembers between connections."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from httpx2 import ServerSentEvent

from sllm_tasks.client import Snapshot, Token, following
from sllm_tasks.client.answers import Answer, Lost
from sllm_tasks.client.errors import NotFoundApiError, ServerUnavailableError
from sllm_tasks.client.flows import PATIENCE_S
from sllm_tasks.client.following import StreamPosition


def _event(kind: str, event_id: str = "", **data: object) -> ServerSentEvent:
    return ServerSentEvent(event=kind, id=event_id, data=json.dumps(data))


def _token(index: int, event_id: str) -> ServerSentEvent:
    return _event("token", event_id, index=index, id=index + 10, text=f"t{index}")


def test_the_place_in_the_stream_goes_with_the_next_connection() -> None:
    position = StreamPosition()
    assert "Last-Event-ID" not in position.headers
    position.take(_token(0, "5-0"))
    assert position.headers["Last-Event-ID"] == "5-0"
    position.take(_event("snapshot", text="", num_tokens=0))
    assert position.headers["Last-Event-ID"] == "5-0"


def test_a_token_that_was_shown_is_not_shown_again() -> None:
    position = StreamPosition()
    events = [_token(0, "1-0"), _token(1, "2-0"), _token(0, "3-0"), _token(1, "4-0"), _token(2, "5-0")]
    shown = [position.take(event) for event in events]
    assert [item.index for item in shown if isinstance(item, Token)] == [0, 1, 2]


def test_after_a_snapshot_tokens_count_from_where_it_ends() -> None:
    position = StreamPosition()
    position.take(_token(7, "1-0"))
    assert position.take(_event("snapshot", "2-0", text="ab", num_tokens=2)) == Snapshot(text="ab", num_tokens=2)
    assert position.take(_token(1, "3-0")) is None
    assert position.take(_token(2, "4-0")) is not None


def test_only_the_last_event_ends_a_stream_and_unknown_ones_are_ignored() -> None:
    position = StreamPosition()
    assert position.take(_event("status", "1-0", status="running")) is None
    assert position.take(_event("something_new", "2-0")) is None
    assert not position.has_ended()
    position.take(_event("completed", "3-0", status="succeeded"))
    assert position.has_ended()


def test_a_refusal_ends_a_stream_and_a_lost_connection_does_not() -> None:
    position = StreamPosition()
    assert position.pause_s(Lost("gone")) >= 0
    with pytest.raises(NotFoundApiError):
        position.pause_s(Answer(404, {}, b'{"code": "not_found", "detail": "no"}'))


def test_patience_begins_when_the_connection_is_lost_though_the_job_was_silent_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now_s))
    position = StreamPosition()
    position.note_open()
    now_s += 10 * PATIENCE_S
    assert position.pause_s(Lost("restarted")) >= 0
    now_s += PATIENCE_S / 2
    # What answers and breaks off at once is no server that is back.
    position.note_open()
    assert position.pause_s(Lost("ended early")) >= 0
    now_s += PATIENCE_S
    with pytest.raises(ServerUnavailableError):
        position.pause_s(Lost("still away"))


def test_each_reason_to_wait_is_told_once() -> None:
    told: list[str] = []
    position = StreamPosition(told.append)
    for number, reason in enumerate(["no gpu", "no gpu", "its turn", None, "no gpu"]):
        position.take(
            _event("status", f"{number + 1}-0", status="queued", **({} if reason is None else {"reason": reason}))
        )
    assert told == ["no gpu", "its turn", "no gpu"]
