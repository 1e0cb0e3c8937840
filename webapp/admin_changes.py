"""Administrative changes: each is one transaction that also leaves an audit row."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sllm_tasks.cluster import EVERY_MODEL, NodeInfo, Tier
from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger import inventory, keys, operations, placements, queues
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.tables import ApiKeyRow, OperationRow, TenantRow
from sllm_tasks.operations import OperationKind
from sllm_tasks.policy.placement import Proposal
from sllm_tasks.proposals import placement_proposals, want_proposals
from sllm_tasks.repeats import KeyedRequest
from webapp.audited import Caller, Change, audited
from webapp.schemas.admin import DEFAULT_KEEP_ALIVE_S, KeyRequest, ModelRequest, PlacementRequest, TenantRequest


@dataclass(frozen=True, slots=True)
class Started:
    """The operation that a request has started, or that an earlier sending of it had."""

    operation: OperationRow
    is_new: bool


@dataclass(frozen=True, slots=True)
class MadeKey:
    """The API key that a request has made; its plain text is kept nowhere, so it is None for a repeated request."""

    row: ApiKeyRow
    plain: str | None


@dataclass(frozen=True, slots=True)
class AdminChanges:
    """What one caller changes, with one request; raises IdempotencyMismatchError for a key that has another body."""

    ledger: Database
    caller: Caller
    #: The key under which the request must take effect once; what has no use for it is idempotent by itself.
    repeatable: KeyedRequest | None = None

    def put_model(self, name: str, wanted: ModelRequest) -> Started:
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
            keep_alive_s=DEFAULT_KEEP_ALIVE_S if wanted.keep_alive_s == "auto" else wanted.keep_alive_s,
            keep_alive_auto=wanted.keep_alive_s == "auto",
            min_replicas=wanted.min_replicas,
            max_replicas=wanted.max_replicas,
            exactness=wanted.exactness,
        )
        args = {**asdict(settings), "node": wanted.node}
        operation_id = new_id("op")
        with self._changing("model.put", name, after=args) as change:
            if (first := self._first(change, operation_id)) is not None:
                return Started(operations.get_operation(change.session, first), is_new=False)
            inventory.put_model(change.session, settings, deployment=operation_id, now=change.now)
            _end_deployments(change, name, f"superseded by {operation_id}, a later deployment of {name}")
            return self._start(change, operation_id, OperationKind.DEPLOY, name, args)

    def delete_model(self, name: str) -> Started:
        """Stop a model and ask for what it holds to be freed; raises NotFoundError or ConflictError."""
        operation_id = new_id("op")
        with self._changing("model.delete", name) as change:
            if (first := self._first(change, operation_id)) is not None:
                return Started(operations.get_operation(change.session, first), is_new=False)
            inventory.get_model(change.session, name)
            if not inventory.note_deleting(change.session, name, now=change.now):
                raise ConflictError(f"the model {name} is being deleted already")
            _end_deployments(change, name, f"the model {name} was deleted meanwhile")
            return self._start(change, operation_id, OperationKind.DELETE_MODEL, name, {})

    def want_placement(self, checkpoint: str, node: str, wanted: PlacementRequest | None) -> None:
        """Say where a checkpoint is to be, None: not there, and no policy may bring it; raises NotFoundError."""
        action, after = ("placement.delete", None) if wanted is None else ("placement.put", wanted.model_dump())
        with self._changing(action, f"{checkpoint}@{node}", after=after) as change:
            inventory.get_checkpoint(change.session, checkpoint)
            placements.want_placement(
                change.session,
                checkpoint,
                node,
                tier=None if wanted is None else Tier(wanted.tier),
                pinned=wanted is None or wanted.pinned,
                now=change.now,
            )

    def apply_proposals(self, nodes: Collection[NodeInfo], *, ssd_copies: int) -> tuple[Proposal, ...]:
        """Want what popularity speaks for, and say what that was; what is pinned stays."""
        # Not within the change: many jobs take a while to count, and nobody else could write meanwhile.
        with self.ledger.reading() as session:
            found = placement_proposals(session, nodes, datetime.now(UTC), ssd_copies=ssd_copies)
        with self._changing("placement.apply_proposals", "placements") as change:
            want_proposals(change.session, found, change.now)
            change.is_done = not found
            return found

    def verify_checkpoint(self, checkpoint: str, node: str) -> Started:
        """Ask for a stored checkpoint to be read and compared with its digests; raises NotFoundError."""
        return self._ask_node("checkpoint.verify", OperationKind.VERIFY, checkpoint, node)

    def calibrate_node(self, node: str) -> Started:
        """Ask for what the tiers of a node deliver to be measured."""
        return self._ask_node("node.calibrate", OperationKind.CALIBRATE, node, node)

    def cancel_operation(self, operation_id: str) -> OperationRow:
        """Give an operation up; raises NotFoundError, or ConflictError for one that cannot be taken back."""
        with self._changing("operation.cancel", operation_id) as change:
            row = operations.get_operation(change.session, operation_id)
            if row.kind == OperationKind.DELETE_MODEL:
                raise ConflictError("a model that is being deleted cannot be taken back; deploy it again")
            if row.kind == OperationKind.DEPLOY:
                inventory.lock_model(change.session, row.target)
            change.is_done = not operations.cancel_operation(change.session, operation_id, now=change.now)
            if not change.is_done and row.kind == OperationKind.DEPLOY:
                why = f"its deployment was canceled by {self.caller.id}"
                inventory.note_deploy_failed(change.session, row.target, why, deployment=operation_id, now=change.now)
            return operations.get_operation(change.session, operation_id)

    def pause_queue(self, name: str) -> None:
        """Start no more jobs of a model, or of all (`EVERY_MODEL`); raises NotFoundError."""
        with self._changing("queue.pause", name) as change:
            if name != EVERY_MODEL:
                inventory.get_model(change.session, name)
            change.is_done = not queues.pause_queue(change.session, name, by=self.caller.id, now=change.now)

    def resume_queue(self, name: str) -> None:
        """Start jobs of a queue again; raises NotFoundError for one that is neither paused nor a model's."""
        with self._changing("queue.resume", name) as change:
            change.is_done = not queues.resume_queue(change.session, name)
            if change.is_done and name != EVERY_MODEL:
                inventory.get_model(change.session, name)

    def put_tenant(self, name: str, wanted: TenantRequest) -> TenantRow:
        """Say what holds for a tenant."""
        with self._changing("tenant.put", name, after=wanted.model_dump()) as change:
            return queues.put_tenant(change.session, name, queues.TenantRules(**wanted.model_dump()), now=change.now)

    def create_key(self, wanted: KeyRequest) -> MadeKey:
        """Make a key."""
        key_id = keys.new_key_id()
        with self._changing("key.create", wanted.name, after=wanted.model_dump()) as change:
            if (first := self._first(change, key_id)) is not None:
                return MadeKey(keys.get_key(change.session, first), None)
            keys.ensure_tenant(change.session, wanted.tenant, now=change.now)
            row, plain = keys.create_key(
                change.session,
                key_id=key_id,
                tenant=wanted.tenant,
                name=wanted.name,
                scopes=frozenset(wanted.scopes),
                now=change.now,
            )
            return MadeKey(row, plain)

    def revoke_key(self, key_id: str) -> None:
        """Make a key useless; raises NotFoundError for one that is unknown or revoked."""
        with self._changing("key.revoke", key_id) as change:
            if not keys.revoke_key(change.session, key_id, now=change.now):
                raise NotFoundError("there is no such key, or it is revoked already")

    def _ask_node(self, action: str, kind: OperationKind, target: str, node: str) -> Started:
        operation_id, args = new_id("op"), {"node": node}
        with self._changing(action, target, after=args) as change:
            if (first := self._first(change, operation_id)) is not None:
                return Started(operations.get_operation(change.session, first), is_new=False)
            if kind is OperationKind.VERIFY:
                inventory.get_checkpoint(change.session, target)
            return self._start(change, operation_id, kind, target, args)

    def _changing(self, action: str, target: str, *, after: JsonObject | None = None) -> AbstractContextManager[Change]:
        return audited(self.ledger, self.caller, action, target, after=after)

    def _first(self, change: Change, made_id: str) -> str | None:
        """Id of what an earlier sending of the request made; None if this is the first, which is to make `made_id`."""
        first = None if self.repeatable is None else self.repeatable.claim(change.session, made_id, change.now)
        change.is_done = first is not None
        return first

    def _start(self, change: Change, operation_id: str, kind: OperationKind, target: str, args: JsonObject) -> Started:
        new = operations.NewOperation(
            id=operation_id,
            kind=kind,
            target=target,
            args=args,
            requested_by=self.caller.id,
            created_at=change.now,
        )
        return Started(operations.add_operation(change.session, new), is_new=True)


def _end_deployments(change: Change, model: str, why: str) -> None:
    operations.supersede_operations(change.session, OperationKind.DEPLOY, model, why=why, now=change.now)
