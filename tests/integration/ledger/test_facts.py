"""What estimators are told of jobs that ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy.orm import Session

from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import ArrivalFact, JobFact, StartFact
from sllm_tasks.ids import first_id
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.decisions import Decision, add_decisions, note_actual_starts
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.facts import arrival_facts, job_facts, start_facts
from sllm_tasks.ledger.jobs import end_job
from tests.integration.ledger.factories import NOW, add_job, make_job, success


def end(session: Session, *, prefill_ms: int, first_token_ms: int, gpu: int = 0, ended_s: float = 0.0) -> str:
    """A job that has ended; its times count from `NOW`."""
    job_id, begin_ms = add_job(session), to_ms(NOW)
    ending = replace(
        success(job_id),
        at=NOW + timedelta(seconds=ended_s),
        timings_ms={"prefill_ms": begin_ms + prefill_ms, "first_token_ms": begin_ms + first_token_ms},
        assignment={"node": "node0", "gpus": [gpu], "start_kind": "warm"},
    )
    assert end_job(session, ending)
    return job_id


def test_a_prompt_that_waited_for_others_of_its_replica_was_read_after_them(database: Database) -> None:
    with database.transaction() as session:
        first = end(session, prefill_ms=0, first_token_ms=100)
        # Told before: those that ended a while ago are looked at, and not told again.
        between = end(session, prefill_ms=5, first_token_ms=150, ended_s=-4)
        last = end(session, prefill_ms=10, first_token_ms=230)
        later = end(session, prefill_ms=300, first_token_ms=340)
        elsewhere = end(session, prefill_ms=10, first_token_ms=240, gpu=1)
    with database.reading() as session:
        found = {timed.row_id: timed.fact for timed in job_facts(session, since=NOW, limit=100)}
    times_s = {row_id: fact.first_token_s for row_id, fact in found.items() if isinstance(fact, JobFact)}
    assert between not in times_s
    assert times_s == {first: 0.1, last: 0.08, later: 0.04, elsewhere: 0.23}


def test_a_start_is_told_with_the_sum_that_was_predicted_when_its_job_has_ended(database: Database) -> None:
    total = {"seconds": 0.5, "low_s": 0.4, "high_s": 0.8}
    with database.transaction() as session:
        running, ended = add_job(session), add_job(session)
        made = [
            Decision(
                id=f"decision_{job_id}_{path}",
                job_id=job_id,
                attempt=1,
                at=NOW,
                path=path,
                choice={"start": total, "total": total if path == "load_ssd" else None},
                candidates=(),
                predicted_s=0.5,
            )
            for job_id in (running, ended)
            for path in ("load_ssd", "wait")
        ]
        add_decisions(session, made)
        for job_id in (running, ended):
            note_actual_starts(session, job_id, 1, NOW + timedelta(seconds=0.7))
        assert end_job(session, success(ended))
    with database.reading() as session:
        facts = [timed.fact for timed in start_facts(session, since=NOW, limit=100)]
    assert facts == [StartFact(path="load_ssd", total=Estimate(**total), actual_s=0.7)]


def arrive(session: Session, at_s: float, *, model: str = "m", ahead_s: float = 0.0) -> None:
    """A job that was submitted so long after `NOW`, to a host whose clock is ahead of the cluster's."""
    new, created_ms = make_job(), to_ms(NOW + timedelta(seconds=at_s))
    job_id = f"{first_id('job', created_ms + round(ahead_s * 1000))[:-8]}{new.spec.job_id[-8:]}"
    add_job(session, replace(new, spec=replace(new.spec, job_id=job_id, model=model, created_ms=created_ms)))


def arrivals(database: Database, **limits: int) -> list[tuple[str, float]]:
    """Models and times since `NOW` of the jobs that came since then."""
    with database.reading() as session:
        found = arrival_facts(session, since=NOW, **{"limit": 100, "of_each": 100, **limits})
    facts = [timed.fact for timed in found]
    return [(fact.model, round(fact.at_s - NOW.timestamp(), 3)) for fact in facts if isinstance(fact, ArrivalFact)]


def test_jobs_come_in_the_order_of_the_clusters_clock_whatever_that_of_their_host_says(database: Database) -> None:
    with database.transaction() as session:
        arrive(session, -1, ahead_s=3600)
        arrive(session, 1, ahead_s=3600)
        arrive(session, 2)
        arrive(session, 3, ahead_s=-50)
    assert arrivals(database) == [("m", 1), ("m", 2), ("m", 3)]


def test_a_model_in_steady_use_does_not_hide_when_another_was_wanted(database: Database) -> None:
    with database.transaction() as session:
        arrive(session, 0, model="old")
        arrive(session, 1, model="rare")
        for number in range(5):
            arrive(session, 2 + number)
    assert arrivals(database, limit=6, of_each=2) == [("rare", 1), ("m", 5), ("m", 6)]
