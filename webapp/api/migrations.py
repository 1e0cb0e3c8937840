"""`/api/v1/migrations`: moves of running jobs: start them, look at them, abort them."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.migrations import list_migrations, rounds_of
from webapp import migration_changes as changes
from webapp.admin_json import AdminJson
from webapp.auth import caller, requires
from webapp.incoming import read_body
from webapp.migration_json import live_migration_json, migration_json
from webapp.outgoing import list_json
from webapp.schemas.migrations import MigrationRequest
from webapp.services import services

blueprint = Blueprint("migrations", __name__, url_prefix="/api/v1/migrations")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_migrations() -> Response:
    """List the latest migrations, newest first."""
    return jsonify(list_json(_recorded()))


@blueprint.post("")
@requires(Scope.ADMIN_WRITE)
def start_migration() -> Response:
    """Begin to move a running job."""
    return _answer(changes.start_migration(services(), caller(), read_body(MigrationRequest)))


@blueprint.get("/<migration_id>")
@requires(Scope.ADMIN_READ)
def get_migration(migration_id: str) -> Response:
    """Show one migration of the last hour, as it stands now."""
    return _answer(migration_id)


@blueprint.post("/<migration_id>/abort")
@requires(Scope.ADMIN_WRITE)
def abort_migration(migration_id: str) -> Response:
    """Leave the job where it is; one that has moved already does not come back."""
    changes.abort_migration(services(), caller(), migration_id)
    return _answer(migration_id)


def _answer(migration_id: str) -> Response:
    return jsonify(live_migration_json(changes.live_migration(services(), migration_id)))


def _recorded() -> list[AdminJson]:
    with services().ledger.reading() as session:
        rows = list_migrations(session)
        rounds = rounds_of(session, [row.id for row in rows])
        return [migration_json(row, rounds[row.id]) for row in rows]
