"""Live migrations of running jobs, with their rounds; moving a job, and leaving it where it is."""

from __future__ import annotations

from flask import Response

from sllm_tasks.ledger.migrations import list_migrations, rounds_of
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import read_form
from webapp.admin.pages import Context, page
from webapp.migration_changes import abort_migration, start_migration
from webapp.outgoing import time_json
from webapp.schemas.migrations import MigrationRequest
from webapp.services import services


@blueprint.get("/migrations")
@needs(Role.VIEWER)
def migrations() -> Response:
    """List migrations, newest first."""
    return page("migrations", _context)


@blueprint.post("/jobs/<job_id>/move")
@needs(Role.OPERATOR)
def move(job_id: str) -> Response:
    """Move a running job to wherever there is room."""
    start_migration(services(), person(), read_form(MigrationRequest, {"job_id": job_id}))
    return see_other("job", job_id=job_id, notice="moving")


@blueprint.post("/migrations/<migration_id>/abort")
@needs(Role.OPERATOR)
def abort(migration_id: str) -> Response:
    """Leave a job where it is."""
    abort_migration(services(), person(), migration_id)
    return see_other("migrations", notice="aborted")


def _context() -> Context:
    with services().ledger.reading() as session:
        rows = list_migrations(session)
        rounds = rounds_of(session, [row.id for row in rows])
    return {"migrations": rows, "rounds": rounds, "time_json": time_json}
