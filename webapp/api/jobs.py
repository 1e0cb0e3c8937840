"""`/api/v1/jobs`: submit, read, list, cancel, retry, delete."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response, jsonify, request

from sllm_tasks.admission import Accepted
from sllm_tasks.endings import cancel_job as stop_job
from sllm_tasks.errors import ConflictError, ErrorCode
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.attempts import list_attempts
from sllm_tasks.ledger.job_lists import JobFilter, delete_job_content
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.outbox import list_messages
from webapp.auth import caller, requires
from webapp.errors import FieldError, InvalidFieldsError, JobFailedError
from webapp.incoming import keyed_request, named_request, page_request, read_body, read_query, wait_s
from webapp.job_intake import accept_once, charge, new_job
from webapp.job_json import attempt_json, job_json, result_json
from webapp.job_lists import list_views
from webapp.job_retry import retry_of
from webapp.job_views import JobView, find_job, see_job
from webapp.job_waits import END, another_status, wait_until
from webapp.outgoing import list_json, replayed
from webapp.schemas.jobs import DeliveriesQuery, JobRequest, JobsQuery
from webapp.services import services
from webapp.webhook_json import delivery_json

blueprint = Blueprint("jobs", __name__, url_prefix="/api/v1/jobs")

_CLIENT_ID: Final = re.compile(r"[a-z0-9-]{8,64}")


@blueprint.post("")
@requires(Scope.JOBS_WRITE)
def submit_job() -> Response:
    """Accept a job; with `Prefer: wait` answer when it has ended."""
    web, tenant = services(), caller().tenant
    request_again = keyed_request(tenant)
    accepted = accept_once(web.admission, request_again, lambda: _charged(new_job(web, read_body(JobRequest), tenant)))
    return _accepted(accepted, HTTPStatus.ACCEPTED)


@blueprint.put("/<job_id>")
@requires(Scope.JOBS_WRITE)
def put_job(job_id: str) -> Response:
    """Accept a job under an id that its client chose; sending it again changes nothing."""
    if not _CLIENT_ID.fullmatch(job_id):
        raise InvalidFieldsError(
            (FieldError(pointer="id", detail="must be 8 to 64 of a-z, 0-9 and -", code="string_pattern_mismatch"),)
        )
    web, tenant = services(), caller().tenant
    named = named_request(tenant, job_id)
    accepted = accept_once(web.admission, named, lambda: _charged(new_job(web, read_body(JobRequest), tenant, named)))
    return _accepted(accepted, HTTPStatus.ACCEPTED if accepted.is_new else HTTPStatus.OK)


@blueprint.get("/<job_id>")
@requires(Scope.JOBS_READ)
def get_job(job_id: str) -> Response:
    """Read a job; with `Prefer: wait` answer at its next change of status."""
    view = find_job(services(), caller().tenant, job_id)
    known = request.if_none_match.contains(view.etag)
    patience_s = wait_s() if known or not request.if_none_match else 0
    view, waited = wait_until(services(), view, another_status(view.status), patience_s)
    if request.if_none_match.contains(view.etag):
        return _with_job_headers(Response(status=HTTPStatus.NOT_MODIFIED), view, waited=waited)
    return _with_job_headers(jsonify(job_json(view)), view, waited=waited)


@blueprint.get("")
@requires(Scope.JOBS_READ)
def get_jobs() -> Response:
    """List the tenant's jobs."""
    query = read_query(JobsQuery)
    wanted = JobFilter(
        statuses=frozenset({query.status} if query.status else ()),
        model=query.model,
        created_after=query.created_after,
    )
    page = list_views(services(), caller().tenant, wanted, page_request(query))
    return jsonify(list_json([job_json(view) for view in page.rows], has_more=page.has_more))


