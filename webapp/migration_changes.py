"""Moving a running job by hand, and leaving it where it is after all."""

from __future__ import annotations

from sllm_tasks.cluster import GpuId
from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.migration.records import Migration
from sllm_tasks.migration.states import MigrationReason, MigrationState
from webapp.audited import Caller, audited
from webapp.schemas.migrations import MigrationRequest
from webapp.services import WebServices


def start_migration(web: WebServices, caller: Caller, wanted: MigrationRequest) -> str:
    """Begin to move a job and return the id of the migration; raises what `Mover.move` does."""
    to = None if wanted.to is None else GpuId.parse(wanted.to)
    with audited(web.ledger, caller, "migration.start", wanted.job_id, after=wanted.model_dump()):
        return web.mover.move(wanted.job_id, MigrationReason.OPERATOR, to)


def abort_migration(web: WebServices, caller: Caller, migration_id: str) -> None:
    """Leave a job where it is; raises NotFoundError, or ConflictError where it has moved already."""
    with audited(web.ledger, caller, "migration.abort", migration_id):
        if not web.live.migrations.end(migration_id, MigrationState.ABORTED, "aborted by an operator"):
            state = live_migration(web, migration_id).state
            raise ConflictError(f"migration {migration_id} is {state} and cannot be aborted")


def live_migration(web: WebServices, migration_id: str) -> Migration:
    """A migration of the last hour; raises NotFoundError."""
    found = web.live.migrations.get(migration_id)
    if found is None:
        raise NotFoundError(f"there is no migration {migration_id} of the last hour")
    return found
