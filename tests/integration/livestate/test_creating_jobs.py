"""A job's live record, and the place that it gets at once when a replica is warm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from sllm_tasks.cluster import GpuState
from sllm_tasks.jobs import JobStatus
from tests.integration.livestate.world import GPU, OTHER_GPU, SHAPE, WORKER, World, job_spec, replica_order
from tests.support.races import run_together


def test_a_job_without_a_warm_replica_waits_for_the_router(world: World) -> None:
    placed = world.live.jobs.create(job_spec())
    assert placed.gpu is None
    assert world.live.jobs.waiting() == ["job_1"]


def test_a_job_takes_a_place_on_a_ready_replica_at_once(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    placed = world.live.jobs.create(job_spec())
    assert (placed.replica_id, placed.gpu) == ("replica_1", GPU)
    assert world.num_jobs() == 1
    assert world.live.jobs.waiting() == []


def test_without_the_fast_path_even_a_warm_job_waits_for_the_router(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    assert world.live.jobs.create(job_spec(), fast_path=False).gpu is None
    assert world.num_jobs() == 0


def test_making_a_record_twice_takes_one_place_and_gives_the_first_answer(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    first = world.live.jobs.create(job_spec())
    second = world.live.jobs.create(job_spec())
    assert (second.replica_id, second.gpu) == (first.replica_id, first.gpu)
    assert world.num_jobs() == 1


def test_of_32_jobs_at_once_exactly_8_get_the_8_places_of_a_replica(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order(slots=8))
    jobs = [job_spec(f"job_{i}") for i in range(32)]
    placed = run_together([partial(world.live.jobs.create, job) for job in jobs])
    assert sum(answer.gpu is not None for answer in placed) == 8
    assert world.num_jobs() == 8
    assert world.live.jobs.num_waiting() == 24


def test_of_many_who_make_one_record_all_get_the_same_place(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("replica_1"))
    world.add_gpu(OTHER_GPU, "worker_b", replica_order("replica_2", gpu=OTHER_GPU))
    placed = run_together([partial(world.live.jobs.create, job_spec())] * 16)
    assert len({answer.replica_id for answer in placed}) == 1
    assert world.num_jobs("replica_1") + world.num_jobs("replica_2") == 1


def test_jobs_go_to_the_replica_that_holds_the_fewest(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("replica_1"))
    world.add_gpu(OTHER_GPU, "worker_b", replica_order("replica_2", gpu=OTHER_GPU))
    for i in range(6):
        world.live.jobs.create(job_spec(f"job_{i}"))
    assert (world.num_jobs("replica_1"), world.num_jobs("replica_2")) == (3, 3)


def test_a_silent_gpu_gets_no_job(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.silence(GPU)
    assert world.live.jobs.create(job_spec()).gpu is None


def test_a_draining_gpu_gets_no_job(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    assert world.live.jobs.create(job_spec()).gpu is None


@pytest.mark.parametrize(
    ("engine", "context", "is_warm"),
    [("instant", 63, True), ("instant", 64, True), ("instant", 65, False), ("steploop", 64, False)],
)
def test_a_job_runs_only_where_its_context_fits_and_on_its_engine(
    world: World, engine: str, context: int, is_warm: bool
) -> None:
    world.add_gpu(GPU, WORKER, replica_order(context=64))
    placed = world.live.jobs.create(job_spec(shape=replace(SHAPE, engine=engine, context=context)))
    assert (placed.gpu == GPU) is is_warm


def test_waiting_jobs_are_listed_in_the_order_in_which_they_were_accepted(world: World) -> None:
    for job_id, priority, created_ms in (("second", 5, 2), ("third", 9, 3), ("first", 0, 1)):
        world.live.jobs.create(job_spec(job_id, priority=priority, created_ms=created_ms))
    assert world.live.jobs.waiting() == ["first", "second", "third"]


def test_a_record_made_again_tells_readers_that_what_they_saw_is_replaced(world: World) -> None:
    world.live.jobs.create(job_spec(), attempt=2, losses=1, again=True)
    assert world.events()[0] == "snapshot"
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.attempt, view.losses, view.status) == (2, 1, JobStatus.QUEUED)


def test_what_a_worker_needs_comes_back_from_the_record_unchanged(world: World) -> None:
    spec = job_spec(prompt_ids=(0, 1, 2**32 - 1), deadline_ms=99, traceparent="00-a-b-01")
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(spec)
    assert world.claim().spec == spec


def test_records_of_many_jobs_are_read_in_the_order_asked_for(world: World) -> None:
    world.live.jobs.create(job_spec("job_1"))
    views = world.live.jobs.views(["job_none", "job_1"])
    assert views[0] is None
    assert views[1] is not None
    specs = world.live.queues.specs(["job_1", "job_none"])
    assert specs[0] is not None
    assert (specs[0].spec.job_id, specs[0].attempt, specs[1]) == ("job_1", 1, None)
