"""The event stream of one job: live events as they come, snapshots where what was shown no longer holds.

Event ids are those of the live state's stream, so they grow with time and over its losses. A `snapshot` replaces all
text before it; one that is made from the ledger has no id, so that a client never resumes from a made-up place.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from sllm_tasks.errors import NotFoundError, UnavailableError
from sllm_tasks.livestate.jobs import JobEvent
from webapp.errors import GoneError, UnauthorizedError
from webapp.job_json import error_json, usage_json
from webapp.job_views import JobView, find_job
from webapp.job_waits import BLOCK_MS, LEDGER_EVERY_S
from webapp.services import WebServices

#: A comment after this much silence keeps proxies from closing the stream, and finds out that a client has gone.
_PING_EVERY_S: Final = 10.0
#: A client that has lost the stream comes back after this time.
_OPENING: Final = b"retry: 1000\n\n"
_PING: Final = b": ping\n\n"
_EVENT_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
#: The place before the first event.
BEGINNING: Final = "0"


def parse_event_id(text: str) -> tuple[int, int]:
    """Order of an event id; raises ValueError for what the stream would not accept."""
    match = _EVENT_ID.fullmatch(text)
    order = (int(match[1]), int(match[2] or 0)) if match else (-1, -1)
    if not all(0 <= part < 2**64 for part in order):
        raise ValueError("an event id is written <milliseconds>-<number>")
    return order


def stream_events(
    services: WebServices, view: JobView, after: str, check_caller: Callable[[], object]
) -> Iterator[bytes]:
    """Write the events after an id, until the job has ended, the server stops, or `check_caller` raises."""
    yield _OPENING
    follower = _Follower(services, view, after)
    try:
        yield from follower.opening()
    except (GoneError, NotFoundError):
        return
    wrote_s = asked_s = time.monotonic()
    while not (follower.is_over or services.stopping.is_set()):
        written = follower.next_events()
        yield from written
        now_s = time.monotonic()
        if written:
            wrote_s = now_s
        elif now_s - wrote_s >= _PING_EVERY_S:
            yield _PING
            wrote_s = now_s
        if now_s - asked_s >= LEDGER_EVERY_S:
            asked_s = now_s
            try:
                check_caller()
                yield from [] if written else follower.ending_from_ledger()
            except (UnauthorizedError, GoneError, NotFoundError):
                return
            except UnavailableError:
                continue


class _Follower:
    """Reads one job's events and turns them into bytes; remembers how far it is."""

    def __init__(self, services: WebServices, view: JobView, after: str) -> None:
        self._services = services
        self._view = view
        self._position = after
        self.is_over = False

    def opening(self) -> list[bytes]:
        """What a reader needs before it can go on from its position: nothing, a snapshot, or the end.

        Raises NotFoundError or GoneError.
        """
        jobs, job_id = self._services.live.jobs, self._view.row.id
        try:
            newest = jobs.last_event_id(job_id)
            if newest == BEGINNING:
                return self._opening_without_stream()
            if parse_event_id(self._position) <= parse_event_id(newest):
                return []
            # The stream is a new one, and its clock is behind that of the one the reader knew. An end is in the ledger
            # before it is in the stream, so a job that has not ended there is yet to be announced.
            view = find_job(self._services, self._view.row.tenant, job_id)
            if view.row.status.is_terminal:
                return self._ending(view)
            tokens = jobs.tokens(job_id)
        except UnavailableError:
            return []
        self._position = newest
        return [_snapshot("".join(token.text for token in tokens), len(tokens), newest)]

    def _opening_without_stream(self) -> list[bytes]:
        if self._view.row.status.is_terminal:
            return self._ending(self._view)
        resumes = self._position != BEGINNING
        self._position = BEGINNING
        return [_snapshot("", 0)] if resumes else []

    def next_events(self) -> list[bytes]:
        """Wait a moment for events."""
        try:
            events = self._services.live.jobs.events(self._view.row.id, self._position, block_ms=BLOCK_MS)
        except UnavailableError:
            time.sleep(BLOCK_MS / 1000)
            return []
        if events:
            self._position = events[-1].id
            self.is_over = events[-1].kind == "completed"
        return [_event(event) for event in events]

    def ending_from_ledger(self) -> list[bytes]:
        """The end of a job that could not be announced, or nothing.

        Raises NotFoundError, GoneError or UnavailableError.
        """
        view = find_job(self._services, self._view.row.tenant, self._view.row.id)
        if not view.row.status.is_terminal:
            return []
        # The announcement may have come since the last look.
        events = self.next_events()
        return events if self.is_over else events + self._ending(view)

    def _ending(self, view: JobView) -> list[bytes]:
        self.is_over = True
        row = view.row
        completed = {
            "status": row.status,
            "finish_reason": row.finish_reason,
            "usage": usage_json(row),
            "error": error_json(row),
        }
        return [_snapshot(row.output or "", row.completion_tokens or 0), _write("completed", completed)]


def _event(event: JobEvent) -> bytes:
    return _write(event.kind, event.data, event.id)


def _snapshot(text: str, num_tokens: int, event_id: str | None = None) -> bytes:
    return _write("snapshot", {"text": text, "num_tokens": num_tokens}, event_id)


def _write(kind: str, data: object, event_id: str | None = None) -> bytes:
    identity = "" if event_id is None else f"id: {event_id}\n"
    return f"{identity}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
