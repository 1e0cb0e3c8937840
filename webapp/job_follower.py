"""What a reader of one job is to see: live events as they come, snapshots where what was shown no longer holds.

Event ids are those of the live state's stream, so they grow with time and over its losses. A `snapshot` replaces all
text before it; one that is made from the ledger has no id, so that a client never resumes from a made-up place, and
neither has one whose place lies before what the reader knows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate.jobs import JobEvent
from webapp.job_json import error_json, usage_json
from webapp.job_views import JobView, find_job
from webapp.job_waits import BLOCK_MS
from webapp.services import WebServices

#: The place before the first event.
BEGINNING: Final = "0"
#: Between two reads of a reader, for each reader that there is: all together read a thousand times a second. The one
#: value that was tried; figures are in docs/next.md.
_TURN_S: Final = 0.001
_EVENT_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEvent:
    """One event as a reader sees it."""

    kind: str
    data: dict[str, Any]
    #: None where it is made here and no reader can resume from it.
    id: str | None = None


def parse_event_id(text: str) -> tuple[int, int]:
    """Order of an event id; raises ValueError for what the stream would not accept."""
    match = _EVENT_ID.fullmatch(text)
    order = (int(match[1]), int(match[2] or 0)) if match else (-1, -1)
    if not all(0 <= part < 2**64 for part in order):
        raise ValueError("an event id is written <milliseconds>-<number>")
    return order


class JobFollower:
    """Reads one job's events; remembers how far it is."""

    def __init__(self, services: WebServices, view: JobView, after: str = BEGINNING) -> None:
        self._services = services
        self._view = view
        self.position = after
        self.is_over = False
        # The token that is due; not known to who resumes, until the next one comes.
        self._next_index: int | None = 0 if after == BEGINNING else None
        self._had_events_s = float("-inf")

    @property
    def job_id(self) -> str:
        """The job that is followed."""
        return self._view.row.id

    def opening(self) -> list[ShownEvent]:
        """What a reader needs before it can go on from its position: nothing, a snapshot, or the end.

        Raises NotFoundError or GoneError.
        """
        jobs = self._services.live.jobs
        try:
            newest = jobs.last_event_id(self.job_id)
            if newest == BEGINNING:
                return self._opening_without_stream()
            if self.position == BEGINNING or jobs.has_event(self.job_id, self.position):
                return []
            # The reader knows what the live state has lost. An end is in the ledger before it is in the stream, so a
            # job that has not ended there is yet to be announced.
            view = self._find()
            return self._ending(view) if view.row.status.is_terminal else self._begun_again()
        except UnavailableError:
            return []

    def _opening_without_stream(self) -> list[ShownEvent]:
        if self._view.row.status.is_terminal:
            return self._ending(self._view)
        resumes = self.position != BEGINNING
        self.position = BEGINNING
        return [_snapshot("", 0)] if resumes else []

    def next_events(self) -> list[ShownEvent]:
        """Wait a moment for events; of many readers each reads less often, and more at a time."""
        turn_s = self._had_events_s + self._services.wait_slots.num_taken * _TURN_S - time.monotonic()
        if turn_s > 0:
            self._services.stopping.wait(turn_s)
        try:
            return self.take(self._services.live.jobs.events(self.job_id, self.position, block_ms=BLOCK_MS))
        except UnavailableError:
            time.sleep(BLOCK_MS / 1000)
            return []

    def take(self, events: Sequence[JobEvent]) -> list[ShownEvent]:
        """Go on behind events that came after the position."""
        if not self._follow_on(events):
            # Tokens that were shown are made once more: the live state has lost them.
            try:
                return self._begun_again()
            except UnavailableError:
                return []
        if events:
            self._had_events_s = time.monotonic()
            self.position = events[-1].id
            self.is_over = events[-1].kind == "completed"
        return [ShownEvent(kind=event.kind, data=event.data, id=event.id) for event in events]

    def ending_from_ledger(self) -> list[ShownEvent]:
        """The end of a job that could not be announced, or nothing.

        Raises NotFoundError, GoneError or UnavailableError.
        """
        view = self._find()
        if not view.row.status.is_terminal:
            return []
        # The announcement may have come since the last look.
        events = self.next_events()
        return events if self.is_over else events + self._ending(view)

    def _follow_on(self, events: Sequence[JobEvent]) -> bool:
        """Whether these are the tokens that are due."""
        due = self._next_index
        for event in events:
            if event.kind == "snapshot":
                due = event.data["num_tokens"]
            elif event.kind == "token":
                if due is not None and event.data["index"] != due:
                    return False
                due = event.data["index"] + 1
        self._next_index = due
        return True

    def _begun_again(self) -> list[ShownEvent]:
        """All text that there is by now, and the place behind it; raises UnavailableError."""
        before, text, num_tokens = parse_event_id(self.position), "", 0
        position = BEGINNING
        while events := self._services.live.jobs.events(self.job_id, position):
            shown = [event for event in events if event.kind != "completed"]
            for event in shown:
                if event.kind == "snapshot":
                    text, num_tokens = event.data["text"], event.data["num_tokens"]
                elif event.kind == "token":
                    text, num_tokens = text + event.data["text"], event.data["index"] + 1
            position = shown[-1].id if shown else position
            if len(shown) < len(events):
                break
        self.position, self._next_index = position, num_tokens
        return [_snapshot(text, num_tokens, position if parse_event_id(position) > before else None)]

    def _find(self) -> JobView:
        return find_job(self._services, self._view.row.tenant, self.job_id)

    def _ending(self, view: JobView) -> list[ShownEvent]:
        self.is_over = True
        row = view.row
        completed = {
            "status": row.status,
            "finish_reason": row.finish_reason,
            "usage": usage_json(row),
            "error": error_json(row),
        }
        return [_snapshot(row.output or "", row.completion_tokens or 0), ShownEvent(kind="completed", data=completed)]


def _snapshot(text: str, num_tokens: int, event_id: str | None = None) -> ShownEvent:
    return ShownEvent(kind="snapshot", data={"text": text, "num_tokens": num_tokens}, id=event_id)
