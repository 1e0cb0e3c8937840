"""The words for what a cluster is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.cluster import REPLICA_TRANSITIONS, Gpu, GpuId, Replica, ReplicaState

_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)


@given(_NAMES, st.integers(0, 1_000))
def test_a_gpus_name_is_read_as_it_is_written(node: str, index: int) -> None:
    gpu = GpuId(node, index)
    assert GpuId.parse(str(gpu)) == gpu
    assert gpu.queue == f"gpu.{node}.{index}"


@pytest.mark.parametrize("text", ["", "node0", ".0", "node0.", "node0.x", "node0.-1", "node0.1.5x"])
def test_what_is_no_gpus_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a gpu is written"):
        GpuId.parse(text)


def test_gpus_are_ordered_by_node_and_then_by_number() -> None:
    assert sorted([GpuId("b", 0), GpuId("a", 10), GpuId("a", 2)]) == [GpuId("a", 2), GpuId("a", 10), GpuId("b", 0)]


def test_a_replica_goes_forward_unless_it_is_opened_again_and_ends_by_being_unloaded() -> None:
    order = list(ReplicaState)
    back = {
        (old, new)
        for old, after in REPLICA_TRANSITIONS.items()
        for new in after
        if order.index(new) <= order.index(old)
    }
    assert back == {(ReplicaState.DRAINING, ReplicaState.READY)}
    assert all(
        old is ReplicaState.UNLOADING or ReplicaState.UNLOADING in after for old, after in REPLICA_TRANSITIONS.items()
    )


def test_free_memory_is_what_no_replica_has_reserved() -> None:
    gpu = Gpu(id=GpuId("node0", 0), worker_id="w", device="cpu", capacity_bytes=10, reserved_bytes=3)
    assert gpu.free_bytes == 7


@pytest.mark.parametrize(
    ("state", "num_jobs", "has_room"),
    [
        (ReplicaState.READY, 1, True),
        (ReplicaState.READY, 2, False),
        (ReplicaState.LOADING, 0, True),
        (ReplicaState.DRAINING, 0, False),
        (ReplicaState.UNLOADING, 0, False),
    ],
)
def test_a_replica_has_room_until_it_is_full_or_closes(state: ReplicaState, num_jobs: int, has_room: bool) -> None:
    gpus = (GpuId("node0", 1), GpuId("node0", 0))
    replica = Replica(
        id="r", model="m", checkpoint="c", gpus=gpus, state=state, bytes_per_gpu=1, max_jobs=2, num_jobs=num_jobs,
        engine="steploop", context=64,
    )  # fmt: skip
    assert replica.has_room is has_room
    assert replica.leader == gpus[0]
