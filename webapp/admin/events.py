"""What has happened of itself: workers that were lost, operations and moves that ended, webhooks that were disabled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from flask import Response, request

from sllm_tasks.ledger.happenings import happenings
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.admin.pages import Context, page
from webapp.outgoing import time_json
from webapp.services import services

_LOOK_BACK: Final = timedelta(days=7)
_MAX_SHOWN: Final = 100


@blueprint.get("/events")
@needs(Role.VIEWER)
def events() -> Response:
    """List events, newest first."""
    return page("events", _context)


def _context() -> Context:
    only_bad = "bad" in request.args
    with services().ledger.reading() as session:
        found = happenings(session, since=datetime.now(UTC) - _LOOK_BACK, limit=_MAX_SHOWN, only_bad=only_bad)
    return {
        "events": found,
        "only_bad": only_bad,
        "days": _LOOK_BACK.days,
        "time_json": time_json,
    }
