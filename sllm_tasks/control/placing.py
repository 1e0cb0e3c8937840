"""What a placement needs next: a decision from what is wanted and what its node reports."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.cluster import NodeInfo, Tier
from sllm_tasks.operations import OperationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A checkpoint as its node reports it."""

    #: The fastest tier that has all of it; None: it is not there.
    tier: Tier | None
    #: Whether it stays in DRAM until it is told to go.
    is_kept: bool = False

    @classmethod
    def on(cls, node: NodeInfo, digest: str) -> Placed:
        """Read it from a node's report."""
        if digest not in node.checkpoints:
            return cls(tier=None)
        tier = Tier.DRAM if digest in node.in_dram else Tier.SSD
        return cls(tier=tier, is_kept=digest in node.kept_in_dram)


def next_operation(desired: Tier | None, placed: Placed) -> OperationKind | None:
    """Choose what brings a placement closer to what is wanted, None when it is there.

    What nobody wants is not deleted here: that depends on who else has it. A checkpoint that is in DRAM because it was
    loaded is no more than what is wanted, and goes when its room is needed.
    """
    if desired is None:
        return OperationKind.EVICT if placed.is_kept else None
    if placed.tier is None:
        return OperationKind.FETCH
    if desired is Tier.DRAM:
        return None if placed.is_kept else OperationKind.PREFETCH
    return OperationKind.EVICT if placed.is_kept else None
