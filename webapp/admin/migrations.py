"""Live migrations of running jobs, with their rounds."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from sllm_tasks.ledger.migration_lists import list_migrations, rounds_of
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.admin.pages import Context, page
from webapp.outgoing import time_json
from webapp.services import services

_PAGE: Final = 30


@blueprint.get("/migrations")
@needs(Role.VIEWER)
def migrations() -> Response:
    """List migrations, newest first."""
    return page("migrations", _context)


def _context() -> Context:
    with services().ledger.reading() as session:
        found = list_migrations(session, PageRequest(limit=_PAGE, after=request.args.get("after")))
        rounds = rounds_of(session, [row.id for row in found.rows])
    return {
        "migrations": found.rows,
        "rounds": rounds,
        "next_after": found.rows[-1].id if found.has_more else None,
        "time_json": time_json,
    }
