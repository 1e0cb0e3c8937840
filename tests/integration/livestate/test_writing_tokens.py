"""Tokens are written by their owner alone, each once, without gaps; readers see them in order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sllm_tasks.jobs import JobPhase, JobStatus, TokenRecord
from sllm_tasks.livestate.jobs import Append, Claim, Verdict, job_start
from tests.integration.livestate.world import GPU, SUCCEEDED, WORKER, World, job_spec, replica_order, token


def test_tokens_are_read_back_in_order(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    world.append(claim, 1, 2)
    assert world.live.jobs.tokens("job_1") == (token(0), token(1), token(2))


def test_log_probabilities_survive_the_round_trip(world: World) -> None:
    claim = world.running_job()
    record = TokenRecord(index=0, token_id=5, text="é\n", logprob=-0.25, top=((5, -0.25), (9, -1.5)))
    world.live.jobs.append([Append(job_id="job_1", attempt=1, epoch=claim.epoch, tokens=(record,))])
    assert world.live.jobs.tokens("job_1") == (record,)


def test_event_ids_grow_over_tokens_states_and_attempts(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0, 1)
    world.live.jobs.release(claim, "hand_over")
    ids = [tuple(map(int, event.id.split("-"))) for event in world.live.jobs.events("job_1")]
    assert ids == sorted(set(ids))


def test_a_reader_goes_on_after_the_last_event_that_it_saw(world: World) -> None:
    claim = world.running_job()
    seen = world.live.jobs.last_event_id("job_1")
    assert world.live.jobs.events("job_1", seen) == []
    world.append(claim, 0)
    assert [event.kind for event in world.live.jobs.events("job_1", seen, block_ms=1_000)] == ["status", "token"]


def test_the_first_token_makes_a_job_running(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.status, view.phase, view.num_tokens) == (JobStatus.RUNNING, JobPhase.DECODING, 1)
    assert view.first_token_ms is not None


def test_what_a_reader_waited_for_stays_as_it_was_when_another_attempt_goes_on(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    before = world.live.jobs.view("job_1")
    again = world.handed_back(claim)
    world.append(again, 1)
    after = world.live.jobs.view("job_1")
    assert before is not None
    assert after is not None
    assert before.start is not None
    assert after.start == before.start
    world.live.jobs.finish(again, SUCCEEDED)
    (ended,) = (report for report in world.live.reports.read(100, 0) if report.kind == "job_ended")
    assert job_start(ended.data["start"]) == before.start


def test_an_attempt_without_a_token_is_no_start(world: World) -> None:
    world.append(world.handed_back(world.running_job()), 0)
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert view.start is not None
    assert (view.start.started_ms, view.start.first_token_ms) == (view.started_ms, view.first_token_ms)


def test_repeating_an_append_adds_nothing(world: World) -> None:
    claim = world.running_job()
    assert [world.append(claim, 0, 1), world.append(claim, 0, 1)] == ["ok", "ok"]
    assert len(world.live.jobs.tokens("job_1")) == 2


def test_an_append_that_overlaps_adds_only_what_is_new(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0, 1)
    world.append(claim, 1, 2)
    assert world.live.jobs.tokens("job_1") == (token(0), token(1), token(2))


def test_an_owner_whose_append_would_leave_a_gap_hears_where_it_begins(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    assert world.append(claim, 2) == "gap behind 1"
    assert world.live.counters()["token_gaps"] == 1
    assert world.live.jobs.tokens("job_1") == (token(0),)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"attempt": 2}], ids=["epoch", "attempt"])
def test_a_write_with_another_epoch_or_attempt_is_refused(world: World, change: dict[str, int]) -> None:
    stale: Claim = replace(world.running_job(), **change)  # type: ignore[arg-type]
    before = world.events()
    assert world.append(stale, 0) == "stale"
    assert world.live.jobs.set_phase(stale, JobPhase.PREFILL) is Verdict.STALE
    assert world.live.jobs.release(stale, "hand_over") is Verdict.STALE
    assert world.events() == before
    assert world.live.counters()["fence_rejected"] == 3


def test_a_job_without_an_owner_takes_no_tokens_even_under_its_epoch(world: World) -> None:
    claim = world.running_job()
    world.live.jobs.release(claim, "hand_over")
    forged = replace(claim, attempt=2)
    assert world.append(forged, 0) == "stale"


def test_an_owner_hears_of_the_wish_to_cancel_with_its_next_write(world: World) -> None:
    claim = world.running_job()
    assert world.live.jobs.cancel("job_1", "user") == "asked"
    assert world.append(claim, 0) == "cancel"
    assert world.live.jobs.set_phase(claim, JobPhase.DECODING) is Verdict.CANCEL


def test_the_bell_rings_for_the_gpu_of_a_job_that_should_stop(world: World) -> None:
    world.running_job()
    bell = world.live.fleet.listen_for_cancels(GPU)
    try:
        # Subscribed only once the server has answered; the first read takes that answer.
        bell.wait(0.05)
        world.live.jobs.cancel("job_1", "user")
        assert bell.wait(5) == "job_1"
    finally:
        bell.close()


def test_tokens_of_many_jobs_go_out_together_and_each_is_fenced_for_itself(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    claims = []
    for i in range(3):
        world.live.jobs.create(job_spec(f"job_{i}"))
        claims.append(world.claim(f"job_{i}"))
    world.live.jobs.release(claims[1], "hand_over")
    step = [Append(job_id=claim.spec.job_id, attempt=1, epoch=claim.epoch, tokens=(token(0),)) for claim in claims]
    assert world.live.jobs.append(step) == [Verdict.OK, Verdict.STALE, Verdict.OK]


def test_a_job_that_goes_on_elsewhere_keeps_its_tokens(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0, 1)
    world.live.jobs.release(claim, "hand_over")
    assert world.live.jobs.tokens("job_1") == (token(0), token(1))
    world.apply("job_1", "replica_1", attempt=2)
    successor = world.claim(attempt=2)
    assert world.append(claim, 2) == "stale"
    assert world.append(successor, 2) == "ok"
    assert world.live.jobs.tokens("job_1") == (token(0), token(1), token(2))