@blueprint.get("/<job_id>/result")
@requires(Scope.JOBS_READ)
def get_result(job_id: str) -> Response:
    """Read what a job has produced, once it has succeeded."""
    view = find_job(services(), caller().tenant, job_id)
    view, waited = wait_until(services(), view, END, wait_s())
    if not END.is_met(view):
        response = jsonify({"id": view.row.id, "status": view.status})
        response.status_code = HTTPStatus.ACCEPTED
        return _with_job_headers(response, view, waited=waited)
    if view.status is not JobStatus.SUCCEEDED:
        raise JobFailedError(view.row.error_code or ErrorCode.CANCELED_BY_USER, _why(view))
    return _with_job_headers(jsonify(result_json(view)), view, waited=waited)


@blueprint.get("/<job_id>/attempts")
@requires(Scope.JOBS_READ)
def get_attempts(job_id: str) -> Response:
    """List where the job was tried."""
    view = find_job(services(), caller().tenant, job_id)
    with services().ledger.reading() as session:
        data = [attempt_json(row) for row in list_attempts(session, view.row.id)]
    return jsonify(list_json(data, key="attempt"))


@blueprint.get("/<job_id>/deliveries")
@requires(Scope.JOBS_READ)
def get_deliveries(job_id: str) -> Response:
    """List whom the job's end was told, and what has become of it."""
    view, query = find_job(services(), caller().tenant, job_id), read_query(DeliveriesQuery)
    with services().ledger.reading() as session:
        page = list_messages(session, page_request(query), job_id=view.row.id, status=query.status)
    return jsonify(list_json([delivery_json(row) for row in page.rows], has_more=page.has_more))


@blueprint.post("/<job_id>/cancel")
@requires(Scope.JOBS_WRITE)
def cancel_job(job_id: str) -> Response:
    """Stop a job; whoever runs it is asked to, and what waits ends here."""
    view = find_job(services(), caller().tenant, job_id)
    if not END.is_met(view):
        stop_job(services().ledger, services().live, view.row.id)
        view = find_job(services(), caller().tenant, job_id)
    response = jsonify(job_json(view))
    response.status_code = HTTPStatus.OK if END.is_met(view) else HTTPStatus.ACCEPTED
    return _with_job_headers(response, view)


@blueprint.post("/<job_id>/retry")
@requires(Scope.JOBS_WRITE)
def post_retry(job_id: str) -> Response:
    """Submit a job that did not succeed once more, as a new job."""
    web, tenant = services(), caller().tenant
    request_again = keyed_request(tenant)
    accepted = accept_once(web.admission, request_again, lambda: _charged(retry_of(web, find_job(web, tenant, job_id))))
    return _accepted(accepted, HTTPStatus.ACCEPTED)


@blueprint.delete("/<job_id>")
@requires(Scope.JOBS_WRITE)
def delete_job(job_id: str) -> Response:
    """Forget what was in a job that has ended; that there was a job stays known."""
    tenant = caller().tenant
    view = find_job(services(), tenant, job_id)
    if not END.is_met(view):
        raise ConflictError("the job has not ended; cancel it first")
    with services().ledger.transaction() as session:
        delete_job_content(session, view.row.id, tenant, datetime.now(UTC))
    return Response(status=HTTPStatus.NO_CONTENT)


def _charged(new: NewJob) -> NewJob:
    charge(services(), caller(), [new])
    return new


def _why(view: JobView) -> str:
    return view.row.error_message or f"the job is {view.status}"


def _accepted(accepted: Accepted, status: HTTPStatus) -> Response:
    web, row = services(), accepted.row
    view = find_job(web, caller().tenant, accepted.job_id) if row is None else see_job(web, row)
    view, waited = wait_until(web, view, END, wait_s())
    response = jsonify(job_json(view))
    response.status_code = HTTPStatus.OK if waited and END.is_met(view) else status
    if not accepted.is_new:
        replayed(response)
    return _with_job_headers(response, view, waited=waited)


def _with_job_headers(response: Response, view: JobView, *, waited: bool = False) -> Response:
    """Say where the job is, which state of it this is, and when to ask again."""
    response.headers["Location"] = f"/api/v1/jobs/{view.row.id}"
    response.set_etag(view.etag)
    if not END.is_met(view):
        response.headers["Retry-After"] = "1"
    if waited:
        response.headers["Preference-Applied"] = f"wait={wait_s()}"
    return response
