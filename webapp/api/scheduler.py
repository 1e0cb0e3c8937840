"""`/api/v1/scheduler`: what the router would do, what it has done, and why."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.decisions import list_decisions
from sllm_tasks.ledger.keys import Scope
from webapp.admin_json import decision_json
from webapp.auth import requires
from webapp.incoming import page_request, read_body, read_query
from webapp.outgoing import list_json
from webapp.schemas.scheduler import DecisionsQuery, ExplainRequest
from webapp.services import services

blueprint = Blueprint("scheduler", __name__, url_prefix="/api/v1/scheduler")


@blueprint.post("/explain")
@requires(Scope.ADMIN_READ)
def explain() -> Response:
    """Price every option for a job that would come now; nothing is decided."""
    body = read_body(ExplainRequest)
    return jsonify(services().explainer.explain(body.model, body.prompt_tokens))


@blueprint.get("/decisions")
@requires(Scope.ADMIN_READ)
def get_decisions() -> Response:
    """List what the router chose, what else it could have, when it expected first tokens and when they came."""
    query = read_query(DecisionsQuery)
    with services().ledger.reading() as session:
        page = list_decisions(session, page_request(query), job_id=query.job, model=query.model)
        found = [decision_json(row) for row in page.rows]
    return jsonify(list_json(found, has_more=page.has_more))
