"""Replicas that no job asks for: loaded by the leader only, told again when nothing happens, closed when not wanted."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from sqlalchemy import update

from sllm_tasks.cluster import GpuId, Hold, Replica, ReplicaState
from sllm_tasks.dispatch import LOAD_REPLICA
from sllm_tasks.jobs import JobStatus, StartKind
from sllm_tasks.ledger.tables import ModelRow
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.router import life
from tests.integration.livestate.world import FAR_MS, GPU, SHAPE, WORKER, job_spec, model_info, replica_order
from tests.integration.router.conftest import RouterWorld


@pytest.fixture(autouse=True)
def _every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "_PERIOD_S", 0.0)


def keep(routed: RouterWorld, min_replicas: int, **changes: object) -> None:
    with routed.ledger.transaction() as session:
        session.execute(update(ModelRow).values(min_replicas=min_replicas, **changes))
    routed.router._snapshot.read_models()


def replicas(routed: RouterWorld) -> list[Replica]:
    orders = [routed.live.fleet.replica(replica_id) for replica_id in routed.live.fleet.replicas_on(GPU)]
    return [order.replica for order in orders if order is not None]


def num_told(routed: RouterWorld) -> int:
    messages = routed.world.redis.lrange(GPU.queue, 0, -1)
    return sum(json.loads(message)["headers"]["task"] == LOAD_REPLICA for message in messages)


def test_a_least_replica_is_loaded_without_a_job_and_once(routed: RouterWorld) -> None:
    routed.world.add_gpu()
    keep(routed, 1)
    for _ in range(3):
        routed.router.run_pass()
    (replica,) = replicas(routed)
    assert (replica.state, replica.num_jobs, replica.model) == (ReplicaState.LOADING, 0, "m")
    assert routed.world.reserved_bytes() == replica.bytes_per_gpu
    assert num_told(routed) == 1


def test_a_worker_that_does_not_begin_a_load_is_told_again(
    routed: RouterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "_RESEND_MS", 1)
    routed.world.add_gpu()
    keep(routed, 1)
    routed.router.run_pass()
    time.sleep(0.01)
    routed.router.run_pass()
    assert num_told(routed) == 2


def test_a_load_that_failed_is_tried_again_on_a_worker_that_is_new(routed: RouterWorld) -> None:
    routed.world.add_gpu()
    keep(routed, 1)
    routed.router.run_pass()
    routed.live.fleet.drop_replica(replicas(routed)[0].id)
    routed.router.run_pass()
    assert replicas(routed) == []
    routed.world.add_gpu(GPU, "worker_b")
    routed.router.run_pass()
    assert len(replicas(routed)) == 1


def test_a_replica_of_a_former_shape_goes_and_one_of_the_present_shape_comes(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order("former"))
    keep(routed, 1, max_jobs=2)
    routed.router.run_pass()
    states = {replica.max_jobs: replica.state for replica in replicas(routed)}
    assert states == {8: ReplicaState.UNLOADING, 2: ReplicaState.LOADING}


def test_a_least_replica_is_not_loaded_on_memory_that_is_held_for_a_job(routed: RouterWorld) -> None:
    follower, bytes_per_gpu = GpuId(GPU.node, 1), SHAPE.bytes_per_gpu
    left = replica_order("left", model="other", gpu=follower)
    routed.world.add_gpu(GPU, WORKER, capacity_bytes=bytes_per_gpu)
    routed.world.add_gpu(follower, "worker_b", left, capacity_bytes=bytes_per_gpu)
    routed.world.open_gates()
    assert routed.live.jobs.create(job_spec("leaves", model="other")).gpu == follower
    keep(routed, 1, max_replicas=2)
    holder = job_spec("holder", shape=replace(SHAPE, num_gpus=2), created_ms=routed.live.now_ms())
    routed.live.jobs.create(holder, fast_path=False)
    hold = Hold(gpus=(GPU, follower), until_ms=FAR_MS)
    epoch = routed.router._epoch()
    answer = routed.live.router.hold(epoch=epoch, job_id="holder", attempt=1, hold=hold, replica_ids=["left"])
    assert answer is Applied.OK
    routed.router.run_pass()
    assert replicas(routed) == []
    routed.live.jobs.end("holder", JobStatus.CANCELED, {})
    routed.router.run_pass()
    assert len(replicas(routed)) == 1


def test_a_router_that_lost_its_lease_loads_nothing(routed: RouterWorld) -> None:
    routed.world.add_gpu()
    new = NewReplica(model=model_info(), gpus=(GPU,))
    answer = routed.live.router.load(epoch=1, replica_id="replica_1", start_kind=StartKind.COLD_SSD, new=new)
    assert answer is Applied.STALE_ROUTER
    assert replicas(routed) == []
