"""Long polls: answer when a job's status has changed, or when the client's patience ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sllm_tasks.errors import UnavailableError
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate.jobs import JobEvent
from webapp.job_views import JobView, find_job
from webapp.services import WebServices

#: One read of events; well below the time-out of the live state's connection.
BLOCK_MS: Final = 400
#: How often the ledger is asked while no event comes: it alone knows of an end that could not be announced.
LEDGER_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client waits for, and which events may bring it: after those alone the job is read again."""

    is_met: Callable[[JobView], bool]
    may_come_with: Callable[[JobEvent], bool]


#: The end of a job.
END: Final = Wish(lambda view: view.row.status.is_terminal, lambda event: event.kind == "completed")


def another_status(seen: JobStatus) -> Wish:
    """Any other status than the one that was seen."""
    return Wish(lambda view: END.is_met(view) or view.status is not seen, lambda event: event.kind != "token")


def wait_until(services: WebServices, view: JobView, wish: Wish, patience_s: float) -> tuple[JobView, bool]:
    """The job once the wish is met or patience has ended; the flag tells whether the wish to wait was honoured."""
    if wish.is_met(view) or patience_s <= 0:
        return view, patience_s > 0
    if not services.wait_slots.try_acquire():
        return view, False
    until_s = time.monotonic() + patience_s
    try:
        return _wait(services, view, wish, services.stopping.is_set, until_s), True
    finally:
        services.wait_slots.release()


def wait_for_end(services: WebServices, view: JobView, gives_up: Callable[[], bool]) -> JobView:
    """The job once it has ended, or as it is when `gives_up` says so; the caller holds a slot."""
    return _wait(services, view, END, gives_up, math.inf)


def _wait(services: WebServices, view: JobView, wish: Wish, gives_up: Callable[[], bool], until_s: float) -> JobView:
    tenant, job_id = view.row.tenant, view.row.id
    position = _newest_event(services, job_id)
    while True:
        view = find_job(services, tenant, job_id)
        if wish.is_met(view) or gives_up() or time.monotonic() >= until_s:
            return view
        look_again_s = min(until_s, time.monotonic() + LEDGER_EVERY_S)
        position = _next_news(services, job_id, position, wish, gives_up, look_again_s)


def _newest_event(services: WebServices, job_id: str) -> str:
    try:
        return services.live.jobs.last_event_id(job_id)
    except UnavailableError:
        return "0"


def _next_news(
    services: WebServices, job_id: str, position: str, wish: Wish, gives_up: Callable[[], bool], until_s: float
) -> str:
    """Position after the next event that may bring what is wished, or after whatever came until the time is over."""
    while (left_s := until_s - time.monotonic()) > 0 and not gives_up():
        block_ms = max(1, min(BLOCK_MS, int(left_s * 1000)))
        try:
            events = services.live.jobs.events(job_id, position, block_ms=block_ms)
        except UnavailableError:
            time.sleep(block_ms / 1000)
            continue
        if events:
            position = events[-1].id
        if any(wish.may_come_with(event) for event in events):
            break
    return position
