"""The sweeper holds the ledger against the live state and puts right what differs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sllm_tasks.app import make_app
from sllm_tasks.config import Settings
from sllm_tasks.control.sweeper import Sweeper
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.endings import end_unowned
from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import ModelSettings, put_model
from sllm_tasks.ledger.jobs import NewJob, get_job, insert_job, note_canceling
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate.jobs import LEASE_MS, LiveJob
from sllm_tasks.signing import Signer
from tests.integration.livestate.world import GPU, World, job_spec, replica_order


@pytest.fixture
def sweeper(database: Database, world: World, live_url: str) -> Sweeper:
    dispatcher = Dispatcher(make_app(Settings(redis_url=live_url), "test"), Signer("secret"), world.live)
    model = ModelSettings(
        name="m",
        source="s",
        engine="instant",
        dtype="auto",
        num_gpus=1,
        max_jobs=8,
        context=64,
        keep_alive_s=1,
        min_replicas=0,
        max_replicas=1,
    )
    with database.transaction() as session:
        ensure_tenant(session, "t", now=datetime.now(UTC))
        put_model(session, model, deployment="op_1", now=datetime.now(UTC))
    return Sweeper(database, world.live, dispatcher, max_attempts=3)


def accept(database: Database, **changes: object) -> None:
    with database.transaction() as session:
        insert_job(session, NewJob(spec=job_spec(**changes)))


def row_of(database: Database) -> JobRow:
    with database.reading() as session:
        row = get_job(session, "job_1")
    assert row is not None
    return row


def test_a_job_without_a_live_record_is_published_as_its_next_attempt(
    database: Database, world: World, sweeper: Sweeper
) -> None:
    accept(database)
    sweeper.sweep()
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.attempt, row_of(database).attempt) == (2, 2)
    assert world.live.jobs.waiting() == ["job_1"]


def test_a_job_that_is_well_is_left_alone(database: Database, world: World, sweeper: Sweeper) -> None:
    accept(database)
    claim = world.running_job()
    sweeper.sweep()
    assert row_of(database).attempt == claim.attempt == 1


def test_a_record_of_an_end_that_the_ledger_does_not_know_is_made_anew(
    database: Database, world: World, sweeper: Sweeper
) -> None:
    accept(database)
    world.live.jobs.create(job_spec())
    world.live.jobs.end("job_1", JobStatus.SUCCEEDED, {})
    sweeper.sweep()
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.ended, view.status, view.attempt) == (False, JobStatus.QUEUED, 2)


def test_a_job_that_ends_while_it_is_looked_at_keeps_its_record_for_its_readers(
    database: Database, world: World, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(database)
    world.running_job()
    views = world.live.jobs.views

    def end_first(job_ids: list[str]) -> list[LiveJob | None]:
        end_unowned(database, world.live, "job_1", JobStatus.CANCELED, None)
        return views(job_ids)

    monkeypatch.setattr(world.live.jobs, "views", end_first)
    sweeper.sweep()
    assert row_of(database).status is JobStatus.CANCELED
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert view.ended


def test_a_waiting_job_past_its_deadline_expires(database: Database, world: World, sweeper: Sweeper) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    accept(database, deadline_ms=int(past.timestamp() * 1000))
    world.live.jobs.create(job_spec())
    sweeper.sweep()
    row = row_of(database)
    assert (row.status, row.error_code) == (JobStatus.EXPIRED, ErrorCode.DEADLINE_EXCEEDED)
    assert world.live.jobs.waiting() == []


def test_a_wish_to_cancel_survives_the_loss_of_the_live_state(
    database: Database, world: World, sweeper: Sweeper
) -> None:
    accept(database)
    world.running_job()
    with database.transaction() as session:
        note_canceling(session, "job_1")
    world.redis.flushall()
    sweeper.sweep()
    assert row_of(database).status is JobStatus.CANCELED


def test_a_worker_that_was_not_told_of_a_wish_to_cancel_is_told(
    database: Database, world: World, sweeper: Sweeper
) -> None:
    accept(database)
    claim = world.running_job()
    with database.transaction() as session:
        note_canceling(session, "job_1")
    sweeper.sweep()
    assert world.append(claim, 0) == "cancel"
    assert row_of(database).status is JobStatus.CANCELING


def test_a_waiting_job_of_a_model_that_is_gone_fails(database: Database, world: World, sweeper: Sweeper) -> None:
    accept(database, model="deleted")
    world.live.jobs.create(job_spec(model="deleted"))
    sweeper.sweep()
    row = row_of(database)
    assert (row.status, row.error_code) == (JobStatus.FAILED, ErrorCode.MODEL_NOT_FOUND)


def test_a_job_that_has_cost_too_many_workers_ends_as_poison_with_its_text(
    database: Database, world: World, sweeper: Sweeper
) -> None:
    accept(database)
    world.add_gpu()
    world.add_gpu(world_gpu := replica_order().replica.leader, "worker_a", replica_order())
    world.live.jobs.create(job_spec(), losses=2)
    world.append(world.claim(), 0, 1)
    world.make_due("job_1")
    world.live.jobs.sweep("job_1", 5)
    sweeper.sweep()
    row = row_of(database)
    assert (row.status, row.error_code, row.output) == (JobStatus.FAILED, ErrorCode.POISON, " 0 1")
    assert world.reserved_bytes(world_gpu) == 10


class _ServerTime:
    """What the sweeper is told that the server's clock shows when it looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        self.now_ms = world.live.written_at_ms()
        monkeypatch.setattr(world.live, "written_at_ms", lambda: self.now_ms)

    def pass_in_looks(self, sweeper: Sweeper, total_ms: int) -> None:
        for _ in range(total_ms // 1000):
            self.now_ms += 1000
            sweeper.sweep()


def test_a_silent_worker_loses_its_jobs_when_the_server_was_there_for_a_lease(
    database: Database, world: World, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(database)
    claim = world.running_job()
    world.silence(GPU)
    clock = _ServerTime(monkeypatch, world)
    sweeper.sweep()
    clock.pass_in_looks(sweeper, LEASE_MS - 1000)
    assert world.append(claim, 0) == "ok"
    clock.pass_in_looks(sweeper, 1000)
    assert world.append(claim, 1) == "stale"


def test_after_a_pause_of_the_server_workers_have_a_lease_s_time_again(
    database: Database, world: World, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(database)
    claim = world.running_job()
    clock = _ServerTime(monkeypatch, world)
    sweeper.sweep()
    clock.pass_in_looks(sweeper, LEASE_MS)
    world.silence(GPU)
    world.make_due("job_1")
    clock.now_ms += 8_000
    sweeper.sweep()
    clock.pass_in_looks(sweeper, LEASE_MS - 1000)
    assert world.append(claim, 0) == "ok"
    clock.pass_in_looks(sweeper, 1000)
    assert world.append(claim, 1) == "stale"


def test_a_server_that_falls_silent_in_the_middle_of_a_sweep_costs_no_job(
    database: Database, world: World, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(database)
    claim = world.running_job()
    clock = _ServerTime(monkeypatch, world)
    world.silence(GPU)
    world.make_due("job_1")
    # It was there for a lease, and every look is long past when the commands after it reach the server.
    clock.now_ms -= 2 * LEASE_MS
    sweeper.sweep()
    clock.pass_in_looks(sweeper, LEASE_MS + 1000)
    assert world.append(claim, 0) == "ok"
