"""`/api/v1/migrations`: moves of running jobs: start them, look at them, abort them."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.cluster import GpuId
from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.migrations import list_migrations, rounds_of
from sllm_tasks.migration.records import Migration
from sllm_tasks.migration.states import MigrationReason, MigrationState
from sllm_tasks.mover import Mover
from webapp.admin_json import AdminJson
from webapp.audited import audited
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
    wanted = read_body(MigrationRequest)
    to = None if wanted.to is None else GpuId.parse(wanted.to)
    with audited(services().ledger, caller(), "migration.start", wanted.job_id, after=wanted.model_dump()):
        migration_id = Mover(services().live).move(wanted.job_id, MigrationReason.OPERATOR, to)
    return _answer(migration_id)


@blueprint.get("/<migration_id>")
@requires(Scope.ADMIN_READ)
def get_migration(migration_id: str) -> Response:
    """Show one migration of the last hour, as it stands now."""
    return _answer(migration_id)


@blueprint.post("/<migration_id>/abort")
@requires(Scope.ADMIN_WRITE)
def abort_migration(migration_id: str) -> Response:
    """Leave the job where it is; one that has moved already does not come back."""
    migrations = services().live.migrations
    with audited(services().ledger, caller(), "migration.abort", migration_id):
        if not migrations.end(migration_id, MigrationState.ABORTED, "aborted by an operator"):
            raise ConflictError(f"migration {migration_id} is {_live(migration_id).state} and cannot be aborted")
    return _answer(migration_id)


def _answer(migration_id: str) -> Response:
    return jsonify(live_migration_json(_live(migration_id)))


def _live(migration_id: str) -> Migration:
    found = services().live.migrations.get(migration_id)
    if found is None:
        raise NotFoundError(f"there is no migration {migration_id} of the last hour")
    return found


def _recorded() -> list[AdminJson]:
    with services().ledger.reading() as session:
        rows = list_migrations(session)
        rounds = rounds_of(session, [row.id for row in rows])
        return [migration_json(row, rounds[row.id]) for row in rows]
