"""Listing jobs, and forgetting what was in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session, load_only

from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.tables import JobAttemptRow, JobRow
from sllm_tasks.ledger.writes import AS_READ

#: What a tombstone no longer says. `params` stays: it holds the stop strings, but explains the numbers.
_CONTENT_GONE: dict[str, object] = {
    "prompt": None,
    "messages": None,
    "prompt_ids": (),
    "user_metadata": {},
    "webhook": None,
    "output": None,
    "logprobs": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list; what is None or empty does not restrict."""

    statuses: frozenset[JobStatus] = frozenset()
    model: str | None = None
    #: A node that one of the job's attempts ran on.
    node: str | None = None
    created_after: datetime | None = None
    group_id: str | None = None
    #: Part of a job's id, client id or model.
    text: str | None = None
    #: These and no others.
    ids: frozenset[str] | None = None


def list_jobs(session: Session, tenant: str | None, wanted: JobFilter, request: PageRequest) -> Page[JobRow]:
    """List a tenant's jobs, or everybody's for None; those whose content is gone are not listed."""
    return read_page(session, _query(tenant, wanted), JobRow.id, request)


def list_statuses(session: Session, tenant: str | None, wanted: JobFilter, request: PageRequest) -> Page[JobRow]:
    """List the same with nothing of a row but its id and status: what a prompt takes may be much for thousands."""
    bare = _query(tenant, wanted).options(load_only(JobRow.id, JobRow.status, raiseload=True))
    return read_page(session, bare, JobRow.id, request)


def count_jobs(session: Session, wanted: JobFilter) -> int:
    """Count what `list_jobs` would list of everybody's."""
    return session.scalar(select(func.count()).select_from(JobRow).where(*_conditions(wanted))) or 0


def _query(tenant: str | None, wanted: JobFilter) -> Select[JobRow]:
    query = select(JobRow).where(*_conditions(wanted))
    return query if tenant is None else query.where(JobRow.tenant == tenant)


def _conditions(wanted: JobFilter) -> Iterator[ColumnElement[bool]]:
    yield JobRow.purged_at.is_(None)
    if wanted.statuses:
        yield JobRow.status.in_(wanted.statuses)
    if wanted.model is not None:
        yield JobRow.model == wanted.model
    if wanted.node is not None:
        here = select(JobAttemptRow).where(JobAttemptRow.job_id == JobRow.id, JobAttemptRow.node == wanted.node)
        yield here.exists()
    if wanted.created_after is not None:
        yield JobRow.created_at > wanted.created_after
    if wanted.group_id is not None:
        yield JobRow.group_id == wanted.group_id
    if wanted.text:
        searched = (JobRow.id, JobRow.client_id, JobRow.model)
        yield or_(*(column.contains(wanted.text, autoescape=True) for column in searched))
    if wanted.ids is not None:
        yield JobRow.id.in_(wanted.ids)


def group_jobs(session: Session, group_id: str) -> Sequence[JobRow]:
    """List the jobs of a group in their order."""
    return session.scalars(select(JobRow).filter_by(group_id=group_id).order_by(JobRow.group_index)).all()


def purge_expired(session: Session, now: datetime, limit: int = 500) -> int:
    """Turn up to `limit` ended jobs whose content has outlived its life into tombstones; returns how many."""
    due = (
        select(JobRow.id)
        .where(JobRow.expires_at <= now, JobRow.purged_at.is_(None))
        .order_by(JobRow.expires_at)
        .limit(limit)
    )
    return _purge(session, JobRow.id.in_(due.scalar_subquery()), now)


def delete_job_content(session: Session, job_id: str, tenant: str, now: datetime) -> bool:
    """Turn one ended job into a tombstone; False if it is not the tenant's, has not ended or is one already."""
    return _purge(session, and_(JobRow.id == job_id, JobRow.tenant == tenant), now) == 1


def _purge(session: Session, which: ColumnElement[bool], now: datetime) -> int:
    statement = (
        update(JobRow)
        .where(which, JobRow.ended_at.is_not(None), JobRow.purged_at.is_(None))
        .values(**_CONTENT_GONE, purged_at=now, version=JobRow.version + 1)
        .returning(JobRow.id)
    )
    return len(session.execute(statement, execution_options=AS_READ).all())
