"""Cancelling all jobs that a search finds."""

from __future__ import annotations

from typing import Final

from flask import Response, render_template, request

from sllm_tasks.endings import cancel_job
from sllm_tasks.jobs import ACTIVE_STATUSES
from sllm_tasks.ledger.job_lists import JobFilter
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.job_search import only_in, parse_search
from webapp.audited import audited
from webapp.job_lists import count_views, list_views
from webapp.services import services

#: One request cancels so many at most, oldest first; the page then shows the rest.
_MAX_CANCELED: Final = 500


@blueprint.get("/jobs/cancel")
@needs(Role.OPERATOR)
def ask_cancel_jobs() -> Response:
    """Say what cancelling would do."""
    text = request.args.get("q", "")
    wanted = _wanted(text)
    num_jobs = 0 if wanted is None else count_views(services(), wanted)
    effects = (
        f"{min(num_jobs, _MAX_CANCELED)} jobs that have not ended and match “{text or 'everything'}” are canceled.",
        "They keep the text they have. It cannot be taken back; each can be submitted again.",
        *((f"{num_jobs - _MAX_CANCELED} more match; do it again for them.",) if num_jobs > _MAX_CANCELED else ()),
    )
    title = f"Cancel {min(num_jobs, _MAX_CANCELED)} jobs?"
    return Response(render_template("admin/confirm.html", title=title, effects=effects, verb="Cancel them"))


@blueprint.post("/jobs/cancel")
@needs(Role.OPERATOR)
def cancel_jobs() -> Response:
    """Ask all of them to stop."""
    web, text = services(), request.args.get("q", "")
    wanted = _wanted(text)
    oldest = PageRequest(limit=_MAX_CANCELED, newest_first=False)
    found = () if wanted is None else list_views(web, None, wanted, oldest).rows
    job_ids = [view.row.id for view in found]
    with audited(web.ledger, person(), "job.cancel_many", text[:255] or "*", after={"jobs": job_ids}):
        pass
    for job_id in job_ids:
        cancel_job(web.ledger, web.live, job_id)
    return see_other("jobs", q=text, notice="canceled_many")


def _wanted(text: str) -> JobFilter | None:
    search = parse_search(text)
    # A search that makes no sense finds more than was meant.
    return None if search.errors else only_in(search.wanted, ACTIVE_STATUSES)
