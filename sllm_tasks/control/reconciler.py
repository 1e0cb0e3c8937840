"""Makes desired placements true: what should be on a node's SSD and is not becomes an operation."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from sllm_tasks.cluster import NodeInfo
from sllm_tasks.control.operations import OperationDesk
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.inventory import checkpoint_digests
from sllm_tasks.ledger.operations import NewOperation, add_operation, list_operations, open_operation_exists
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.placements import (
    awaited_checkpoints,
    list_placements,
    note_placement,
    remove_placement,
    served_checkpoints,
    want_placement,
)
from sllm_tasks.ledger.states import ENDED_OPERATION_STATUSES, Tier
from sllm_tasks.livestate import LiveState
from sllm_tasks.operations import OperationKind

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
#: After a failed fetch or drop the same one is not tried again for this long.
_BACK_OFF = timedelta(seconds=30)
#: How long a checkpoint stays that nobody needs: a web process goes by a former deployment for a second, and its jobs
#: may take some more to be committed.
_DROP_AFTER = timedelta(seconds=15)


class Reconciler:
    """Runs once a second, and looks after operations in the same breath."""

    def __init__(self, ledger: Database, live: LiveState, desk: OperationDesk, *, ssd_copies: int) -> None:
        self._ledger = ledger
        self._live = live
        self._desk = desk
        self._ssd_copies = ssd_copies

    def run(self, stopping: threading.Event) -> None:
        """Reconcile until told to stop."""
        while not stopping.wait(_PERIOD_S):
            try:
                self.reconcile()
                self._desk.step()
            except UnavailableError as error:
                logger.warning("not reconciled: %s", error)

    def reconcile(self) -> None:
        """Compare what is wanted with what nodes report; raises UnavailableError."""
        now_ms = self._live.now_ms()
        nodes = {node.name: node for node in self._live.fleet.nodes(now_ms)}
        now = from_ms(now_ms)
        with self._ledger.transaction() as session:
            self._note_actual(session, nodes, now)
            served = served_checkpoints(session)
            self._want_copies(session, served, nodes, now)
            self._fetch_missing(session, nodes, now)
            self._drop_unneeded(session, served, nodes, now)

    def _note_actual(self, session: Session, nodes: dict[str, NodeInfo], now: datetime) -> None:
        known = checkpoint_digests(session)
        rows = {(row.checkpoint, row.node): row for row in list_placements(session)}
        for node in nodes.values():
            for digest in node.checkpoints & known:
                row = rows.get((digest, node.name))
                if row is None or row.actual is None:
                    note_placement(session, digest, node.name, tier=Tier.SSD, now=now)
        for (digest, name), row in rows.items():
            if row.actual is not None and name in nodes and digest not in nodes[name].checkpoints:
                note_placement(session, digest, name, tier=None, now=now)
                remove_placement(session, digest, name)

    def _want_copies(self, session: Session, served: frozenset[str], nodes: dict[str, NodeInfo], now: datetime) -> None:
        """Every deployed checkpoint should be on `ssd_copies` nodes, those that have it first."""
        placements = list_placements(session)
        for digest in served:
            wanted = {row.node for row in placements if row.checkpoint == digest and row.desired is not None}
            there = {row.node for row in placements if row.checkpoint == digest and row.actual is not None}
            candidates = sorted(nodes.keys() - wanted, key=lambda name: (name not in there, name))
            for name in candidates[: max(0, self._ssd_copies - len(wanted))]:
                want_placement(session, digest, name, tier=Tier.SSD, pinned=False, now=now)
        for row in placements:
            if row.desired is not None and row.checkpoint not in served and not row.pinned:
                want_placement(session, row.checkpoint, row.node, tier=None, pinned=False, now=now)

    def _fetch_missing(self, session: Session, nodes: dict[str, NodeInfo], now: datetime) -> None:
        for row in list_placements(session, unmet_only=True):
            if row.node in nodes and row.desired is not None and row.actual is None:
                self._request(session, OperationKind.FETCH, row.checkpoint, row.node, now)

    def _drop_unneeded(
        self, session: Session, served: frozenset[str], nodes: dict[str, NodeInfo], now: datetime
    ) -> None:
        """Delete copies that nobody wants, never the last one of what a model or a job needs."""
        # A deployment may be about to find there what it would have to import otherwise.
        if open_operation_exists(session, OperationKind.DEPLOY):
            return
        live = [row for row in list_placements(session) if row.node in nodes and row.actual is not None]
        kept = {row.checkpoint for row in live if row.desired is not None}
        unwanted = [row for row in live if row.desired is None and now - row.updated_at >= _DROP_AFTER]
        needed = served | awaited_checkpoints(session, {row.checkpoint for row in unwanted})
        for row in unwanted:
            if row.checkpoint in kept or row.checkpoint not in needed:
                self._request(session, OperationKind.DROP_CHECKPOINT, row.checkpoint, row.node, now)

    def _request(self, session: Session, kind: OperationKind, digest: str, node: str, now: datetime) -> None:
        for row in list_operations(session, PageRequest(limit=50), target=digest).rows:
            same = row.kind == kind and row.args.get("node") == node
            is_open = row.status not in ENDED_OPERATION_STATUSES
            if same and (is_open or (row.ended_at is not None and now - row.ended_at < _BACK_OFF)):
                return
        operation = NewOperation(
            id=new_id("op"),
            kind=kind,
            target=digest,
            args={"node": node},
            requested_by="reconciler",
            created_at=now,
            node=node,
        )
        add_operation(session, operation)
