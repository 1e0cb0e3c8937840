"""Failed jobs by their errors, and submitting those of one error again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from flask import Response, render_template, request

from sllm_tasks.errors import ErrorCode, NotFoundError, SllmError, UnavailableError
from sllm_tasks.ledger.idempotency import RequestKey
from sllm_tasks.ledger.job_failures import failed_jobs, failure_groups
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.repeats import KeyedRequest
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.pages import Context, page
from webapp.audited import audited
from webapp.job_intake import accept_once
from webapp.job_retry import retry_of
from webapp.job_views import JobView
from webapp.outgoing import time_json
from webapp.services import services

#: What failed before is history.
_LOOK_BACK: Final = timedelta(days=7)
#: One request submits so many at most; the next one finds the rest.
_MAX_RETRIED: Final = 200
#: Where it is remembered which jobs were submitted again.
_RETRIED: Final = "POST /admin/failed/retry"


@blueprint.get("/failed")
@needs(Role.VIEWER)
def failed() -> Response:
    """Group failed jobs by error and model."""
    return page("failed", _context)


@blueprint.get("/failed/retry")
@needs(Role.OPERATOR)
def ask_retry_failed() -> Response:
    """Say what retrying a group would do."""
    code, model = _group()
    rows = _rows(code, model)
    effects = (
        f"{len(rows)} jobs of {model} that failed with {code} are submitted again, each as a new job of its tenant.",
        "A job that was submitted again from here within a day is not submitted twice.",
    )
    title = f"Retry {len(rows)} jobs?"
    return Response(render_template("admin/confirm.html", title=title, effects=effects, verb="Retry them"))


@blueprint.post("/failed/retry")
@needs(Role.OPERATOR)
def retry_failed() -> Response:
    """Submit the jobs of a group again, as far as that is possible."""
    code, model = _group()
    made, refused = 0, 0
    for row in _rows(code, model):
        try:
            made += _retry(row)
        except UnavailableError:
            raise
        except SllmError:
            refused += 1
    after = {"retried": made, "refused": refused}
    with audited(services().ledger, person(), "job.retry_failed", f"{model}: {code}"[:255], after=after):
        pass
    return see_other("jobs", q=f"model:{model}", notice="retried")


def _retry(row: JobRow) -> bool:
    web = services()
    # The key is the job's, so that a group that is retried twice is not run twice.
    key = RequestKey(tenant=row.tenant, route=_RETRIED, key=row.id)
    request_again = KeyedRequest(key=key, fingerprint=bytes(32))
    return accept_once(web.admission, request_again, lambda: retry_of(web, JobView(row, None))).is_new


def _group() -> tuple[ErrorCode, str]:
    code = request.args.get("code", "")
    if code not in set(ErrorCode):
        raise NotFoundError(f"there is no error {code!r}")
    return ErrorCode(code), request.args.get("model", "")


def _rows(code: ErrorCode, model: str) -> list[JobRow]:
    since = datetime.now(UTC) - _LOOK_BACK
    with services().ledger.reading() as session:
        return failed_jobs(session, code=code, model=model, since=since, limit=_MAX_RETRIED, retried=_RETRIED)


def _context() -> Context:
    with services().ledger.reading() as session:
        groups = failure_groups(session, since=datetime.now(UTC) - _LOOK_BACK)
    return {"groups": groups, "days": _LOOK_BACK.days, "time_json": time_json}
