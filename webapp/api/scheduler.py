"""`/api/v1/scheduler`: what the router would do, and why."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.auth import requires
from webapp.incoming import read_body
from webapp.schemas.scheduler import ExplainRequest
from webapp.services import services

blueprint = Blueprint("scheduler", __name__, url_prefix="/api/v1/scheduler")


@blueprint.post("/explain")
@requires(Scope.ADMIN_READ)
def explain() -> Response:
    """Price every option for a job that would come now; nothing is decided."""
    body = read_body(ExplainRequest)
    return jsonify(services().explainer.explain(body.model, body.prompt_tokens))
