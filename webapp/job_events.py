"""The event stream of one job as server-sent events; the ids are those of the events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Final

from sllm_tasks.errors import NotFoundError, UnavailableError
from webapp.errors import GoneError, UnauthorizedError
from webapp.job_follower import JobFollower, ShownEvent
from webapp.job_views import JobView
from webapp.job_waits import LEDGER_EVERY_S
from webapp.services import WebServices

#: A comment after this much silence keeps proxies from closing the stream, and finds out that a client has gone.
_PING_EVERY_S: Final = 10.0
#: A client that has lost the stream comes back after this time.
_OPENING: Final = b"retry: 1000\n\n"
_PING: Final = b": ping\n\n"


def stream_events(
    services: WebServices, view: JobView, after: str, check_caller: Callable[[], object]
) -> Iterator[bytes]:
    """Write the events after an id, until the job has ended, the server stops, or `check_caller` raises."""
    yield _OPENING
    follower = JobFollower(services, view, after)
    try:
        yield from map(_write, follower.opening())
    except (GoneError, NotFoundError):
        return
    wrote_s = asked_s = time.monotonic()
    while not (follower.is_over or services.stopping.is_set()):
        events = follower.next_events()
        yield from map(_write, events)
        now_s = time.monotonic()
        if events:
            wrote_s = now_s
        elif now_s - wrote_s >= _PING_EVERY_S:
            yield _PING
            wrote_s = now_s
        if now_s - asked_s >= LEDGER_EVERY_S:
            asked_s = now_s
            try:
                check_caller()
                yield from [] if events else map(_write, follower.ending_from_ledger())
            except (UnauthorizedError, GoneError, NotFoundError):
                return
            except UnavailableError:
                continue


def _write(event: ShownEvent) -> bytes:
    identity = "" if event.id is None else f"id: {event.id}\n"
    return f"{identity}event: {event.kind}\ndata: {json.dumps(event.data, separators=(',', ':'))}\n\n".encode()
