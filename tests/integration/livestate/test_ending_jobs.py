"""How a job leaves its owner: it ends, it is handed back, it is cancelled, or its owner falls silent."""

from __future__ import annotations

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobError, JobPhase, JobStatus, Outcome
from sllm_tasks.livestate.codec import decode_outcome, encode_outcome
from sllm_tasks.livestate.jobs import Due, Verdict
from tests.integration.livestate.world import GPU, SUCCEEDED, WORKER, World, job_spec, replica_order

_MAX_RESENDS = 2


def test_the_end_of_a_job_frees_its_place_and_is_reported_once(world: World) -> None:
    claim = world.running_job()
    assert world.live.jobs.finish(claim, SUCCEEDED) is Verdict.OK
    assert world.live.jobs.finish(claim, SUCCEEDED) is Verdict.STALE
    assert world.num_jobs() == 0
    assert world.reports().count("job_ended") == 1
    report = world.live.reports.read(10, 1)[-1]
    assert decode_outcome(report.data["outcome"]) == SUCCEEDED


def test_an_error_code_of_a_later_version_is_an_internal_error_here() -> None:
    outcome = Outcome(
        status=JobStatus.FAILED, text="", finish_reason=None, usage=None,
        error=JobError(code=ErrorCode.WORKER_LOST, message="why"), logprobs=(),
    )  # fmt: skip
    written = encode_outcome(outcome).replace("worker_lost", "not_invented_yet")
    assert decode_outcome(written).error == JobError(code=ErrorCode.INTERNAL, message="why")


def test_a_reported_job_is_finishing_until_the_ledger_has_it(world: World) -> None:
    world.live.jobs.finish(world.running_job(), SUCCEEDED)
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.status, view.phase, view.ended) == (JobStatus.STARTING, JobPhase.FINISHING, False)


def test_readers_hear_of_the_end_once(world: World) -> None:
    world.live.jobs.finish(world.running_job(), SUCCEEDED)
    for _ in range(2):
        world.live.jobs.end("job_1", JobStatus.SUCCEEDED, {"status": "succeeded"})
    assert world.events().count("completed") == 1
    assert world.events()[-1] == "completed"
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.status, view.ended) == (JobStatus.SUCCEEDED, True)


def test_the_record_of_an_ended_job_goes_away_by_itself(world: World) -> None:
    world.live.jobs.finish(world.running_job(), SUCCEEDED)
    assert world.redis.ttl("sllm:job:job_1") == -1
    world.live.jobs.end("job_1", JobStatus.SUCCEEDED, {})
    assert 0 < world.redis.ttl("sllm:job:job_1") <= 3_600
    assert 0 < world.redis.ttl("sllm:job:job_1:events") <= 3_600


def test_an_end_that_the_owner_did_not_report_takes_the_job_from_it(world: World) -> None:
    claim = world.running_job()
    world.live.jobs.end("job_1", JobStatus.EXPIRED, {})
    assert world.append(claim, 0) == "stale"
    assert world.num_jobs() == 0


def test_a_waiting_job_that_ended_waits_no_longer(world: World) -> None:
    world.live.jobs.create(job_spec())
    world.live.jobs.end("job_1", JobStatus.CANCELED, {})
    assert world.live.jobs.waiting() == []


def test_only_the_ledger_can_end_a_job_that_nobody_has_claimed(world: World) -> None:
    world.live.jobs.create(job_spec())
    assert world.live.jobs.cancel("job_1", "user") == "unclaimed"
    assert world.live.jobs.cancel("job_none", "user") == "unknown"


def test_asking_twice_to_cancel_is_asking_once(world: World) -> None:
    world.running_job()
    world.live.jobs.cancel("job_1", "user")
    seen = world.events()
    assert world.live.jobs.cancel("job_1", "deadline") == "asked"
    assert world.events() == seen
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.cancel, view.status) == ("user", JobStatus.CANCELING)


def test_a_job_that_is_handed_back_waits_as_a_new_attempt_and_loses_no_worker(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    assert world.live.jobs.release(claim, "hand_over") is Verdict.OK
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.attempt, view.losses, view.num_tokens, view.status) == (2, 0, 1, JobStatus.QUEUED)
    assert world.live.jobs.waiting() == ["job_1"]
    assert world.num_jobs() == 0
    assert "attempt_ended" in world.reports()


def test_a_place_that_was_never_claimed_is_announced_again_a_few_times_and_then_given_up(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    for _ in range(_MAX_RESENDS):
        world.make_due("job_1")
        assert world.live.jobs.sweep("job_1", _MAX_RESENDS) == Due(resend_to=GPU, attempt=1)
    world.make_due("job_1")
    assert world.live.jobs.sweep("job_1", _MAX_RESENDS) == Due(requeued=True, losses=0)
    assert world.live.jobs.waiting() == ["job_1"]


def test_a_place_on_a_dead_gpu_is_given_up_at_once(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec())
    world.silence(GPU)
    world.make_due("job_1")
    assert world.live.jobs.sweep("job_1", _MAX_RESENDS).requeued


def test_a_silent_owner_loses_its_job_and_that_is_counted_against_the_job(world: World) -> None:
    claim = world.running_job()
    assert world.live.jobs.due(world.live.now_ms()) == []
    world.make_due("job_1")
    assert world.live.jobs.due(world.live.now_ms()) == ["job_1"]
    assert world.live.jobs.sweep("job_1", _MAX_RESENDS) == Due(requeued=True, losses=1)
    assert world.append(claim, 0) == "stale"


def test_a_sweep_that_the_server_held_up_takes_no_job_from_its_owner(world: World) -> None:
    claim = world.running_job()
    world.make_due("job_1")
    assert world.live.jobs.sweep("job_1", _MAX_RESENDS, expires_ms=world.live.now_ms() - 1) == Due()
    assert world.append(claim, 0) == "ok"


def test_a_job_that_is_not_due_is_left_alone(world: World) -> None:
    claim = world.running_job()
    assert world.live.jobs.sweep("job_1", _MAX_RESENDS) == Due()
    assert world.append(claim, 0) == "ok"


def test_a_due_time_without_a_record_is_forgotten(world: World) -> None:
    world.make_due("job_none")
    assert world.live.jobs.sweep("job_none", _MAX_RESENDS) == Due()
    assert world.live.jobs.due(world.live.now_ms()) == []
