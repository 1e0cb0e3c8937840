"""The audit trail: who changed what, and when."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from sllm_tasks.ledger.audit import list_audit
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.admin.pages import Context, page
from webapp.outgoing import time_json
from webapp.services import services

_PAGE: Final = 50


@blueprint.get("/audit")
@needs(Role.VIEWER)
def audit() -> Response:
    """List changes, newest first."""
    return page("audit", _context)


def _context() -> Context:
    target, actor = request.args.get("target", ""), request.args.get("actor", "")
    asked = PageRequest(limit=_PAGE, after=request.args.get("after"))
    with services().ledger.reading() as session:
        found = list_audit(session, asked, target=target or None, actor=actor or None)
    return {
        "entries": found.rows,
        "next_after": found.rows[-1].id if found.has_more else None,
        "target": target,
        "actor": actor,
        "time_json": time_json,
    }
