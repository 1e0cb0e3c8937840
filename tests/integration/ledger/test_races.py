"""Contended changes: whatever two callers do at the same moment, one of them wins and the other is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from sllm_tasks.errors import ConflictError
from sllm_tasks.ledger import idempotency, inventory, jobs, operations, users
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.idempotency import RequestKey, ReservationState
from sllm_tasks.ledger.states import Role
from tests.integration.ledger.factories import (
    NOW,
    TENANT,
    add_job,
    failure,
    make_job,
    make_model,
    success,
)
from tests.integration.ledger.test_idempotency import EXPIRY, FINGERPRINT
from tests.integration.ledger.test_operations import add_operation
from tests.support.races import run_together

ROUNDS = 10


def test_of_two_endings_at_once_exactly_one_counts(database: Database) -> None:
    def _end(ending: jobs.Ending) -> bool:
        with database.transaction() as session:
            return jobs.end_job(session, ending)

    for _ in range(ROUNDS):
        with database.transaction() as session:
            job_id = add_job(session)
        won = run_together([lambda: _end(success(job_id)), lambda: _end(failure(job_id))])  # noqa: B023
        assert sorted(won) == [False, True]
        with database.reading() as session:
            row = jobs.get_job(session, job_id)
            assert row is not None
            assert (row.status == "succeeded") is won[0]
            assert row.version == 2


def test_overlapping_batches_in_opposite_orders_end_each_job_once(database: Database) -> None:
    with database.transaction() as session:
        ids = [add_job(session) for _ in range(60)]

    def _end(order: list[str]) -> set[str]:
        with database.transaction() as session:
            return jobs.end_jobs(session, [success(job_id) for job_id in order])

    batches = [ids, ids[::-1], ids[20:] + ids[:20]]
    ended = run_together([lambda batch=batch: _end(batch) for batch in batches])
    assert sum(map(len, ended)) == len(ids)
    assert set().union(*ended) == set(ids)


def test_of_two_that_begin_the_next_attempt_exactly_one_gets_it(database: Database) -> None:
    def _bump() -> int | None:
        with database.transaction() as session:
            return jobs.bump_attempt(session, job_id, 1, worker_lost=True)

    for _ in range(ROUNDS):
        with database.transaction() as session:
            job_id = add_job(session)
        assert set(run_together([_bump, _bump])) == {2, None}


def test_an_ending_and_a_new_attempt_at_once_never_leave_a_job_both_ended_and_queued(database: Database) -> None:
    def _end() -> bool:
        with database.transaction() as session:
            return jobs.end_job(session, success(job_id))

    def _bump() -> bool:
        with database.transaction() as session:
            return jobs.bump_attempt(session, job_id, 1, worker_lost=True) is not None

    for _ in range(ROUNDS):
        with database.transaction() as session:
            job_id = add_job(session)
        assert run_together([_end, _bump])[0], "a job that has not ended can always end"
        with database.reading() as session:
            row = jobs.get_job(session, job_id)
            assert row is not None
            assert row.status == "succeeded"


def test_of_two_jobs_with_one_client_id_exactly_one_is_accepted(database: Database) -> None:
    with database.transaction() as session:
        add_job(session)

    def _accept(new: jobs.NewJob) -> bool:
        try:
            with database.transaction() as session:
                jobs.insert_job(session, new)
        except ConflictError:
            return False
        return True

    for number in range(ROUNDS):
        rivals = [make_job(client_id=f"mine-{number:04}") for _ in range(2)]
        assert sorted(run_together([lambda new=new: _accept(new) for new in rivals])) == [False, True]


def test_of_requests_with_one_key_exactly_one_makes_a_job_and_all_learn_which(database: Database) -> None:
    with database.transaction() as session:
        add_job(session)

    def _request(key: RequestKey) -> tuple[ReservationState, str]:
        new = make_job()
        with database.transaction() as session:
            reservation = idempotency.reserve(
                session, key, fingerprint=FINGERPRINT, target_id=new.spec.job_id, now=NOW, expires_at=EXPIRY
            )
            if reservation.state is ReservationState.NEW:
                jobs.insert_job(session, new)
        return reservation.state, reservation.target_id

    for number in range(ROUNDS):
        key = RequestKey(tenant=TENANT, route="POST /api/v1/jobs", key=str(number))
        answers = run_together([lambda key=key: _request(key)] * 3)
        assert sorted(state for state, _ in answers) == ["in_flight", "in_flight", "new"]
        assert len({target for _, target in answers}) == 1
    with database.reading() as session:
        assert jobs.count_active(session, TENANT) == 1 + ROUNDS


def test_of_two_that_begin_an_operation_exactly_one_gets_it(database: Database) -> None:
    def _begin(node: str) -> int | None:
        with database.transaction() as session:
            return operations.begin_operation(session, operation_id, node=node, now=NOW)

    for _ in range(ROUNDS):
        with database.transaction() as session:
            operation_id = add_operation(session)
        assert set(run_together([lambda: _begin("n0"), lambda: _begin("n1")])) == {1, None}


def test_of_an_operations_end_and_its_cancellation_exactly_one_counts(database: Database) -> None:
    def _succeed() -> bool:
        with database.transaction() as session:
            return operations.succeed_operation(session, operation_id, attempt=1, result={}, now=NOW)

    def _cancel() -> bool:
        with database.transaction() as session:
            return operations.cancel_operation(session, operation_id, now=NOW)

    for _ in range(ROUNDS):
        with database.transaction() as session:
            operation_id = add_operation(session)
            operations.begin_operation(session, operation_id, node="n0", now=NOW)
        assert sorted(run_together([_succeed, _cancel])) == [False, True]


def test_of_two_changes_of_one_version_of_a_model_exactly_one_counts(database: Database) -> None:
    with database.transaction() as session:
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)

    def _change(version: int, max_jobs: int) -> bool:
        try:
            with database.transaction() as session:
                settings = replace(make_model(), max_jobs=max_jobs)
                return not inventory.put_model(session, settings, deployment="op_2", now=NOW, seen_version=version)
        except ConflictError:
            return False

    for version in range(1, ROUNDS):
        changes = [lambda version=version, n=n: _change(version, n) for n in (1, 2)]
        assert sorted(run_together(changes)) == [False, True]


def test_many_threads_that_write_all_get_their_turn(database: Database) -> None:
    def _accept() -> int:
        for _ in range(5):
            with database.transaction() as session:
                add_job(session)
        return 5

    assert sum(run_together([_accept] * 16)) == 80
    with database.reading() as session:
        assert jobs.count_active(session, TENANT) == 80


def test_of_two_admins_who_take_each_others_place_away_one_stays(database: Database) -> None:
    def _demote(name: str) -> bool:
        try:
            with database.transaction() as session:
                users.set_role(session, name, Role.VIEWER)
        except ConflictError:
            return False
        return True

    for name in ("ada", "eve"):
        with database.transaction() as session:
            users.create_user(session, name, Role.ADMIN, now=NOW)
    with ThreadPoolExecutor() as threads:
        with database.transaction() as session:
            users.set_role(session, "ada", Role.VIEWER)
            other = threads.submit(_demote, "eve")
            # Whoever does not wait for this transaction is done by then.
            wait([other], timeout=0.5)
        assert not other.result(timeout=30)
    with database.reading() as session:
        assert [user.name for user in users.list_users(session) if user.role is Role.ADMIN] == ["eve"]
