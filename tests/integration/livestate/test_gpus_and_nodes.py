"""Gpus live by their heartbeat; what a dead one held is free, and what it ran goes on elsewhere."""

from __future__ import annotations

from functools import partial

from sllm_tasks.cluster import Gpu, GpuState, NodeInfo, ReplicaState
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.livestate.router import Applied, NewReplica
from tests.integration.livestate.world import (
    GPU,
    OTHER_GPU,
    SUCCEEDED,
    WORKER,
    World,
    job_spec,
    model_info,
    replica_order,
)
from tests.support.races import run_together


def test_a_registered_gpu_shows_what_its_worker_has_loaded(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("replica_1", num_bytes=30), replica_order("replica_2", num_bytes=20))
    gpu = world.live.fleet.gpu(GPU)
    assert gpu is not None
    assert (gpu.worker_id, gpu.capacity_bytes, gpu.reserved_bytes, gpu.free_bytes) == (WORKER, 100, 50, 50)
    assert world.live.fleet.gpus() == [gpu]
    assert world.live.fleet.replicas_on(GPU) == ["replica_1", "replica_2"]
    assert world.live.fleet.has_replicas("m")
    assert not world.live.fleet.has_replicas("other")


def test_a_successor_on_the_same_gpu_frees_what_its_predecessor_held(world: World) -> None:
    claim = world.running_job()
    assert world.add_gpu(GPU, "worker_b") == 1
    assert world.reserved_bytes() == 0
    assert world.live.fleet.replicas_on(GPU) == []
    assert world.live.jobs.waiting() == ["job_1"]
    assert world.append(claim, 0) == "stale"


def test_a_dead_gpu_gives_back_everything(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order(slots=2))
    for i in range(3):
        world.live.jobs.create(job_spec(f"job_{i}", created_ms=i))
    world.claim("job_0")
    world.silence(GPU)
    assert world.live.fleet.silent_gpus(world.live.now_ms()) == [GPU]
    assert world.live.fleet.reap_gpu(GPU) == 2
    assert world.live.jobs.waiting() == ["job_0", "job_1", "job_2"]
    assert world.live.fleet.gpu(GPU) is None
    assert world.live.fleet.replica("replica_1") is None
    left = {key.decode() for key in world.redis.keys("sllm:*")}
    assert not {key for key in left if key.startswith(("sllm:gpu", "sllm:replica", "sllm:warm", "sllm:leases"))}


def test_only_jobs_that_were_claimed_lose_a_worker_when_their_gpu_dies(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    for job_id in ("claimed", "placed"):
        world.live.jobs.create(job_spec(job_id))
    world.claim("claimed")
    world.silence(GPU)
    world.live.fleet.reap_gpu(GPU)
    views = world.live.jobs.views(["claimed", "placed"])
    assert [view.losses for view in views if view] == [1, 0]


def test_a_job_whose_end_is_being_committed_does_not_start_again(world: World) -> None:
    claim = world.running_job()
    world.live.jobs.finish(claim, SUCCEEDED)
    world.silence(GPU)
    assert world.live.fleet.reap_gpu(GPU) == 0
    assert world.live.jobs.waiting() == []


def test_a_gpu_that_lives_is_not_reaped(world: World) -> None:
    claim = world.running_job()
    assert world.live.fleet.reap_gpu(GPU) == -1
    assert world.append(claim, 0) == "ok"


def test_a_sweep_that_the_server_held_up_reaps_no_gpu(world: World) -> None:
    claim = world.running_job()
    world.silence(GPU)
    assert world.live.fleet.reap_gpu(GPU, expires_ms=world.live.now_ms() - 1) == -1
    assert world.append(claim, 0) == "ok"


def test_of_many_sweepers_one_reaps_a_dead_gpu(world: World) -> None:
    world.running_job()
    world.silence(GPU)
    answers = run_together([partial(world.live.fleet.reap_gpu, GPU)] * 8)
    assert sorted(answers) == [-1] * 7 + [1]
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.attempt, view.losses) == (2, 1)


def test_a_worker_signs_off_its_own_gpu_only(world: World) -> None:
    world.add_gpu(GPU, "worker_b")
    assert world.live.fleet.reap_gpu(GPU, WORKER) == -1
    assert world.live.fleet.reap_gpu(GPU, "worker_b") == 0
    assert world.live.fleet.gpus() == []


