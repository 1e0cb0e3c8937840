"""Jobs: the list, live and searchable, and a form to submit one."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flask import Response, request

from sllm_tasks.errors import SllmError
from sllm_tasks.ledger.inventory import list_models
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import Form, form_request, given_fields, read_form
from webapp.admin.job_search import parse_search
from webapp.admin.pages import Context, page
from webapp.audited import audited
from webapp.errors import FieldError, InvalidFieldsError
from webapp.job_intake import accept_once, new_job
from webapp.job_json import job_json
from webapp.job_lists import list_views
from webapp.problems import status_of
from webapp.schemas.jobs import JobRequest
from webapp.services import services

_PAGE: Final = 30
#: Of the form: everything else is about sampling.
_JOB_FIELDS: Final = frozenset({"priority", "class", "deadline_s"})


@blueprint.get("/jobs")
@needs(Role.VIEWER)
def jobs() -> Response:
    """List jobs of all tenants, newest first."""
    return _show(Form(), HTTPStatus.OK)


@blueprint.post("/jobs")
@needs(Role.OPERATOR)
def submit() -> Response:
    """Submit a job."""
    web, tenant = services(), person().tenant
    try:
        wanted = read_form(JobRequest, _job_fields())
        accepted = accept_once(web.admission, form_request(tenant), lambda: new_job(web, wanted, tenant))
    except SllmError as error:
        status = status_of(error)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        # With the prompt, which browsers do not keep for a page that is not to be stored.
        return _show(Form.refused(error), status)
    with audited(web.ledger, person(), "job.submit", accepted.job_id) as change:
        change.is_done = not accepted.is_new
    return see_other("job", job_id=accepted.job_id)


def _job_fields() -> dict[str, object]:
    fields = given_fields()
    if "prompt" not in fields:
        raise InvalidFieldsError((FieldError(pointer="/prompt", detail="is required", code="missing"),))
    kind = {"prompt": fields.pop("prompt")}
    asked = {"messages": [{"role": "user", "content": kind["prompt"]}]} if fields.pop("chat", None) else kind
    own = {name: fields.pop(name) for name in _JOB_FIELDS & fields.keys()}
    return {"model": fields.pop("model", ""), "input": asked, **own, "params": fields}


def _show(form: Form, status: HTTPStatus) -> Response:
    with services().ledger.reading() as session:
        names = [row.name for row in list_models(session, ready_only=True)]
    return page("jobs", _context, status=status, form=form, model_names=names)


def _context() -> Context:
    web = services()
    text = request.args.get("q", "")
    search = parse_search(text)
    wanted_page = PageRequest(limit=_PAGE, after=request.args.get("after"))
    if search.errors:
        # What is left of it finds more than was meant.
        return {"q": text, "search_errors": search.errors, "jobs": (), "next_after": None, "is_first": True}
    found = list_views(web, None, search.wanted, wanted_page)
    shown = [{**job_json(view), "tenant": view.row.tenant} for view in found.rows]
    return {
        "q": text,
        "search_errors": (),
        "jobs": shown,
        "next_after": shown[-1]["id"] if found.has_more else None,
        "is_first": wanted_page.after is None,
    }
