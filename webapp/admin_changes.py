"""Administrative changes: each is one transaction that also leaves an audit row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from flask import g
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger import inventory, keys, operations, placements
from sllm_tasks.ledger.audit import AuditEntry, add_audit
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import ApiKey
from sllm_tasks.ledger.states import Tier
from sllm_tasks.ledger.tables import ApiKeyRow, OperationRow
from sllm_tasks.operations import OperationKind
from webapp.schemas.admin import KeyRequest, ModelRequest, PlacementRequest


@dataclass(frozen=True, slots=True)
class AdminChanges:
    """What one caller changes, with one request."""

    ledger: Database
    caller: ApiKey

    def put_model(self, name: str, wanted: ModelRequest) -> OperationRow:
        """Ask for a deployment, which takes the place of those that have not ended.

        Raises ConflictError while the model is being deleted.
        """
        settings = inventory.ModelSettings(
            name=name,
            source=wanted.source,
            engine=wanted.engine,
            dtype="auto",
            num_gpus=wanted.num_gpus,
            max_jobs=wanted.max_jobs,
            context=wanted.context,
            keep_alive_s=wanted.keep_alive_s,
            min_replicas=wanted.min_replicas,
            max_replicas=wanted.max_replicas,
        )
        args = {**asdict(settings), "node": wanted.node}
        operation_id = new_id("op")
        with self._changing("model.put", name, after=args) as (session, now):
            inventory.put_model(session, settings, deployment=operation_id, now=now)
            _end_deployments(session, name, f"superseded by {operation_id}, a later deployment of {name}", now)
            return self._request(session, now, OperationKind.DEPLOY, name, args, operation_id)

    def delete_model(self, name: str) -> OperationRow:
        """Stop a model and ask for what it holds to be freed; raises NotFoundError or ConflictError."""
        with self._changing("model.delete", name) as (session, now):
            inventory.get_model(session, name)
            if not inventory.note_deleting(session, name, now=now):
                raise ConflictError(f"the model {name} is being deleted already")
            _end_deployments(session, name, f"the model {name} was deleted meanwhile", now)
            return self._request(session, now, OperationKind.DELETE_MODEL, name, {}, new_id("op"))

    def want_placement(self, checkpoint: str, node: str, wanted: PlacementRequest) -> None:
        """Say where a checkpoint is to be; raises NotFoundError for an unknown one."""
        target, after = f"{checkpoint}@{node}", wanted.model_dump()
        with self._changing("placement.put", target, after=after) as (session, now):
            inventory.get_checkpoint(session, checkpoint)
            tier = Tier(wanted.tier)
            placements.want_placement(session, checkpoint, node, tier=tier, pinned=wanted.pinned, now=now)

    def create_key(self, wanted: KeyRequest) -> tuple[ApiKeyRow, str]:
        """Make a key; the second value is its plain text, which is kept nowhere."""
        with self._changing("key.create", wanted.name, after=wanted.model_dump()) as (session, now):
            keys.ensure_tenant(session, wanted.tenant, now=now)
            scopes = frozenset(wanted.scopes)
            return keys.create_key(session, tenant=wanted.tenant, name=wanted.name, scopes=scopes, now=now)

    def revoke_key(self, key_id: str) -> None:
        """Make a key useless; raises NotFoundError for one that is unknown or revoked."""
        with self._changing("key.revoke", key_id) as (session, now):
            if not keys.revoke_key(session, key_id, now=now):
                raise NotFoundError("there is no such key, or it is revoked already")

    @contextmanager
    def _changing(
        self, action: str, target: str, *, after: JsonObject | None = None
    ) -> Iterator[tuple[Session, datetime]]:
        now = datetime.now(UTC)
        with self.ledger.transaction() as session:
            yield session, now
            add_audit(
                session,
                AuditEntry(
                    id=new_id("audit"),
                    at=now,
                    actor=self.caller.id,
                    tenant=self.caller.tenant,
                    action=action,
                    target=target,
                    after=after,
                    request_id=g.request_id,
                ),
            )

    def _request(
        self,
        session: Session,
        now: datetime,
        kind: OperationKind,
        target: str,
        args: JsonObject,
        operation_id: str,
    ) -> OperationRow:
        new = operations.NewOperation(
            id=operation_id,
            kind=kind,
            target=target,
            args=args,
            requested_by=self.caller.id,
            created_at=now,
        )
        return operations.add_operation(session, new)


def _end_deployments(session: Session, model: str, why: str, now: datetime) -> None:
    operations.supersede_operations(session, OperationKind.DEPLOY, model, why=why, now=now)
