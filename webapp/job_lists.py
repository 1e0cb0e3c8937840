"""Lists of jobs by the status that readers see: of jobs that have not ended the ledger knows only a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from sllm_tasks.jobs import ACTIVE_STATUSES
from sllm_tasks.ledger.job_lists import JobFilter, count_jobs, list_jobs, list_statuses
from sllm_tasks.ledger.pages import Page, PageRequest
from webapp.job_views import JobView, views_of
from webapp.services import WebServices

#: Jobs whose live records are read at once.
_READ_AT_ONCE: Final = 500


def list_views(web: WebServices, tenant: str | None, wanted: JobFilter, request: PageRequest) -> Page[JobView]:
    """List a tenant's jobs, or everybody's for None, as their readers see them."""
    if not _hangs_on_live_state(wanted):
        with web.ledger.reading() as session:
            page = list_jobs(session, tenant, wanted, request)
        return Page(rows=tuple(views_of(web, page.rows)), has_more=page.has_more)
    seen = list(islice(_seen_in(web, tenant, wanted, request), request.limit + 1))
    shown = {view.row.id: view for view in seen[: request.limit]}
    with web.ledger.reading() as session:
        whole = replace(request, after=None)
        rows = list_jobs(session, tenant, JobFilter(ids=frozenset(shown)), whole).rows
    # They show what they were found by, unless they ended at that very moment: those are in no such list any more.
    views = (JobView(row, shown[row.id].live) for row in rows)
    found = tuple(view for view in views if view.status in wanted.statuses)
    return Page(rows=found, has_more=len(seen) > request.limit)


def count_views(web: WebServices, wanted: JobFilter) -> int:
    """Count what `list_views` would list of everybody's."""
    if _hangs_on_live_state(wanted):
        return sum(1 for _ in _seen_in(web, None, wanted, PageRequest()))
    with web.ledger.reading() as session:
        return count_jobs(session, wanted)


def _hangs_on_live_state(wanted: JobFilter) -> bool:
    """Whether some active jobs are wanted and others are not: which is which only the live state tells."""
    return bool(wanted.statuses & ACTIVE_STATUSES) and not wanted.statuses >= ACTIVE_STATUSES


def _seen_in(web: WebServices, tenant: str | None, wanted: JobFilter, request: PageRequest) -> Iterator[JobView]:
    """All jobs from the page's beginning on that show one of the statuses; of their rows only id and status."""
    candidates = replace(wanted, statuses=wanted.statuses | ACTIVE_STATUSES)
    asked, has_more = replace(request, limit=_READ_AT_ONCE), True
    while has_more:
        with web.ledger.reading() as session:
            page = list_statuses(session, tenant, candidates, asked)
        yield from (view for view in views_of(web, page.rows) if view.status in wanted.statuses)
        has_more = page.has_more
        if has_more:
            asked = replace(asked, after=page.rows[-1].id)
