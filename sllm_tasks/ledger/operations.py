"""Operations: admin work that takes a while, from its request to its result.

`attempts` fences: whoever begins an operation gets its number and may report only while that number is current.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Update, exists, select, update
from sqlalchemy.orm import Session

from sllm_tasks.errors import ErrorCode, NotFoundError
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.states import OPERATION_TRANSITIONS, OperationStatus
from sllm_tasks.ledger.tables import OperationRow
from sllm_tasks.ledger.writes import AS_READ, took_place


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperation:
    """An operation as it is requested."""

    id: str
    kind: str
    target: str
    args: JsonObject
    requested_by: str
    created_at: datetime
    #: Who is to run it; None: control, or to be decided.
    node: str | None = None


def add_operation(session: Session, new: NewOperation) -> OperationRow:
    """Record an operation that is to be run."""
    row = OperationRow(
        id=new.id,
        kind=new.kind,
        target=new.target,
        args=new.args,
        status=OperationStatus.PENDING,
        requested_by=new.requested_by,
        node=new.node,
        created_at=new.created_at,
        updated_at=new.created_at,
    )
    session.add(row)
    session.flush()
    return row


def get_operation(session: Session, operation_id: str) -> OperationRow:
    """Read an operation; raises NotFoundError."""
    row = session.get(OperationRow, operation_id, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no operation {operation_id}")
    return row


def operations_by_id(session: Session, operation_ids: Collection[str]) -> Mapping[str, OperationRow]:
    """Read operations; those that are unknown are left out."""
    rows = session.scalars(select(OperationRow).where(OperationRow.id.in_(operation_ids)))
    return {row.id: row for row in rows}


def list_operations(
    session: Session,
    request: PageRequest,
    *,
    target: str | None = None,
    statuses: frozenset[OperationStatus] = frozenset(),
) -> Page[OperationRow]:
    """List operations, of one target or in some statuses only if given."""
    query = select(OperationRow)
    if target is not None:
        query = query.where(OperationRow.target == target)
    if statuses:
        query = query.where(OperationRow.status.in_(statuses))
    return read_page(session, query, OperationRow.id, request)


def open_operation_exists(session: Session, kind: str) -> bool:
    """Whether an operation of a kind has not ended."""
    query = select(exists().where(OperationRow.kind == kind, OperationRow.ended_at.is_(None)))
    return bool(session.scalar(query))


def silent_operations(session: Session, *, since: datetime, limit: int) -> Sequence[OperationRow]:
    """List operations that have not ended and gave no sign of life since then, oldest first."""
    return session.scalars(
        select(OperationRow)
        .where(OperationRow.ended_at.is_(None), OperationRow.updated_at < since)
        .order_by(OperationRow.id)
        .limit(limit)
        .execution_options(populate_existing=True)
    ).all()


def begin_operation(session: Session, operation_id: str, *, node: str | None, now: datetime) -> int | None:
    """Take a pending operation and return its attempt; None if it is not pending any more."""
    statement = (
        _transition(operation_id, OperationStatus.RUNNING)
        .values(node=node, attempts=OperationRow.attempts + 1, started_at=now, updated_at=now)
        .returning(OperationRow.attempts)
    )
    return session.scalar(statement, execution_options=AS_READ)


def note_progress(session: Session, operation_id: str, *, attempt: int, progress: JsonObject, now: datetime) -> bool:
    """Record how far a running operation is; False tells its runner to stop: it is no longer its own."""
    change = update(OperationRow).where(
        OperationRow.id == operation_id,
        OperationRow.attempts == attempt,
        OperationRow.status == OperationStatus.RUNNING,
    )
    return took_place(session, change.values(progress=progress, updated_at=now))


def give_back_operation(session: Session, operation_id: str, *, attempt: int, now: datetime) -> bool:
    """Make a running operation pending again because its runner died; False if that attempt is over."""
    change = _transition(operation_id, OperationStatus.PENDING).where(OperationRow.attempts == attempt)
    return took_place(session, change.values(started_at=None, updated_at=now))


def succeed_operation(session: Session, operation_id: str, *, attempt: int, result: JsonObject, now: datetime) -> bool:
    """End an operation with its result; False if that attempt is over."""
    change = _transition(operation_id, OperationStatus.SUCCEEDED).where(OperationRow.attempts == attempt)
    return took_place(session, change.values(result=result, ended_at=now, updated_at=now))


def fail_operation(session: Session, operation_id: str, *, attempt: int, error: JobError, now: datetime) -> bool:
    """End an operation with an error; False if that attempt is over. Attempt 0 is one that nobody has begun."""
    change = _transition(operation_id, OperationStatus.FAILED).where(OperationRow.attempts == attempt)
    return took_place(
        session,
        change.values(error_code=error.code, error_message=error.message, ended_at=now, updated_at=now),
    )


def supersede_operations(session: Session, kind: str, target: str, *, why: str, now: datetime) -> None:
    """End the operations of a kind and target that have not ended: a later request wins over them."""
    session.execute(
        update(OperationRow)
        .where(OperationRow.kind == kind, OperationRow.target == target, OperationRow.ended_at.is_(None))
        .values(
            status=OperationStatus.FAILED,
            error_code=ErrorCode.CONFLICT,
            error_message=why,
            ended_at=now,
            updated_at=now,
        ),
        execution_options=AS_READ,
    )


def cancel_operation(session: Session, operation_id: str, *, now: datetime) -> bool:
    """Cancel an operation; False if it has ended. Its runner learns of it at its next progress report."""
    change = _transition(operation_id, OperationStatus.CANCELED)
    return took_place(session, change.values(error_code=ErrorCode.CANCELED_BY_USER, ended_at=now, updated_at=now))


def _transition(operation_id: str, new: OperationStatus) -> Update:
    sources = [status for status, after in OPERATION_TRANSITIONS.items() if new in after]
    return (
        update(OperationRow).where(OperationRow.id == operation_id, OperationRow.status.in_(sources)).values(status=new)
    )
