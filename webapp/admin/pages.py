"""Pages: whole for a browser that asks for one, and as a stream of their live part for one that shows it already."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode

from flask import Response, g, render_template, request, stream_with_context

from sllm_tasks.errors import NotFoundError, UnavailableError
from sllm_tasks.ledger.states import Role
from webapp.admin.access import signed_in
from webapp.admin.blueprint import blueprint
from webapp.errors import UnauthorizedError
from webapp.services import services

#: What a template is filled with.
Context = Mapping[str, object]

#: How often a page that somebody looks at is made anew; it is sent when it has changed.
_LOOK_S: Final = 1.0
#: A comment after this much silence finds out that the browser has gone.
_PING_EVERY_S: Final = 10.0
#: What is shown stays, and is of before: what it would be made of does not answer. Named, so that it replaces nothing.
_STALE: Final = b"event: stale\ndata:\n\n"
_STREAM_HEADERS: Final = {
    "Cache-Control": "no-store",
    # nginx would hold events back until its buffer is full.
    "X-Accel-Buffering": "no",
}

#: What stands for itself in a path.
_SAFE: Final = "/:@!$&'()*+,;="

#: What a page may say of a change that led to it; only these, so that no link puts words into our mouth.
_NOTICES: Final[Mapping[str, str]] = {
    "canceled": "The job was asked to stop.",
    "paused": "No more jobs of this queue are started.",
    "resumed": "Jobs of this queue start again.",
    "draining": "The node takes no more work; what runs there moves or ends.",
    "undrained": "The node takes work again.",
    "moving": "The job moves if there is room elsewhere; its page shows how far it is.",
    "aborted": "The job stays where it is.",
    "wanted": "The reconciler makes it true within seconds.",
    "revoked": "The key works no more, within five seconds everywhere.",
    "disabled": "The user is signed out everywhere.",
    "role": "The user has another role now.",
    "canceled_many": "The jobs were asked to stop.",
    "tenant": "That holds within five seconds.",
    "webhook_enabled": "The webhook hears of jobs that end from now on.",
    "webhook_disabled": "Nothing more is sent there.",
    "operation_canceled": "Whoever runs it stops within seconds.",
    "retried": "The jobs were submitted again, each as a new one.",
}


def page(
    name: str,
    make: Callable[[], Context],
    *,
    status: HTTPStatus = HTTPStatus.OK,
    live_at: str | None = None,
    **fixed: object,
) -> Response:
    """Show a page: what `make` reads goes to its live part as well, `fixed` only to the rest.

    `live_at` is the path of the live part where the page was not asked for by GET there.
    """
    if "live" in request.args:
        return _live(f"admin/live/{name}.html", make)
    live_url = _here(live_at, live="1")
    shown = {"live_template": f"admin/live/{name}.html", "live_url": live_url, **make(), **fixed}
    return Response(render_template(f"admin/{name}.html", **shown), status)


@blueprint.app_context_processor
def _shared() -> dict[str, object]:
    notice = _NOTICES.get(request.args.get("notice", ""))
    return {"person": getattr(g, "person", None), "notice": notice, "here": _here}


def _here(path: str | None = None, **changed: str | None) -> str:
    """Where this request goes, with changes of its query string; None leaves a name out."""
    # Not by `url_for`, to which some names in a query string mean something.
    query = {name: text for name, text in {**request.args.to_dict(), **changed}.items() if text is not None}
    return f"{path or quote(request.script_root + request.path, safe=_SAFE)}?{urlencode(query)}"


def _live(template: str, make: Callable[[], Context]) -> Response:
    web = services()
    web.wait_slots.acquire()
    stream = stream_with_context(_fragments(template, make))
    response = Response(stream, mimetype="text/event-stream", headers=_STREAM_HEADERS)
    response.call_on_close(web.wait_slots.release)
    return response


def _fragments(template: str, make: Callable[[], Context]) -> Iterator[bytes]:
    web, shown, wrote_s = services(), b"", 0.0
    needed: Role = g.needed
    while not web.stopping.is_set():
        try:
            # A session that is over, or a role that was taken, ends what it sees.
            g.person = signed_in()
            if not g.person.role.includes(needed):
                return
            message = _event(render_template(template, **make()))
        except (UnauthorizedError, NotFoundError):
            return
        except UnavailableError:
            message = _STALE
        digest = hashlib.sha256(message).digest()
        if digest != shown:
            shown, wrote_s = digest, time.monotonic()
            yield message
        elif time.monotonic() - wrote_s >= _PING_EVERY_S:
            wrote_s = time.monotonic()
            yield b": ping\n\n"
        web.stopping.wait(_LOOK_S)


def _event(fragment: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in fragment.splitlines() if line.strip())
    return f"{lines}\n".encode("utf-8", "replace")
