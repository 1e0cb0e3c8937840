"""Makes desired placements true: what a node's tiers should hold and do not, or hold and should not, is worked on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from sllm_tasks.cluster import NodeInfo, Tier
from sllm_tasks.control.operations import OperationDesk
from sllm_tasks.control.placing import Placed, next_operation
from sllm_tasks.control.presence import Presence
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.inventory import StoredCheckpoint, list_checkpoints
from sllm_tasks.ledger.operations import NewOperation, add_operation, open_operation_exists
from sllm_tasks.ledger.placement_progress import placement_progress
from sllm_tasks.ledger.placements import (
    awaited_checkpoints,
    list_placements,
    note_placement,
    remove_placement,
    served_checkpoints,
    want_placement,
)
from sllm_tasks.ledger.tables import PlacementRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.operations import OperationKind
from sllm_tasks.policy.placement import Proposal
from sllm_tasks.proposals import placement_proposals, want_proposals

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
#: Popularity is of the last day: it is looked at this often.
_POPULARITY_MS = 60_000
#: How long a checkpoint stays that nobody needs: a web process goes by a former deployment for a second, and its jobs
#: may take some more to be committed.
_DROP_AFTER = timedelta(seconds=15)
#: How long a node that is silent counts as one that has its copies: longer than a machine takes to start again.
LOST_AFTER = timedelta(minutes=5)


class Reconciler:
    """Runs once a second, and looks after operations in the same breath."""

    def __init__(
        self,
        ledger: Database,
        live: LiveState,
        desk: OperationDesk,
        *,
        ssd_copies: int,
        follows_popularity: bool = False,
        lost_after: timedelta = LOST_AFTER,
    ) -> None:
        self._ledger = ledger
        self._live = live
        self._desk = desk
        self._ssd_copies = ssd_copies
        self._follows_popularity = follows_popularity
        self._presence = Presence(lost_after)
        self._followed_ms = 0

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
        proposals = self._proposals(nodes.values(), now_ms)
        with self._ledger.transaction() as session:
            want_proposals(session, proposals, from_ms(now_ms))
            placed = {row.node for row in list_placements(session)}
            lost = self._presence.lost(placed, nodes, from_ms(now_ms))
            stored = {checkpoint.digest: checkpoint for checkpoint in list_checkpoints(session)}
            _Pass(session, nodes, lost, stored, from_ms(now_ms), self._ssd_copies).run()

    def _proposals(self, nodes: Iterable[NodeInfo], now_ms: int) -> Sequence[Proposal]:
        """What popularity speaks for, now and then. All jobs of a day are counted: nobody who writes waits for that."""
        if not self._follows_popularity or now_ms - self._followed_ms < _POPULARITY_MS:
            return ()
        self._followed_ms = now_ms
        try:
            with self._ledger.reading() as session:
                return placement_proposals(session, nodes, from_ms(now_ms), ssd_copies=self._ssd_copies)
        except UnavailableError as error:
            # PostgreSQL gives up what takes too long; all the rest must go on.
            logger.warning("popularity is not followed: %s", error)
            return ()


@dataclass(frozen=True, slots=True)
class _Pass:
    """One comparison, in one transaction; `nodes` are those that live, `lost` those that have not for long."""

    session: Session
    nodes: Mapping[str, NodeInfo]
    lost: frozenset[str]
    stored: Mapping[str, StoredCheckpoint]
    now: datetime
    ssd_copies: int

    def run(self) -> None:
        served = served_checkpoints(self.session)
        self._note_actual()
        self._want_copies(served)
        self._work_towards_desired()
        self._drop_unneeded()
        self._forget(served)

    def _rows(self) -> Sequence[PlacementRow]:
        return list_placements(self.session)

    def _note_actual(self) -> None:
        """Enter what nodes report; what a silent one had is what it said last."""
        noted = {(row.checkpoint, row.node): row.actual for row in self._rows()}
        for node in self.nodes.values():
            reported = {digest: Placed.on(node, digest).tier for digest in node.checkpoints & self.stored.keys()}
            gone = {digest: None for digest, name in noted if name == node.name and digest not in reported}
            for digest, tier in {**reported, **gone}.items():
                if noted.get((digest, node.name)) != tier:
                    note_placement(self.session, digest, node.name, tier=tier, now=self.now)

    def _want_copies(self, served: frozenset[str]) -> None:
        """Every deployed checkpoint should be on `ssd_copies` nodes, those that have it first.

        A lost node does not count among them if the checkpoint can come from somewhere else.
        """
        rows = self._rows()
        # A deployment may have been committed since those that are stored were read.
        for digest in served & self.stored.keys():
            of_it = {row.node: row for row in rows if row.checkpoint == digest}
            wanted = {name for name, row in of_it.items() if row.desired is not None}
            if any(digest in node.checkpoints for node in self.nodes.values()) or self.stored[digest].came_from_url:
                wanted -= self.lost
            # Pinned and not wanted: somebody said that it is not to be there.
            possible = [
                node
                for name, node in self.nodes.items()
                if name not in wanted
                and not (name in of_it and of_it[name].pinned)
                and _has_room(node, self.stored[digest])
            ]
            possible.sort(key=lambda node: (digest not in node.checkpoints, node.name))
            for node in possible[: max(0, self.ssd_copies - len(wanted))]:
                want_placement(self.session, digest, node.name, tier=Tier.SSD, pinned=False, now=self.now)
        for row in rows:
            if row.desired is not None and row.checkpoint not in served and not row.pinned:
                want_placement(self.session, row.checkpoint, row.node, tier=None, pinned=False, now=self.now)

    def _work_towards_desired(self) -> None:
        needed = {
            (row.checkpoint, row.node): kind
            for row in self._rows()
            if row.node in self.nodes
            and (kind := next_operation(row.desired, Placed.on(self.nodes[row.node], row.checkpoint)))
        }
        self._request(needed)

    def _drop_unneeded(self) -> None:
        """Delete copies that nobody wants, never the last one of what a model or a job needs."""
        # A deployment may be about to find there what it would have to import otherwise.
        if open_operation_exists(self.session, OperationKind.DEPLOY):
            return
        live = [row for row in self._rows() if row.node in self.nodes and row.actual is not None]
        kept = {row.checkpoint for row in live if row.desired is not None}
        unwanted = [row for row in live if row.desired is None and self.now - row.updated_at >= _DROP_AFTER]
        # Read after that no deployment runs: the last one may have been committed since this pass began.
        served = served_checkpoints(self.session)
        needed = served | awaited_checkpoints(self.session, {row.checkpoint for row in unwanted})
        self._request(
            {
                (row.checkpoint, row.node): OperationKind.DROP_CHECKPOINT
                for row in unwanted
                if row.checkpoint in kept or row.checkpoint not in needed
            }
        )

    def _forget(self, served: frozenset[str]) -> None:
        """Forget placements that are neither wanted nor there, but not the wish that a policy must respect."""
        for row in self._rows():
            if row.desired is None and row.actual is None and not (row.pinned and row.checkpoint in served):
                remove_placement(self.session, row.checkpoint, row.node)

    def _request(self, needed: Mapping[tuple[str, str], OperationKind]) -> None:
        """Ask for operations, unless one is under way or the last one failed a moment ago."""
        rows = [row for row in self._rows() if (row.checkpoint, row.node) in needed]
        progress = placement_progress(self.session, rows, self.now)
        for (digest, node), kind in needed.items():
            if progress[digest, node].may_begin(self.now):
                operation = NewOperation(
                    id=new_id("op"),
                    kind=kind,
                    target=digest,
                    args={"node": node, **_source_of(kind, self.stored.get(digest))},
                    requested_by="reconciler",
                    created_at=self.now,
                    node=node,
                )
                add_operation(self.session, operation)


def _has_room(node: NodeInfo, checkpoint: StoredCheckpoint) -> bool:
    """Whether a checkpoint is or could be on a node's SSD, as far as its last report says."""
    return checkpoint.digest in node.checkpoints or node.ssd is None or node.ssd.free_bytes >= checkpoint.num_bytes


def _source_of(kind: OperationKind, checkpoint: StoredCheckpoint | None) -> dict[str, object]:
    """Where a checkpoint can be fetched from if no live node has it, and how it was written then."""
    if kind is not OperationKind.FETCH or checkpoint is None or not checkpoint.came_from_url:
        return {}
    return {"source": checkpoint.source, "num_gpus": checkpoint.num_partitions}
