"""`/api/v1/jobs/<id>/events`: a job's events as server-sent events."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, request

from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.keys import Scope
from webapp.auth import bearer, caller, requires
from webapp.errors import FieldError, InvalidFieldsError
from webapp.incoming import read_query
from webapp.job_events import stream_events
from webapp.job_follower import BEGINNING, parse_event_id
from webapp.job_views import JobView, find_job
from webapp.schemas.jobs import EventsQuery
from webapp.services import WebServices, services

blueprint = Blueprint("job_events", __name__, url_prefix="/api/v1/jobs")

_HEADERS = {
    "Cache-Control": "no-store",
    # nginx would hold events back until its buffer is full.
    "X-Accel-Buffering": "no",
}


@blueprint.get("/<job_id>/events")
@requires(Scope.JOBS_READ)
def get_events(job_id: str) -> Response:
    """Stream a job's events after `Last-Event-ID` or `?after=`, until it has ended."""
    web, token = services(), bearer()
    after = _position()
    view = find_job(web, caller().tenant, job_id)
    if _has_seen_all(web, view, after):
        # Tells an EventSource not to come back.
        return Response(status=HTTPStatus.NO_CONTENT)
    web.wait_slots.acquire()
    events = stream_events(web, view, after, lambda: web.keyring.recognise(token))
    response = Response(events, mimetype="text/event-stream", headers=_HEADERS)
    response.call_on_close(web.wait_slots.release)
    return response


def _position() -> str:
    header, asked = request.headers.get("Last-Event-ID"), read_query(EventsQuery).after
    after = header or asked or BEGINNING
    try:
        parse_event_id(after)
    except ValueError:
        error = FieldError(
            pointer="Last-Event-ID" if header else "?after", detail="must be the id of an event", code="event_id"
        )
        raise InvalidFieldsError((error,)) from None
    return after


def _has_seen_all(web: WebServices, view: JobView, after: str) -> bool:
    if after == BEGINNING or not view.row.status.is_terminal:
        return False
    try:
        return web.live.jobs.last_event_id(view.row.id) == after
    except UnavailableError:
        return False
