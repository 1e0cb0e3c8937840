"""Placements that popularity speaks for: what the ledger and the nodes say, put before the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from sllm_tasks.cluster import NodeInfo
from sllm_tasks.ledger.facts import num_jobs_by_model
from sllm_tasks.ledger.inventory import checkpoint_sizes, list_models
from sllm_tasks.ledger.placements import list_placements, want_placement
from sllm_tasks.policy.placement import Present, Proposal, Wanted, propose

#: Long enough for a whole swing of day and night.
_LOOK_BACK = timedelta(days=1)


def placement_proposals(
    session: Session, nodes: Iterable[NodeInfo], now: datetime, *, ssd_copies: int
) -> tuple[Proposal, ...]:
    """Say where the checkpoints of deployed models should be, by how often they were asked for in the last day."""
    num_jobs = num_jobs_by_model(session, since=now - _LOOK_BACK)
    weights = Counter[str]()
    for model in list_models(session):
        if model.checkpoint is not None:
            weights[model.checkpoint] += num_jobs.get(model.name, 0)
    sizes = checkpoint_sizes(session)
    wanted = {
        digest: Wanted(num_bytes=sizes[digest], weight=weight, num_least=ssd_copies)
        for digest, weight in weights.items()
    }
    rows = list_placements(session)
    return propose(
        wanted,
        nodes,
        {(row.checkpoint, row.node): Present(desired=row.desired, pinned=row.pinned) for row in rows},
    )


def want_proposals(session: Session, proposals: Iterable[Proposal], now: datetime) -> None:
    """Let it be so, but where somebody has pinned what is to be there meanwhile; the reconciler makes it true."""
    found = list(proposals)
    pinned = {(row.checkpoint, row.node) for row in list_placements(session) if row.pinned} if found else set()
    for each in found:
        if (each.checkpoint, each.node) in pinned:
            continue
        want_placement(session, each.checkpoint, each.node, tier=each.proposed, pinned=False, now=now)
