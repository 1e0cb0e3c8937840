"""Who owns a job: the first message takes it, every other copy finds out."""

from __future__ import annotations

from functools import partial

from sllm_tasks.jobs import JobStatus, StartKind
from sllm_tasks.livestate.jobs import Claim
from tests.integration.livestate.world import FAR_MS, GPU, OTHER_GPU, SUCCEEDED, WORKER, World, job_spec, replica_order
from tests.support.races import run_together


def test_a_claim_says_what_to_run_and_where(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    claim = world.claim()
    assert (claim.attempt, claim.replica_id, claim.start_kind) == (1, "replica_1", StartKind.WARM)
    assert world.reports() == ["attempt_started"]
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.status, view.owner, view.gpu) == (JobStatus.STARTING, WORKER, GPU)


def test_of_many_copies_of_a_message_one_gets_the_job(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    answers = run_together([partial(world.live.jobs.claim, "job_1", 1, GPU, WORKER, FAR_MS)] * 16)
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count("taken") == 15
    assert world.live.counters()["messages_duplicate"] == 15


def test_a_claim_whose_answer_was_lost_is_found_when_it_is_repeated(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    first = world.live.jobs.claim("job_1", 1, GPU, WORKER, FAR_MS, "call_1")
    late_ms = world.live.now_ms() - 1
    assert isinstance(first, Claim)
    assert world.live.jobs.claim("job_1", 1, GPU, WORKER, late_ms, "call_1") == first
    assert world.live.jobs.claim("job_1", 1, GPU, WORKER, FAR_MS, "call_2") == "taken"
    assert world.reports() == ["attempt_started"]


def test_a_claim_that_is_repeated_after_its_job_was_lost_gets_nothing(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    assert isinstance(world.live.jobs.claim("job_1", 1, GPU, WORKER, FAR_MS, "call_1"), Claim)
    world.make_due("job_1")
    world.live.jobs.sweep("job_1", 5)
    assert world.live.jobs.claim("job_1", 1, GPU, WORKER, FAR_MS, "call_1") == "stale"


def test_a_message_for_an_earlier_attempt_is_stale(world: World) -> None:
    claim = world.running_job()
    world.live.jobs.release(claim, "hand_over")
    assert world.live.jobs.claim("job_1", 1, GPU, WORKER, FAR_MS) == "stale"
    assert world.live.counters()["messages_stale"] == 1


def test_a_message_that_reached_another_gpu_is_stale(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.add_gpu(OTHER_GPU, "worker_b")
    world.live.jobs.create(job_spec())
    assert world.live.jobs.claim("job_1", 1, OTHER_GPU, "worker_b", FAR_MS) == "stale"


def test_a_message_that_comes_too_late_is_expired(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    assert world.live.jobs.claim("job_1", 1, GPU, WORKER, world.live.now_ms() - 1) == "expired"
    assert world.live.counters()["messages_expired"] == 1


def test_a_worker_that_the_cluster_does_not_know_gets_nothing(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    assert world.live.jobs.claim("job_1", 1, GPU, "worker_forged", FAR_MS) == "unregistered"


def test_a_message_about_a_job_without_a_record_is_unknown(world: World) -> None:
    world.add_gpu()
    assert world.live.jobs.claim("job_none", 1, GPU, WORKER, FAR_MS) == "unknown"


def test_a_job_that_has_ended_cannot_be_claimed_again(world: World) -> None:
    claim = world.running_job()
    world.live.jobs.finish(claim, SUCCEEDED)
    world.live.jobs.end("job_1", JobStatus.SUCCEEDED, {})
    assert not isinstance(world.live.jobs.claim("job_1", 1, GPU, WORKER, FAR_MS), Claim)


def test_epochs_grow_with_every_owner(world: World) -> None:
    first = world.running_job()
    world.live.jobs.release(first, "hand_over")
    assert world.apply("job_1", "replica_1", attempt=2) == "ok"
    assert world.claim(attempt=2).epoch > first.epoch


def test_epochs_grow_even_when_the_live_state_was_lost(world: World) -> None:
    before = world.running_job()
    world.redis.flushall()
    after = world.running_job()
    assert after.epoch > before.epoch
    assert world.append(before, 0) == "stale"
    assert world.append(after, 0) == "ok"


def test_a_job_that_loses_its_place_waits_from_then_on(world: World) -> None:
    claim = world.running_job()
    lost_ms = world.live.now_ms()
    world.live.jobs.release(claim, "hand_over")
    (found,) = world.live.queues.specs(["job_1"])
    assert found is not None
    assert found.spec.created_ms < lost_ms <= found.waits_since_ms
