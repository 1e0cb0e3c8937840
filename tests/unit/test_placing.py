"""What a placement needs next follows from what is wanted and what its node reports, and from nothing else."""

from __future__ import annotations

import pytest

from sllm_tasks.cluster import NodeInfo, Tier
from sllm_tasks.control.placing import Placed, next_operation
from sllm_tasks.operations import OperationKind

NOWHERE = Placed(tier=None)
ON_SSD = Placed(tier=Tier.SSD)
CACHED = Placed(tier=Tier.DRAM)
KEPT = Placed(tier=Tier.DRAM, is_kept=True)


@pytest.mark.parametrize(
    ("desired", "placed", "expected"),
    [
        (Tier.SSD, NOWHERE, OperationKind.FETCH),
        (Tier.SSD, ON_SSD, None),
        (Tier.SSD, CACHED, None),
        (Tier.SSD, KEPT, OperationKind.EVICT),
        (Tier.DRAM, NOWHERE, OperationKind.FETCH),
        (Tier.DRAM, ON_SSD, OperationKind.PREFETCH),
        (Tier.DRAM, CACHED, OperationKind.PREFETCH),
        (Tier.DRAM, KEPT, None),
        (None, NOWHERE, None),
        (None, ON_SSD, None),
        (None, CACHED, None),
        (None, KEPT, OperationKind.EVICT),
    ],
)
def test_each_step_brings_a_placement_closer_to_what_is_wanted(
    desired: Tier | None, placed: Placed, expected: OperationKind | None
) -> None:
    assert next_operation(desired, placed) is expected


def test_what_is_only_in_dram_is_not_there() -> None:
    node = NodeInfo(name="n", checkpoints=frozenset("ab"), in_dram=frozenset("bc"), kept_in_dram=frozenset("c"))
    assert [Placed.on(node, digest) for digest in "abc"] == [ON_SSD, CACHED, NOWHERE]
