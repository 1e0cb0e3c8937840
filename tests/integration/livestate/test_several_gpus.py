"""A replica over several gpus: reserved on each of them, led by the first, gone when one of them is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sllm_tasks.cluster import GpuId, GpuState, Replica, ReplicaState
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.migration.records import StartAnswer
from sllm_tasks.migration.states import MigrationReason, MigrationState
from tests.integration.livestate.world import World, job_spec, model_info, replica_order

LEADER, FOLLOWER = GpuId("node0", 0), GpuId("node0", 1)
GROUP = (LEADER, FOLLOWER)
_ELSEWHERE = (GpuId("node1", 0), GpuId("node1", 1))


def _replica(world: World, replica_id: str = "replica_1") -> Replica | None:
    order = world.live.fleet.replica(replica_id)
    return order and order.replica


def _reserved(world: World) -> list[int]:
    return [world.reserved_bytes(gpu) for gpu in GROUP]


@pytest.fixture
def claim(world: World) -> Claim:
    """A job that runs on a ready replica over both gpus, each of which has room for one such replica."""
    world.add_gpu(LEADER, "worker_a")
    world.add_gpu(FOLLOWER, "worker_b")
    world.live.jobs.create(job_spec())
    new = NewReplica(model=model_info(num_bytes=60, slots=2), gpus=GROUP)
    assert world.apply("job_1", "replica_1", new) is Applied.OK
    claim = world.claim("job_1", gpu=LEADER, worker="worker_a")
    assert world.live.fleet.replica_ready("replica_1")
    world.append(claim, 0, 1)
    return claim


def test_its_memory_is_reserved_on_each_gpu_and_its_jobs_are_the_leaders(world: World, claim: Claim) -> None:
    assert _reserved(world) == [60, 60]
    assert world.live.jobs.create(job_spec("job_2")).gpu == LEADER
    world.live.jobs.create(job_spec("job_3", model="other"))
    other = NewReplica(model=model_info("other", num_bytes=60), gpus=(FOLLOWER,))
    assert world.apply("job_3", "replica_2", other) is Applied.FULL


def test_one_full_gpu_keeps_it_from_all(world: World) -> None:
    world.add_gpu(LEADER, "worker_a")
    world.add_gpu(FOLLOWER, "worker_b", replica_order("there", model="x", gpu=FOLLOWER, num_bytes=50))
    world.live.jobs.create(job_spec())
    new = NewReplica(model=model_info(num_bytes=60), gpus=GROUP)
    assert world.apply("job_1", "replica_1", new) is Applied.FULL
    assert _reserved(world) == [0, 50]
    assert world.apply("job_1", "replica_1", replace(new, victims=("there",))) is Applied.OK
    assert _reserved(world) == [60, 60]
    assert [replica.id for replica in world.live.fleet.closed_replicas(FOLLOWER)] == ["there"]
    assert world.live.fleet.closed_replicas(LEADER) == []


def test_closing_it_frees_each_gpu_once_and_every_gpu_knows_who_holds_its_memory(world: World, claim: Claim) -> None:
    world.live.jobs.end("job_1", JobStatus.CANCELED, {})
    assert world.live.fleet.unload_replica("replica_1") == LEADER
    assert _reserved(world) == [0, 0]
    assert [world.live.fleet.closed_replicas(gpu)[0].leader for gpu in GROUP] == [LEADER, LEADER]
    world.live.fleet.drop_replica("replica_1")
    assert _reserved(world) == [0, 0]
    assert [world.live.fleet.replicas_on(gpu) for gpu in GROUP] == [[], []]


def test_with_its_leader_it_is_gone_and_its_job_waits_as_one_whose_worker_died(world: World, claim: Claim) -> None:
    world.silence(LEADER)
    assert world.live.fleet.reap_gpu(LEADER) == 1
    assert _replica(world) is None
    assert world.reserved_bytes(FOLLOWER) == 0
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (world.live.jobs.waiting(), view.attempt, view.losses, view.num_tokens) == (["job_1"], 2, 1, 2)


def test_with_a_follower_it_is_closed_and_its_job_waits_without_blame(world: World, claim: Claim) -> None:
    world.silence(FOLLOWER)
    assert world.live.fleet.reap_gpu(FOLLOWER) == 1
    view, replica = world.live.jobs.view("job_1"), _replica(world)
    assert view is not None
    assert replica is not None
    assert (world.live.jobs.waiting(), view.attempt, view.losses, view.num_tokens) == (["job_1"], 2, 0, 2)
    assert (replica.state, replica.num_jobs, world.reserved_bytes(LEADER)) == (ReplicaState.UNLOADING, 0, 0)
    # The old owner hears of it, and may write nothing more.
    assert world.live.fleet.beat_gpu(LEADER, "worker_a", [claim], {}) == ["stale"]
    assert world.append(claim, 2) == "stale"
    assert world.live.fleet.reap_gpu(FOLLOWER) == -1


def test_a_followers_next_worker_finds_out_whose_memory_is_still_on_its_gpu(world: World, claim: Claim) -> None:
    world.add_gpu(FOLLOWER, "worker_c")
    assert _reserved(world) == [0, 0]
    assert [replica.id for replica in world.live.fleet.closed_replicas(FOLLOWER)] == ["replica_1"]
    world.live.fleet.drop_replica("replica_1")
    assert world.live.fleet.closed_replicas(FOLLOWER) == []
    assert _reserved(world) == [0, 0]


def test_when_both_die_nothing_is_left(world: World, claim: Claim) -> None:
    for gpu in (FOLLOWER, LEADER):
        world.silence(gpu)
        world.live.fleet.reap_gpu(gpu)
    left = {key.decode() for key in world.redis.keys("sllm:*")}
    assert not {key for key in left if key.startswith(("sllm:gpu", "sllm:replica", "sllm:warm", "sllm:leases"))}
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.attempt, view.losses) == (2, 0)


def test_a_leader_that_was_given_up_wrongly_has_to_free_it(world: World, claim: Claim) -> None:
    held = _replica(world)
    assert held is not None
    world.silence(LEADER)
    world.live.fleet.reap_gpu(LEADER)
    # Its follower's memory went to somebody else in the meantime.
    world.live.jobs.create(job_spec("job_2", model="other"))
    other = NewReplica(model=model_info("other", num_bytes=90), gpus=(FOLLOWER,))
    assert world.apply("job_2", "replica_2", other) is Applied.OK
    world.add_gpu(LEADER, "worker_a", ReplicaOrder(replica=held))
    assert _reserved(world) == [0, 90]
    assert [replica.id for replica in world.live.fleet.closed_replicas(LEADER)] == ["replica_1"]
    assert [replica.id for replica in world.live.fleet.closed_replicas(FOLLOWER)] == ["replica_1"]
    world.live.fleet.drop_replica("replica_1")
    assert _reserved(world) == [0, 90]


@pytest.mark.parametrize("gpu", GROUP)
def test_it_takes_no_jobs_while_one_of_its_gpus_takes_none(world: World, claim: Claim, gpu: GpuId) -> None:
    world.live.fleet.set_gpu_state(gpu, GpuState.DRAINING)
    assert world.live.jobs.create(job_spec("job_2")).gpu is None
    assert world.apply("job_2", "replica_1") is Applied.DEAD
    world.live.fleet.set_gpu_state(gpu, GpuState.UP)
    assert world.apply("job_2", "replica_1") is Applied.OK


def test_nobody_arrives_at_it_once_its_follower_takes_no_work(world: World) -> None:
    world.append(world.running_job(), 0)
    for index, gpu in enumerate(_ELSEWHERE):
        world.add_gpu(gpu, f"worker_{index}")
    new = NewReplica(model=model_info(), gpus=_ELSEWHERE)

    def start(migration_id: str, new: NewReplica | None) -> StartAnswer:
        return world.live.migrations.start(
            migration_id, "job_1", reason=MigrationReason.OPERATOR, target_replica="replica_2", new=new
        )

    assert start("migration_1", new) is StartAnswer.OK
    world.live.fleet.set_gpu_state(_ELSEWHERE[1], GpuState.DRAINING)
    migration = world.live.migrations.get("migration_1")
    assert migration is not None
    assert (migration.state, world.num_jobs("replica_2")) == (MigrationState.FAILED, 0)
    assert start("migration_2", None) is StartAnswer.DEAD


def test_a_load_ends_with_a_follower(world: World) -> None:
    world.add_gpu(LEADER, "worker_a")
    world.add_gpu(FOLLOWER, "worker_b")
    world.live.jobs.create(job_spec())
    world.apply("job_1", "replica_1", NewReplica(model=model_info(), gpus=GROUP))
    world.silence(FOLLOWER)
    world.live.fleet.reap_gpu(FOLLOWER)
    assert not world.live.fleet.replica_ready("replica_1")
    assert world.live.jobs.waiting() == ["job_1"]