def test_a_heartbeat_renews_leases_and_says_which_jobs_should_stop(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    claims = []
    for job_id in ("fine", "canceled", "lost"):
        world.live.jobs.create(job_spec(job_id))
        claims.append(world.claim(job_id))
        world.make_due(job_id)
    world.live.jobs.cancel("canceled", "user")
    world.live.jobs.release(claims[2], "hand_over")
    verdicts = world.live.fleet.beat_gpu(GPU, WORKER, claims, {"num_jobs": 3})
    assert verdicts == [Verdict.OK, Verdict.CANCEL, Verdict.STALE]
    assert world.live.jobs.due(world.live.now_ms()) == []
    assert world.live.fleet.gpu_stats(GPU) == {"num_jobs": 3}


def test_a_heartbeat_revives_a_gpu_that_nobody_has_reaped(world: World) -> None:
    world.add_gpu()
    world.silence(GPU)
    world.live.fleet.beat_gpu(GPU, WORKER, [], {})
    assert world.live.fleet.silent_gpus(world.live.now_ms()) == []


def test_a_worker_that_was_reaped_or_replaced_has_to_register_again(world: World) -> None:
    assert world.live.fleet.beat_gpu(GPU, WORKER, [], {}) is None
    world.add_gpu(GPU, "worker_b")
    assert world.live.fleet.beat_gpu(GPU, WORKER, [], {}) is None


def test_draining_is_told_by_the_record_and_needs_a_gpu_that_exists(world: World) -> None:
    assert not world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    world.add_gpu()
    assert world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    gpu = world.live.fleet.gpu(GPU)
    assert gpu is not None
    assert gpu.state is GpuState.DRAINING


def test_a_gpu_whose_worker_leaves_is_not_taken_back_by_an_operator(world: World) -> None:
    def take_back() -> GpuState:
        for names in ([str(GPU)], []):
            world.live.drains.set(names, world.live.drains.look().version)
        gpu = world.live.fleet.gpu(GPU)
        assert gpu is not None
        return gpu.state

    world.add_gpu()
    assert take_back() is GpuState.UP
    world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    assert take_back() is GpuState.DRAINING
    # Its next worker is another matter.
    world.add_gpu(GPU, "worker_b")
    assert take_back() is GpuState.UP
    # One that the live state has forgotten says what it does when it registers.
    world.live.fleet.register_gpu(
        Gpu(id=GPU, worker_id="worker_c", device="cpu", capacity_bytes=1, state=GpuState.DRAINING)
    )
    assert take_back() is GpuState.DRAINING


def test_a_loaded_replica_takes_jobs_once_its_worker_says_so(world: World) -> None:
    world.add_gpu()
    world.live.jobs.create(job_spec("first"))
    assert world.apply("first", "replica_1", NewReplica(model=model_info(), gpus=(GPU,))) is Applied.OK
    assert world.live.jobs.create(job_spec("early")).gpu is None
    world.live.jobs.end("early", JobStatus.CANCELED, {})
    assert world.live.fleet.replica_ready("replica_1")
    assert not world.live.fleet.replica_ready("replica_1")
    assert world.live.jobs.create(job_spec("late")).gpu == GPU


def test_a_replica_that_could_not_be_loaded_holds_no_memory(world: World) -> None:
    world.add_gpu()
    world.live.jobs.create(job_spec())
    world.apply("job_1", "replica_1", NewReplica(model=model_info(), gpus=(GPU,)))
    world.live.fleet.drop_replica("replica_1")
    world.live.fleet.drop_replica("replica_1")
    assert world.reserved_bytes() == 0
    assert world.live.fleet.replica("replica_1") is None


def test_an_idle_replica_is_closed_once_and_its_memory_counts_as_free_at_once(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    assert world.live.fleet.unload_replica("replica_1") == GPU
    assert world.live.fleet.unload_replica("replica_1") is None
    assert world.reserved_bytes() == 0
    order = world.live.fleet.replica("replica_1")
    assert order is not None
    assert order.replica.state is ReplicaState.UNLOADING
    assert world.live.jobs.create(job_spec()).gpu is None
    world.live.fleet.drop_replica("replica_1")
    assert world.reserved_bytes() == 0


def test_a_busy_replica_is_not_closed(world: World) -> None:
    world.running_job()
    assert world.live.fleet.unload_replica("replica_1") is None


def test_a_job_and_an_unload_that_race_never_both_win(world: World) -> None:
    for i in range(20):
        job_id, replica_id = f"job_{i}", f"replica_{i}"
        world.add_gpu(GPU, WORKER, replica_order(replica_id))
        placed, closed = run_together(
            [
                lambda job_id=job_id: world.live.jobs.create(job_spec(job_id)).gpu,  # type: ignore[misc]
                lambda replica_id=replica_id: world.live.fleet.unload_replica(replica_id),  # type: ignore[misc]
            ]
        )
        assert (placed is None) == (closed is not None)
        world.live.jobs.end(job_id, JobStatus.CANCELED, {})


def test_nodes_are_listed_with_their_checkpoints_and_gpus_while_they_live(world: World) -> None:
    now_ms = world.live.now_ms()
    world.add_gpu(GPU)
    world.add_gpu(OTHER_GPU, "worker_b")
    node = NodeInfo(name="node0", checkpoints=frozenset({"c"}), url="http://node0")
    world.live.fleet.beat_node(node, now_ms)
    assert world.live.fleet.nodes(now_ms) == [
        NodeInfo(name="node0", checkpoints=frozenset({"c"}), url="http://node0", gpus=(GPU,))
    ]
    assert world.live.fleet.nodes(now_ms + 60_000) == []


def test_a_node_tells_the_router_only_what_is_new(world: World) -> None:
    node = NodeInfo(name="node0", checkpoints=frozenset())
    world.live.fleet.beat_node(node, 1_000)
    position = world.live.router.feed_end()
    world.live.fleet.beat_node(node, 2_000)
    assert world.live.router.feed_end() == position
    world.live.fleet.beat_node(NodeInfo(name="node0", checkpoints=frozenset({"c"})), 3_000)
    assert world.live.router.feed_end() != position
