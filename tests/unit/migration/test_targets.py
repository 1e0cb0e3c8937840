"""Where a job moves: to a replica like its own before room for a new one, and never where it cannot run."""

from __future__ import annotations

from dataclasses import replace

from sllm_tasks.cluster import Gpu, GpuId, GpuState, NodeInfo, Replica, ReplicaState
from sllm_tasks.migration.targets import Place, Surroundings, find_target

GPUS = tuple(GpuId(f"node{n}", i) for n in range(2) for i in range(2))


def gpu(gpu_id: GpuId, *, reserved_bytes: int = 0, state: GpuState = GpuState.UP) -> Gpu:
    return Gpu(id=gpu_id, worker_id="w", device="cpu", capacity_bytes=100, reserved_bytes=reserved_bytes, state=state)


def replica(replica_id: str, *gpus: GpuId, num_jobs: int = 1) -> Replica:
    return Replica(
        id=replica_id, model="m", checkpoint="c", gpus=gpus, state=ReplicaState.READY, bytes_per_gpu=60, max_jobs=2,
        engine="steploop", context=64, num_jobs=num_jobs,
    )  # fmt: skip


SOURCE = replica("source", GPUS[0])


def around(*replicas: Replica, gpus: tuple[Gpu, ...] | None = None, in_dram: bool = False) -> Surroundings:
    kept = frozenset({"c"}) if in_dram else frozenset[str]()
    nodes = [
        NodeInfo(name="node0", checkpoints=frozenset({"c"})),
        NodeInfo(name="node1", checkpoints=frozenset({"c"}), in_dram=kept),
    ]
    return Surroundings(gpus=gpus or tuple(map(gpu, GPUS)), replicas=(SOURCE, *replicas), nodes=nodes)


def test_a_replica_with_room_comes_before_a_new_one() -> None:
    assert find_target(SOURCE, around(replica("b", GPUS[3]))) == Place(gpus=(GPUS[3],), replica_id="b")


def test_a_full_replica_or_one_of_another_checkpoint_is_no_place() -> None:
    full, foreign = replica("full", GPUS[2], num_jobs=2), replace(replica("b", GPUS[3]), checkpoint="d")
    found = find_target(SOURCE, around(full, foreign))
    assert found is not None
    assert found.replica_id is None


def test_a_replica_of_the_same_checkpoint_on_the_same_gpu_is_no_place() -> None:
    found = find_target(
        SOURCE, around(replace(replica("a", GPUS[0]), model="other"), replica("b", GPUS[3], num_jobs=1))
    )
    assert found == Place(gpus=(GPUS[3],), replica_id="b")


def test_the_gpu_asked_for_is_the_one_that_leads() -> None:
    assert find_target(SOURCE, around(), GPUS[2]) == Place(gpus=(GPUS[2],))
    assert find_target(SOURCE, around(), GpuId("node9", 0)) is None


def test_a_gpu_that_takes_no_work_is_no_place() -> None:
    draining = tuple(gpu(each, state=GpuState.DRAINING) for each in GPUS[1:])
    assert find_target(SOURCE, around(gpus=(gpu(GPUS[0]), *draining))) is None


def test_a_node_that_has_the_checkpoint_in_memory_is_preferred() -> None:
    found = find_target(SOURCE, around(in_dram=True))
    assert found is not None
    assert found.gpus[0].node == "node1"


def test_idle_replicas_make_room_and_busy_ones_do_not() -> None:
    idle, busy = replace(replica("idle", GPUS[1], num_jobs=0), checkpoint="d"), replica("busy", GPUS[2], num_jobs=2)
    gpus = (gpu(GPUS[0], reserved_bytes=60), gpu(GPUS[1], reserved_bytes=60), gpu(GPUS[2], reserved_bytes=60))
    assert find_target(SOURCE, around(idle, busy, gpus=gpus)) == Place(gpus=(GPUS[1],), victims=("idle",))


def test_a_replica_over_two_gpus_moves_to_two_gpus_of_one_node() -> None:
    source = replica("source", *GPUS[:2])
    found = find_target(source, around())
    assert found is not None
    assert sorted(found.gpus) == list(GPUS[2:])
