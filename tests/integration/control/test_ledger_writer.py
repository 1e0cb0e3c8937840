"""What workers report is committed once, told in any case, and never held up by one bad report."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sllm_tasks.cluster import GpuId
from sllm_tasks.control.ledger_writer import LedgerWriter
from sllm_tasks.errors import ErrorCode, UnavailableError
from sllm_tasks.estimators.facts import JobFact
from sllm_tasks.jobs import JobError, JobPhase, JobStatus, Outcome
from sllm_tasks.ledger.attempts import list_attempts
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.facts import job_facts
from sllm_tasks.ledger.jobs import NewJob, get_job, insert_job
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.operations import list_operations
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import AttemptExit
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate.router import NewReplica
from tests.integration.livestate.world import SUCCEEDED, World, job_spec, model_info


@pytest.fixture
def writer(database: Database, world: World) -> LedgerWriter:
    return LedgerWriter(database, world.live, lambda _: None)


def accept(database: Database, job_id: str = "job_1") -> None:
    with database.transaction() as session:
        ensure_tenant(session, "t", now=datetime.now(UTC))
        insert_job(session, NewJob(spec=job_spec(job_id)))


def row_of(database: Database, job_id: str = "job_1") -> JobRow:
    with database.reading() as session:
        row = get_job(session, job_id)
    assert row is not None
    return row


def write_everything(writer: LedgerWriter, world: World) -> None:
    while reports := world.live.reports.read(100, 1):
        writer.write(reports)


def ended_job(database: Database, world: World) -> None:
    accept(database)
    claim = world.running_job()
    world.live.jobs.set_phase(claim, JobPhase.PREFILL)
    world.append(claim, 0, 1)
    world.live.jobs.finish(claim, SUCCEEDED)


def completed(world: World, job_id: str = "job_1") -> list[object]:
    return [event.data["status"] for event in world.live.jobs.events(job_id) if event.kind == "completed"]


def test_a_claim_shows_in_the_ledger(database: Database, world: World, writer: LedgerWriter) -> None:
    accept(database)
    world.running_job()
    write_everything(writer, world)
    row = row_of(database)
    assert row.status is JobStatus.STARTING
    assert row.assignment == {"node": "node0", "gpus": [0], "start_kind": "warm"}


def test_an_attempt_names_all_gpus_of_its_replica_the_leader_first(
    database: Database, world: World, writer: LedgerWriter
) -> None:
    accept(database)
    leader, follower = GpuId("node0", 1), GpuId("node0", 0)
    world.add_gpu(leader)
    world.add_gpu(follower, "worker_b")
    world.live.jobs.create(job_spec())
    world.apply("job_1", "replica_1", NewReplica(model=model_info(), gpus=(leader, follower)))
    world.live.jobs.finish(world.claim("job_1", gpu=leader), SUCCEEDED)
    write_everything(writer, world)
    assert row_of(database).assignment == {"node": "node0", "gpus": [1, 0], "start_kind": "cold_ssd"}
    with database.reading() as session:
        assert [attempt.gpus for attempt in list_attempts(session, "job_1")] == [[1, 0]]


def test_readers_hear_of_an_end_after_its_commit(database: Database, world: World, writer: LedgerWriter) -> None:
    ended_job(database, world)
    assert completed(world) == []
    write_everything(writer, world)
    assert row_of(database).status is JobStatus.SUCCEEDED
    assert completed(world) == ["succeeded"]
    with database.reading() as session:
        attempts = list_attempts(session, "job_1")
    assert [(attempt.exit_reason, attempt.num_tokens) for attempt in attempts] == [(AttemptExit.JOB_ENDED, 2)]


def test_an_end_that_was_committed_and_not_told_is_told_by_the_next_writer(
    database: Database, world: World, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_job(database, world)

    def die(*_: object) -> None:
        raise UnavailableError("the writer dies here")

    with monkeypatch.context() as patched:
        patched.setattr(world.live.jobs, "end", die)
        with pytest.raises(UnavailableError):
            write_everything(writer, world)
    assert row_of(database).status is JobStatus.SUCCEEDED
    assert completed(world) == []
    write_everything(writer, world)
    assert completed(world) == ["succeeded"]
    assert world.live.reports.read(10, 1) == []


def test_the_times_of_a_job_are_those_of_its_first_token_whatever_attempt_ended_it(
    database: Database, world: World, writer: LedgerWriter
) -> None:
    accept(database)
    claim = world.running_job()
    world.append(claim, 0)
    begun = world.live.jobs.view("job_1")
    again = world.handed_back(claim)
    world.append(again, 1)
    world.live.jobs.finish(again, SUCCEEDED)
    write_everything(writer, world)
    row = row_of(database)
    assert begun is not None
    assert begun.started_ms is not None
    assert begun.first_token_ms is not None
    assert (row.started_at, row.first_token_at) == (from_ms(begun.started_ms), from_ms(begun.first_token_ms))
    assert row.timings_ms is not None
    assert row.timings_ms["assigned_ms"] == begun.assigned_ms
    with database.reading() as session:
        (fact,) = job_facts(session, since=row.created_at, limit=10)
    assert isinstance(fact.fact, JobFact)
    assert fact.fact.token_s is None


def test_the_same_report_twice_changes_nothing(database: Database, world: World, writer: LedgerWriter) -> None:
    ended_job(database, world)
    reports = world.live.reports.read(100, 1)
    writer.write(reports)
    version = row_of(database).version
    writer.write(reports)
    assert row_of(database).version == version
    assert completed(world) == ["succeeded"]


def test_a_copy_that_could_not_be_loaded_is_verified_once_however_many_jobs_it_fails(
    database: Database, world: World, writer: LedgerWriter
) -> None:
    broken = JobError(code=ErrorCode.CHECKPOINT_CORRUPT, message="a wrong digest")
    for job_id in ("job_1", "job_2"):
        accept(database, job_id)
        world.live.jobs.finish(world.running_job(job_id), Outcome(status=JobStatus.FAILED, error=broken))
        write_everything(writer, world)
    with database.reading() as session:
        asked = list_operations(session, PageRequest()).rows
    checkpoint = row_of(database).checkpoint
    assert [(row.kind, row.target, row.args) for row in asked] == [("verify", checkpoint, {"node": "node0"})]


def test_a_report_about_a_job_that_the_ledger_does_not_know_holds_up_no_other(
    database: Database, world: World, writer: LedgerWriter
) -> None:
    world.add_gpu()
    stranger = {
        "job_id": "job_stranger",
        "attempt": 1,
        "gpus": "node0.0",
        "worker": "w",
        "replica": "r",
        "start_kind": "warm",
        "at_ms": 1_000,
    }
    world.live.reports.add("attempt_started", stranger)
    ended_job(database, world)
    write_everything(writer, world)
    assert row_of(database).status is JobStatus.SUCCEEDED
    assert world.live.counters()["reports_dropped"] == 1
    assert world.live.reports.read(10, 1) == []


def test_a_report_with_a_value_that_the_database_refuses_holds_up_no_other(
    database: Database, world: World, writer: LedgerWriter
) -> None:
    world.add_gpu()
    load = {
        "id": "load_1",
        "checkpoint": "c",
        # Longer than PostgreSQL lets it be, and SQLite does not care.
        "gpu": f"{'n' * 300}.0",
        "tier": "ssd",
        "num_bytes": 1,
        "seconds": 1.0,
        "at_ms": 1_000,
    }
    world.live.reports.add("load_measured", load)
    ended_job(database, world)
    write_everything(writer, world)
    assert row_of(database).status is JobStatus.SUCCEEDED
    assert world.live.reports.read(10, 1) == []
