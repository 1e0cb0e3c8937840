"""What a reader of a stream remembers, so that it can lose its connection without a gap or a repetition."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from httpx2 import ServerSentEvent

from sllm_tasks.client.answers import Answer, Lost, delay_s, read_error
from sllm_tasks.client.flows import PATIENCE_S
from sllm_tasks.client.records import Snapshot, StreamItem, decode_token

#: A snapshot holds all text of a job.
MAX_EVENT_BYTES: Final = 64 * 2**20
#: The server sends something every ten seconds, which need not be an event.
_PING_EVERY_S: Final = 10.0
#: So a silent connection is a dead one.
READ_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0


class StreamPosition:
    """Fed with events of a job, over any number of connections; pure."""

    def __init__(self, on_wait: Callable[[str], object] | None = None) -> None:
        """`on_wait` hears why the job waits, each time that changes."""
        self._on_wait = on_wait
        self._wait_reason = ""
        self._last_id = ""
        self._num_failures = 0
        self._heard_s = time.monotonic()
        self._opened_s: float | None = None
        self._num_tokens = 0
        self._has_ended = False

    @property
    def headers(self) -> dict[str, str]:
        """What to send so that the server goes on after the last event."""
        headers = {"Accept": "text/event-stream"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        return headers

    def has_ended(self) -> bool:
        """Whether the job's last event has come."""
        return self._has_ended

    def note_open(self) -> None:
        """Note that the server sends events from now on."""
        self._opened_s = time.monotonic()

    def take(self, event: ServerSentEvent) -> StreamItem | None:
        """Note an event; what the user is to see of it, if anything."""
        self._num_failures, self._heard_s = 0, time.monotonic()
        if event.id:
            self._last_id = event.id
        if event.event == "token":
            token = decode_token(json.loads(event.data))
            if token.index < self._num_tokens:
                return None
            self._num_tokens = token.index + 1
            return token
        if event.event == "snapshot":
            data = json.loads(event.data)
            self._num_tokens = data["num_tokens"]
            return Snapshot(text=data["text"], num_tokens=data["num_tokens"])
        if event.event == "status":
            self._note_wait(json.loads(event.data).get("reason", ""))
        if event.event == "completed":
            self._has_ended = True
        return None

    def _note_wait(self, reason: str) -> None:
        if self._on_wait is not None and reason not in {"", self._wait_reason}:
            self._on_wait(reason)
        self._wait_reason = reason

    def pause_s(self, answer: Answer | Lost) -> float:
        """How long to wait before the next connection; raises ApiError or ServerUnavailableError to give up."""
        now_s = time.monotonic()
        if self._opened_s is not None and now_s - self._opened_s > _PING_EVERY_S:
            # It was there until now, though it may have had nothing to say of the job for as long.
            self._num_failures, self._heard_s = 0, now_s
        self._opened_s = None
        if not answer.wants_retry or now_s - self._heard_s > PATIENCE_S:
            raise read_error(answer)
        self._num_failures += 1
        pause_s = delay_s(self._num_failures, answer.retry_after_s)
        if pause_s is None:
            raise read_error(answer)
        return pause_s
