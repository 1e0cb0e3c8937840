from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from sllm_tasks.errors import ErrorCode, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger import operations
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.operations import NewOperation
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import OperationStatus
from tests.integration.ledger.factories import NOW

LATER = NOW + timedelta(minutes=1)


def add_operation(session: Session, target: str = "model:m") -> str:
    operation_id = new_id("op")
    operations.add_operation(
        session,
        NewOperation(
            id=operation_id,
            kind="deploy",
            target=target,
            args={"source": "/models/m"},
            requested_by="key_1",
            created_at=NOW,
        ),
    )
    return operation_id


def test_an_operation_goes_from_its_request_to_its_result(database: Database) -> None:
    with database.transaction() as session:
        operation_id = add_operation(session)
        assert operations.begin_operation(session, operation_id, node="n0", now=LATER) == 1
        progress = {"done": 1, "total": 3, "unit": "bytes"}
        assert operations.note_progress(session, operation_id, attempt=1, progress=progress, now=LATER)
        result = {"digest": "sha256:c"}
        assert operations.succeed_operation(session, operation_id, attempt=1, result=result, now=LATER)
    with database.reading() as session:
        row = operations.get_operation(session, operation_id)
        assert (row.status, row.result, row.progress) == (OperationStatus.SUCCEEDED, result, progress)
        assert (row.node, row.created_at, row.started_at, row.ended_at) == ("n0", NOW, LATER, LATER)


def test_an_unknown_operation_is_not_found(database: Database) -> None:
    with database.reading() as session, pytest.raises(NotFoundError):
        operations.get_operation(session, "op_unknown")


def test_an_operation_that_nobody_began_has_neither_progress_nor_a_result(database: Database) -> None:
    with database.transaction() as session:
        operation_id = add_operation(session)
        assert not operations.note_progress(session, operation_id, attempt=0, progress={}, now=NOW)
        assert not operations.succeed_operation(session, operation_id, attempt=0, result={}, now=NOW)


def test_a_runner_that_lost_its_operation_may_not_speak_for_it(database: Database) -> None:
    with database.transaction() as session:
        operation_id = add_operation(session)
        operations.begin_operation(session, operation_id, node="n0", now=NOW)
        assert operations.give_back_operation(session, operation_id, attempt=1, now=NOW)
        assert operations.begin_operation(session, operation_id, node="n1", now=NOW) == 2
        error = JobError(code=ErrorCode.DISK_FULL, message="no room")
        assert not operations.note_progress(session, operation_id, attempt=1, progress={}, now=NOW)
        assert not operations.fail_operation(session, operation_id, attempt=1, error=error, now=NOW)
        assert not operations.give_back_operation(session, operation_id, attempt=1, now=NOW)
        assert operations.fail_operation(session, operation_id, attempt=2, error=error, now=NOW)
        row = operations.get_operation(session, operation_id)
        assert (row.status, row.error_code, row.error_message) == ("failed", ErrorCode.DISK_FULL, "no room")


def test_a_runner_learns_of_a_cancellation_when_it_reports(database: Database) -> None:
    with database.transaction() as session:
        operation_id = add_operation(session)
        operations.begin_operation(session, operation_id, node="n0", now=NOW)
        assert operations.cancel_operation(session, operation_id, now=NOW)
        assert not operations.note_progress(session, operation_id, attempt=1, progress={}, now=NOW)
        assert not operations.cancel_operation(session, operation_id, now=NOW)


def test_a_later_request_ends_what_has_not_ended_of_its_kind_and_target(database: Database) -> None:
    with database.transaction() as session:
        pending, running, ended, other = (add_operation(session, target) for target in ("m", "m", "m", "n"))
        operations.begin_operation(session, running, node="n0", now=NOW)
        operations.cancel_operation(session, ended, now=NOW)
        operations.supersede_operations(session, "deploy", "m", why="superseded by op_9", now=LATER)
        assert not operations.succeed_operation(session, running, attempt=1, result={}, now=LATER)
        rows = operations.operations_by_id(session, [pending, running, ended, other, "op_unknown"])
        assert [rows[id_].status for id_ in (pending, running, ended, other)] == [
            "failed", "failed", "canceled", "pending",
        ]  # fmt: skip
        assert (rows[running].error_code, rows[running].error_message) == (ErrorCode.CONFLICT, "superseded by op_9")
        assert operations.open_operation_exists(session, "deploy")
        operations.cancel_operation(session, other, now=NOW)
        assert not operations.open_operation_exists(session, "deploy")


def test_the_sweeper_finds_operations_without_a_sign_of_life(database: Database) -> None:
    with database.transaction() as session:
        forgotten, alive, ended = (add_operation(session) for _ in range(3))
        operations.begin_operation(session, alive, node="n0", now=LATER)
        operations.cancel_operation(session, ended, now=NOW)
        found = operations.silent_operations(session, since=LATER, limit=9)
        assert [row.id for row in found] == [forgotten]


def test_operations_are_listed_by_target_and_status(database: Database) -> None:
    with database.transaction() as session:
        first, second = add_operation(session, "model:a"), add_operation(session, "model:b")
        operations.cancel_operation(session, first, now=NOW)
        everything = operations.list_operations(session, PageRequest())
        assert {row.id for row in everything.rows} == {first, second}
        (of_b,) = operations.list_operations(session, PageRequest(), target="model:b").rows
        assert of_b.id == second
        canceled = frozenset({OperationStatus.CANCELED})
        (ended,) = operations.list_operations(session, PageRequest(), statuses=canceled).rows
        assert ended.id == first
