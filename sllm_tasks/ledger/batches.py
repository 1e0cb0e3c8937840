"""Batches: from their file to their results. Every change is one conditional UPDATE, so two may work on one batch.

The jobs of a batch are a group: that of line `i` with `n` choices has the places `i * MAX_PER_LINE` and on, each of
which the ledger gives away once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Update, case, func, literal, select, update
from sqlalchemy.orm import Session

from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.states import BATCH_TRANSITIONS, BatchStatus
from sllm_tasks.ledger.tables import BatchRefusalRow, BatchRow, JobRow
from sllm_tasks.ledger.writes import insert_if_absent, took_place

#: Jobs of one line at most.
MAX_PER_LINE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch as it is requested."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """How many lines have come to an end, and how many of their jobs have not."""

    num_completed: int
    num_failed: int
    num_active_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResults:
    """What came of a batch; no file where there is nothing to write into it."""

    output_file_id: str | None
    error_file_id: str | None
    num_completed: int
    num_failed: int


def add_batch(session: Session, new: NewBatch) -> BatchRow:
    """Record a batch that is to be worked off."""
    row = BatchRow(
        id=new.id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        input_file_id=new.input_file_id,
        status=BatchStatus.VALIDATING,
        user_metadata=new.metadata,
        created_at=new.created_at,
        expires_at=new.expires_at,
    )
    session.add(row)
    session.flush()
    return row


def get_batch(session: Session, batch_id: str, tenant: str | None = None) -> BatchRow | None:
    """Read a batch; None if there is none or, given a tenant, if it is somebody else's."""
    row = session.get(BatchRow, batch_id, populate_existing=True)
    return row if row is not None and tenant in {None, row.tenant} else None


def list_batches(session: Session, tenant: str, request: PageRequest) -> Page[BatchRow]:
    """List a tenant's batches."""
    return read_page(session, select(BatchRow).where(BatchRow.tenant == tenant), BatchRow.id, request)


def open_batches(session: Session, limit: int = 1000) -> Sequence[BatchRow]:
    """List batches that have not ended, oldest first."""
    query = select(BatchRow).where(BatchRow.ended_at.is_(None)).order_by(BatchRow.id).limit(limit)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def begin_batch(session: Session, batch_id: str, *, num_requests: int, now: datetime) -> bool:
    """Record that the file of a batch can be worked off; False if it is not waiting for that."""
    change = _transition(batch_id, BatchStatus.IN_PROGRESS)
    return took_place(session, change.values(num_requests=num_requests, in_progress_at=now))


def refuse_batch(session: Session, batch_id: str, problems: Sequence[JsonObject], *, now: datetime) -> bool:
    """End a batch whose file cannot be worked off."""
    change = _transition(batch_id, BatchStatus.FAILED)
    return took_place(session, change.values(problems=list(problems), ended_at=now))


def note_canceling_batch(session: Session, batch_id: str, *, now: datetime) -> bool:
    """Record that the user of a batch wants no more of it; False if it is too late."""
    return took_place(session, _transition(batch_id, BatchStatus.CANCELING).values(canceling_at=now))


def note_finalizing_batch(session: Session, batch_id: str, *, now: datetime) -> bool:
    """Record that all that will be answered is."""
    return took_place(session, _transition(batch_id, BatchStatus.FINALIZING).values(finalizing_at=now))


def advance_batch(session: Session, batch_id: str, *, next_line: int, next_offset: int) -> bool:
    """Record how far the file was handed over; never goes back."""
    change = update(BatchRow).where(BatchRow.id == batch_id, BatchRow.next_line < next_line)
    return took_place(session, change.values(next_line=next_line, next_offset=next_offset))


def note_counts(session: Session, batch_id: str, counts: BatchCounts) -> bool:
    """Record how many lines have their answer, for those who look."""
    change = update(BatchRow).where(BatchRow.id == batch_id, BatchRow.ended_at.is_(None))
    values = {"num_completed": counts.num_completed, "num_failed": counts.num_failed}
    return took_place(session, change.values(values))


def end_batch(session: Session, batch_id: str, status: BatchStatus, results: BatchResults, *, now: datetime) -> bool:
    """End a batch with the files of its results; False if somebody else has."""
    change = _transition(batch_id, status).values(
        output_file_id=results.output_file_id,
        error_file_id=results.error_file_id,
        num_completed=results.num_completed,
        num_failed=results.num_failed,
        ended_at=now,
    )
    return took_place(session, change)


def add_refusal(session: Session, batch_id: str, line: int, *, status: int, body: JsonObject) -> bool:
    """Record that a line could not become a job; False if that is recorded already."""
    values = {"batch_id": batch_id, "line": line, "status": status, "body": body}
    return insert_if_absent(session, BatchRefusalRow, values)


def refusals(session: Session, batch_id: str) -> Mapping[int, BatchRefusalRow]:
    """Lines that could not become jobs."""
    rows = session.scalars(select(BatchRefusalRow).filter_by(batch_id=batch_id))
    return {row.line: row for row in rows}


def jobs_of_lines(session: Session, batch_id: str, first_line: int, end_line: int) -> Mapping[int, list[JobRow]]:
    """The jobs of some lines, each line's in the order of choices."""
    query = (
        select(JobRow)
        .where(JobRow.group_id == batch_id)
        .where(JobRow.group_index >= first_line * MAX_PER_LINE, JobRow.group_index < end_line * MAX_PER_LINE)
        .order_by(JobRow.group_index)
    )
    found: dict[int, list[JobRow]] = {}
    for row in session.scalars(query):
        found.setdefault((row.group_index or 0) // MAX_PER_LINE, []).append(row)
    return found


def active_batch_jobs(session: Session, batch_id: str) -> Sequence[str]:
    """Ids of the jobs of a batch that have not ended."""
    return session.scalars(select(JobRow.id).where(JobRow.group_id == batch_id, JobRow.ended_at.is_(None))).all()


def count_batch(session: Session, batch_id: str) -> BatchCounts:
    """Count what became of the lines that were handed over; a line is complete when all its choices are."""
    ended, succeeded = JobRow.ended_at.is_not(None), JobRow.status == JobStatus.SUCCEEDED
    by_line = (
        select(
            func.min(case((succeeded, 1), else_=0)).label("all_succeeded"),
            func.min(case((ended, 1), else_=0)).label("all_ended"),
            func.sum(case((ended, 0), else_=1)).label("num_active"),
        )
        .where(JobRow.group_id == batch_id)
        .group_by(JobRow.group_index // literal(MAX_PER_LINE))
        .subquery()
    )
    completed, ended_lines, active = session.execute(
        select(
            func.coalesce(func.sum(by_line.c.all_succeeded), 0),
            func.coalesce(func.sum(by_line.c.all_ended), 0),
            func.coalesce(func.sum(by_line.c.num_active), 0),
        )
    ).one()
    refused = session.scalar(select(func.count()).where(BatchRefusalRow.batch_id == batch_id)) or 0
    return BatchCounts(
        num_completed=int(completed), num_failed=int(ended_lines - completed + refused), num_active_jobs=int(active)
    )


def _transition(batch_id: str, new: BatchStatus) -> Update:
    sources = [status for status, after in BATCH_TRANSITIONS.items() if new in after]
    return update(BatchRow).where(BatchRow.id == batch_id, BatchRow.status.in_(sources)).values(status=new)
