"""One job: its phases, its tokens as they come, where it was tried and why there; stopping and repeating it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any, cast

from flask import Response, json, request, stream_with_context

from sllm_tasks.endings import cancel_job as stop_job
from sllm_tasks.errors import NotFoundError, UnavailableError
from sllm_tasks.ledger.attempts import list_attempts
from sllm_tasks.ledger.decisions import list_decisions
from sllm_tasks.ledger.jobs import get_job
from sllm_tasks.ledger.migrations import list_migrations
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs, person, signed_in
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import form_request
from webapp.admin.job_timeline import timeline
from webapp.admin.pages import Context, page
from webapp.audited import audited
from webapp.job_events import stream_events
from webapp.job_follower import BEGINNING
from webapp.job_intake import accept_once
from webapp.job_json import attempt_json, job_json
from webapp.job_retry import retry_of
from webapp.job_views import JobView, find_job
from webapp.outgoing import time_json
from webapp.services import services


@blueprint.get("/jobs/<job_id>")
@needs(Role.VIEWER)
def job(job_id: str) -> Response:
    """Show a job of any tenant."""
    view = _find(job_id)
    return page(
        "job",
        lambda: _context(job_id),
        prompt=_prompt(view),
        text=_text(view),
        curl=_curl(view),
        command=_command(view),
    )


@blueprint.get("/jobs/<job_id>/events")
@needs(Role.VIEWER)
def job_tokens(job_id: str) -> Response:
    """Stream a job's events, from the beginning or after the last one that was seen."""
    web, view = services(), _find(job_id)
    web.wait_slots.acquire()
    after = request.headers.get("Last-Event-ID") or BEGINNING
    # In the context of this request, because the check asks for its cookie as long as the stream goes on.
    events = stream_with_context(stream_events(web, view, after, signed_in))
    response = Response(events, mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})
    response.call_on_close(web.wait_slots.release)
    return response


@blueprint.post("/jobs/<job_id>/cancel")
@needs(Role.OPERATOR)
def cancel(job_id: str) -> Response:
    """Stop a job."""
    web, view = services(), _find(job_id)
    if not view.row.status.is_terminal:
        stop_job(web.ledger, web.live, view.row.id)
        with audited(web.ledger, person(), "job.cancel", view.row.id):
            pass
    return see_other("job", job_id=job_id, notice="canceled")


@blueprint.post("/jobs/<job_id>/retry")
@needs(Role.OPERATOR)
def retry(job_id: str) -> Response:
    """Submit a job that did not succeed once more, for whom it was."""
    web, view = services(), _find(job_id)
    accepted = accept_once(web.admission, form_request(view.row.tenant), lambda: retry_of(web, view))
    with audited(web.ledger, person(), "job.retry", view.row.id, after={"job": accepted.job_id}) as change:
        change.is_done = not accepted.is_new
    return see_other("job", job_id=accepted.job_id)


def _find(job_id: str) -> JobView:
    with services().ledger.reading() as session:
        row = get_job(session, job_id)
    if row is None:
        raise NotFoundError(f"there is no job {job_id}")
    return find_job(services(), row.tenant, job_id)


def _context(job_id: str) -> Context:
    view = _find(job_id)
    shown: Any = job_json(view)
    with services().ledger.reading() as session:
        attempts = [attempt_json(row) for row in list_attempts(session, job_id)]
        decided = list_decisions(session, PageRequest(limit=5), job_id=job_id).rows
        moves = list_migrations(session, job_id=job_id, limit=5)
    age_ms = int((datetime.now(UTC) - view.row.created_at).total_seconds() * 1000)
    return {
        "job": shown,
        "tenant": view.row.tenant,
        "has_ended": view.row.status.is_terminal,
        "timeline": timeline(shown["timings_ms"], age_ms),
        "attempts": attempts,
        "decisions": decided,
        "migrations": moves,
        "time_json": time_json,
    }


def _text(view: JobView) -> str:
    """What a page without scripts shows of the output."""
    if view.row.status.is_terminal:
        return view.row.output or ""
    try:
        return "".join(token.text for token in services().live.jobs.tokens(view.row.id))
    except UnavailableError:
        return ""


def _prompt(view: JobView) -> str:
    row = view.row
    if row.messages is not None:
        return "\n\n".join(f"{each['role']}: {each['content']}" for each in row.messages)
    return row.prompt if row.prompt is not None else f"{row.prompt_tokens} token ids"


def _curl(view: JobView) -> str:
    row = view.row
    asked: dict[str, object]
    if row.messages is not None:
        asked = {"messages": row.messages}
    else:
        asked = {"prompt_ids": row.prompt_ids} if row.prompt is None else {"prompt": row.prompt}
    # A zero is said: the model's own setting may be another.
    params = {name: value for name, value in row.params.items() if value not in (None, []) and value is not False}
    body = json.dumps({"model": row.model, "input": asked, "params": params}, ensure_ascii=False)
    return (
        f"curl {request.host_url}api/v1/jobs \\\n  -H 'Content-Type: application/json' \\\n"
        f'  -H "Authorization: Bearer $SLLM_API_KEY" \\\n  -d {shlex.quote(body)}'
    )


def _command(view: JobView) -> str | None:
    """How the command line asks for it; None for what it cannot say."""
    row, prompt, flags = view.row, view.row.prompt, list[str]()
    if row.messages is not None and [each["role"] for each in row.messages] == ["user"]:
        prompt, flags = str(row.messages[0]["content"]), ["--chat"]
    # A lone dash is what comes by standard input.
    if prompt is None or prompt == "-":
        return None
    for name in ("max_tokens", "temperature", "top_p", "top_k", "seed"):
        flags += [f"--{name.replace('_', '-')}", str(row.params[name])]
    flags += [f"--stop={text}" for text in cast("list[str]", row.params["stop"])]
    return shlex.join(["sllm", "run", *flags, "--", row.model, prompt])
