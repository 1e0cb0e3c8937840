"""`/healthz` and `/readyz`: whether the process lives, and whether it can do its work."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.operations import list_operations
from sllm_tasks.ledger.pages import PageRequest
from webapp.services import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def get_health() -> Response:
    """Say that the process answers."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def get_readiness() -> Response:
    """Say that ledger and live state answer; 503 otherwise."""
    with services().ledger.reading() as session:
        list_operations(session, PageRequest(limit=1))
    services().live.ping()
    return jsonify({"status": "ready"})
